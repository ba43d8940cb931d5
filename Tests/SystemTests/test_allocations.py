"""A request on a kept connection costs the worker no allocation once everything is warm: counted by a library that is preloaded
into the release binaries (PIKO_RELEASE_BIN; a debug build allocates for its checks)."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

import programs
from peer import agent as agents
from peer import http1
from programs import command_of

HERE = Path(__file__).parent
COMPILER = shutil.which("clang") or shutil.which("cc")
RELEASE = os.environ.get("PIKO_RELEASE_BIN")
pytestmark = pytest.mark.skipif(not RELEASE, reason="PIKO_RELEASE_BIN names no release build")


@pytest.fixture(scope="session")
def counting(tmp_path_factory):
    """The environment that counts, and a function that reads a process's count."""
    if COMPILER is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("allocations")
    library = folder / "count.so"
    subprocess.run([COMPILER, "-O2", "-shared", "-fPIC", "-o", library, HERE / "tools" / "count_allocations.c"], check=True)

    def read(pid):
        return struct.unpack("<Q", (folder / str(pid)).read_bytes())[0]
    # A release build has its runtime inside, which can't find the program that prints a backtrace, and says so.
    return {"LD_PRELOAD": str(library), "PIKO_ALLOCATIONS": str(folder), "SWIFT_BACKTRACE": "enable=no"}, read


@pytest.mark.parametrize("method, body", [("GET", b""), ("POST", b"x" * 100)])
def test_kept_connection_allocates_nothing(new_node, real_agent, service, counting, endpoint, host, transport, method, body, monkeypatch):
    if transport == "mux" and method == "POST":
        pytest.skip("what may not be repeated takes a fresh stream of the session")
    monkeypatch.setattr(programs, "BIN", Path(RELEASE))
    environment, read = counting
    node = new_node(workers=1, arguments=["--proxy.access-log.disable"], environment=environment)
    real_agent(node.upstream, "http", endpoint, service(agents.Recorder(body=b"small")).port, "--access-log.disable")
    (worker,) = node.workers()
    assert "piko-worker" in command_of(worker)
    with http1.Connection(node.proxy) as client:
        for _ in range(300):
            assert client.request(method, host=host, body=body).status == 200
        before = read(worker)
        for _ in range(1_000):
            assert client.request(method, host=host, body=body).status == 200
        # Timers of the loop and of the session are not the request's; they take a few in seconds.
        assert read(worker) - before < 20, f"{(read(worker) - before) / 1000} allocations a request"
