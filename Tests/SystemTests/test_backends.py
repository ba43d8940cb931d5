"""The choice of the I/O backend: what the machine refuses, what the log says."""

import subprocess
import tempfile

import pytest

from peer.http1 import request
from programs import BIN, ENVIRONMENT, SLOW, Node, deny_io_uring


def test_auto_falls_back_where_io_uring_is_refused(new_node, tunnel, host):
    """A container's seccomp profile refuses io_uring: epoll runs, and one line says so and why."""
    node = new_node(backend="auto", before_exec=deny_io_uring)
    lines = [text for _, text in node.lines if "epoll" in text]
    assert lines and any("io_uring" in text and "not permitted" in text for text in lines), node.tail()
    tunnel(node)
    assert request(node.proxy, host=host).status == 200


def test_forced_io_uring_is_an_error_where_refused():
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run([BIN / "piko", "server", "--io-backend", "io_uring", "--proxy.bind-addr", "127.0.0.1:0", "--upstream.bind-addr", "127.0.0.1:0", "--admin.bind-addr", "127.0.0.1:0", "--cluster.gossip.bind-addr", "127.0.0.1:0",
                              "--server.control-socket", f"{folder}/c.sock"], capture_output=True, text=True, timeout=30 * SLOW, env=ENVIRONMENT, preexec_fn=deny_io_uring)
    assert run.returncode == 1
    assert "io_uring" in run.stderr and "not permitted" in run.stderr


@pytest.mark.parametrize("command", ["agent", "forward"])
def test_forced_io_uring_in_agent_and_forward(command):
    words = ["agent", "http", "e", "1"] if command == "agent" else ["forward", "tcp", "127.0.0.1:0", "e"]
    run = subprocess.run([BIN / "piko", *words, "--io-backend", "io_uring", "--connect.url", "http://127.0.0.1:1"], capture_output=True, text=True, timeout=30 * SLOW, env=ENVIRONMENT,
                         preexec_fn=deny_io_uring)
    assert run.returncode == 1 and "io_uring" in run.stderr


def test_the_forced_backend_runs(shared_node, backend):
    assert any(backend in text for _, text in shared_node.lines)
