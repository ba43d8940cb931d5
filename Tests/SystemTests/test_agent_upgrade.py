"""SIGUSR2: another process, from the binary that is there now, takes the agent's place, and nobody notices."""

import os
import shutil
import signal
import threading

import pytest

from agent_life import BIN, Load, agent_file, listeners, mirror  # noqa: F401
from peer import agent as agents
from peer import http1
from peer.http1 import request, wait_until
from programs import SLOW, Program, command_of, descendants, is_alive
from test_agent_reload import Asking, Held, metrics


@pytest.fixture
def binaries(tmp_path):
    """Programs of our own to replace: `piko` and `piko-agent` in a folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("piko", "piko-agent"):
        shutil.copy(BIN / name, folder / name)
    return folder


@pytest.fixture
def installed(binaries, agent_file):  # noqa: F811
    """A factory: an agent from that folder. By default `piko-agent` itself, not by way of `piko`."""
    started, made = [], []

    def make(upstream, text, *arguments, by="piko-agent", **options):
        def start(*words, **more):
            one = Program([binaries / by, *words], name="piko-agent", **more)
            started.append(one)
            return one
        made.append(agent_file(upstream, text, *arguments, command=start, **options))
        return made[-1]
    yield make
    for one in made:
        one.finish()
    for one in reversed(started):
        if one.process.poll() is None:
            assert one.stop() == 0, one.tail()
        else:
            one._finish()


def put(path, content, mode=0o755):
    """A new file in the place of one that may be running."""
    fresh = path.with_suffix(".new")
    if isinstance(content, bytes):
        fresh.write_bytes(content)
    else:
        shutil.copy(content, fresh)
    fresh.chmod(mode)
    os.rename(fresh, path)


def test_under_load(node, agent_file, service, peers, endpoint, host):  # noqa: F811
    """Three upgrades in a row while clients ask: no request fails, the long ones are answered by whom they came to."""
    held = Held()
    slow = f"{endpoint}-slow"
    agent = agent_file(node.upstream, listeners((endpoint, service(agents.Recorder(mirror)).port), (slow, service(agents.Recorder(held)).port)))
    for name in (endpoint, slow):
        agent.wait_log("^connected$", **{"endpoint-id": name})
    old, asked = [], []
    with Load(node.proxy, [host]) as load:
        for round in range(3):
            asked.append(Asking(node.proxy, f"{slow}.x.y"))
            wait_until(lambda: len(held.events) == round + 1, 20 * SLOW, "the long request at the service")
            old.append(agent.upgrade())
            load.more(60)
        assert all(is_alive(pid) for pid in old), "each has a request to finish"
        held.release(peers)
        assert [one.result().body for one in asked] == [b"in time"] * 3
        for pid in old:
            agent.wait_gone(pid)
        load.more(30)
    assert len(set(old)) == 3 and agent.pid not in old
    agent.finish()
    assert request(node.proxy, host=host).status == 502


def test_idle_clients_and_tcp_streams(node, agent_file, real_forward, service, peers, endpoint, host):  # noqa: F811
    """A client's idle connection serves its next request; a TCP stream goes on in the old process for as long as it likes."""
    raw = f"{endpoint}-tcp"
    port, echo = service().port, service(agents.echo).port
    agent = agent_file(node.upstream, listeners((endpoint, port), (raw, echo, "protocol: tcp")), "--grace-period", "500ms")
    for name in (endpoint, raw):
        agent.wait_log("^connected$", **{"endpoint-id": name})
    forward = real_forward(node.proxy, raw)
    with http1.Connection(node.proxy) as idle, http1.Connection(forward.address) as stream:
        assert idle.request(host=host).status == 200
        stream.send(b"before")
        assert stream.read_exactly(6) == b"before"
        old = agent.upgrade()
        assert idle.request(host=host).status == 200
        stream.send(b"after")
        assert stream.read_exactly(5) == b"after"
        mark = agent.mark()
        # The grace period counts from SIGTERM on, for a process that was replaced as for any.
        assert not agent.logged("cutting", after=mark)
        os.kill(old, signal.SIGTERM)
        agent.wait_gone(old)
        assert stream.ends(10 * SLOW)
    assert request(node.proxy, host=host).status == 200


def test_drain_timeout_bounds_the_old_process(node, agent_file, service, peers, endpoint, host):  # noqa: F811
    held = Held()
    agent = agent_file(node.upstream, listeners((endpoint, service(agents.Recorder(held)).port)), "--reload.drain-timeout", "300ms")
    agent.wait_log("^connected$")
    asking = Asking(node.proxy, host)
    wait_until(lambda: held.events, 20 * SLOW, "the request at the service")
    agent.wait_gone(agent.upgrade())
    # The request may have been sent again, to the new process.
    held.release(peers)
    asking.result()


def test_metrics_port_goes_along(node, agent_file, service, endpoint, host):  # noqa: F811
    """Same port (one that the kernel chose), always answered, by the new process in the end."""
    text = listeners((endpoint, service().port), server='{enabled: true, bind_addr: "127.0.0.1:0"}')
    agent = agent_file(node.upstream, text)
    agent.wait_log("^connected$")
    port = int(agent.wait_log("^listening$")["addr"].rsplit(":", 1)[1])
    assert request(node.proxy, host=host).status == 200
    wait_until(lambda: b"requests_total{" in metrics(port).body, 20 * SLOW, "the request is counted")
    failures, stopping = [], threading.Event()

    def scrape():
        while not stopping.is_set():
            try:
                if metrics(port).status != 200:
                    failures.append("status")
            except (OSError, EOFError) as error:
                failures.append(error)
    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        for _ in range(2):
            agent.wait_gone(agent.upgrade())
    finally:
        stopping.set()
        thread.join()
    assert not failures, failures
    assert b"requests_total{" not in metrics(port).body, "a new process counts from zero"


def test_new_file_is_read(node, agent_file, service, endpoint):  # noqa: F811
    """The new process reads the file as it is, metrics' address included."""
    port = service().port
    agent = agent_file(node.upstream, listeners((f"{endpoint}-a", port), server='{enabled: true, bind_addr: "127.0.0.1:0"}'))
    agent.wait_log("^connected$")
    mark = agent.mark()
    agent.write(listeners((f"{endpoint}-b", port), server='{enabled: true, bind_addr: "localhost:0"}'))
    agent.wait_gone(agent.upgrade())
    assert request(node.proxy, host=f"{endpoint}-b.x.y").status == 200
    assert request(node.proxy, host=f"{endpoint}-a.x.y").status == 502
    assert metrics(int(agent.wait_line("^listening$", after=mark)["addr"].rsplit(":", 1)[1])).status == 200


def test_server_away(agent_file, service, endpoint):  # noqa: F811
    """An agent that is connected to nothing can be upgraded, too."""
    agent = agent_file(("127.0.0.1", 1), listeners((endpoint, service().port)))
    agent.wait_log("connect failed")
    agent.wait_gone(agent.upgrade())


def test_reload_during_an_upgrade_reaches_the_new_process(python_server, peers, agent_file, service, endpoint):  # noqa: F811
    server = python_server()
    port = service().port
    more = {"server": '{enabled: true, bind_addr: "127.0.0.1:0"}'}
    agent = agent_file(server.upstream_address, listeners((endpoint, port), **more))
    first = peers.call(server.tunnel(endpoint))
    server.refusals = [(503, "No", b"{}")] * 4
    mark = agent.mark()
    agent.signal(signal.SIGUSR2)
    agent.wait_line("new process started", after=mark)
    agent.write(listeners((endpoint, port), (f"{endpoint}-late", port), **more))
    agent.signal(signal.SIGHUP)
    agent.signal(signal.SIGUSR2)
    assert "under way" in agent.wait_line("no effect", after=mark)["reason"]
    peers.call(server.tunnel(f"{endpoint}-late"), 30 * SLOW)
    agent.pid = agent.wait_line("^handing over$", after=mark)["pid"]
    agent.pids.append(agent.pid)
    agent.family.add(agent.pid)
    assert agent.wait_line("^reloaded$", after=mark)["listeners_added"] == 1
    wait_until(lambda: first.session.ended, 20 * SLOW, "the end of the old tunnel")
    agent.wait_gone(agent.program.pid)


def test_sigterm_during_an_upgrade_ends_both(python_server, peers, agent_file, service, endpoint):  # noqa: F811
    server = python_server()
    agent = agent_file(server.upstream_address, listeners((endpoint, service().port)))
    peers.call(server.tunnel(endpoint))
    server.refusals = [(503, "No", b"{}")] * 1000
    agent.signal(signal.SIGUSR2)
    child = agent.wait_line("new process started")["pid"]
    agent.family.add(child)
    agent.signal(signal.SIGTERM)
    agent.wait_gone(agent.pid)
    wait_until(lambda: not is_alive(child), 20 * SLOW, "the end of the new process")


def test_by_the_way_it_was_started(node, installed, binaries, tmp_path, service, endpoint):
    """`piko agent` through a symbolic link that an installer turns to another folder: the new process is from there."""
    other = tmp_path / "other"
    shutil.copytree(binaries, other)
    link = tmp_path / "current"
    link.symlink_to(binaries)
    agent = installed(node.upstream, listeners((endpoint, service().port)), by=link / "piko")
    agent.wait_log("^connected$")
    assert os.readlink(f"/proc/{agent.pid}/exe") == str(binaries / "piko-agent")
    fresh = tmp_path / "fresh"
    fresh.symlink_to(other)
    os.rename(fresh, link)
    shutil.rmtree(binaries)
    old = agent.upgrade()
    assert os.readlink(f"/proc/{agent.pid}/exe") == str(other / "piko-agent")
    agent.wait_gone(old)


FAILURES = {
    "missing": (lambda path: os.unlink(path), "No such file"),
    "not executable": (lambda path: put(path, b"#!/bin/sh\nexit 0\n", 0o644), "Permission denied"),
    "of another format": (lambda path: put(path, b"\x7fELF no such thing" + bytes(100)), "Exec format"),
    "empty": (lambda path: put(path, b""), "Exec format"),
    "exits": (lambda path: put(path, b"#!/bin/sh\nexit 3\n"), "exit code 3"),
    "is killed": (lambda path: put(path, b"#!/bin/sh\nkill -9 $$\n"), "signal 9"),
    "hangs": (lambda path: put(path, b"#!/bin/sh\nexec sleep 600\n"), "said nothing"),
    "hangs and ignores signals": (lambda path: put(path, b"#!/bin/sh\ntrap '' TERM INT HUP\nwhile :; do sleep 600; done\n"), "said nothing"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_failures_change_nothing(node, installed, binaries, service, endpoint, host, transport, failure):
    if transport == "mux":
        pytest.skip("the same for both transports")
    agent = installed(node.upstream, listeners((endpoint, service(agents.Recorder(mirror)).port)), "--connect.timeout", "500ms")
    agent.wait_log("^connected$")
    breaks, words = FAILURES[failure]
    breaks(binaries / "piko-agent")
    with Load(node.proxy, [host], clients=2) as load:
        mark = agent.mark()
        agent.signal(signal.SIGUSR2)
        line = agent.wait_line("upgrade failed, nothing changed", after=mark)
        assert line["level"] == "error" and words in line["err"], line
        load.more(20)
    wait_until(lambda: not descendants(agent.pid), 20 * SLOW, lambda: f"no child is left: {[command_of(pid) for pid in descendants(agent.pid)]}")
    put(binaries / "piko-agent", BIN / "piko-agent")
    old = agent.upgrade()
    agent.wait_gone(old)
    assert request(node.proxy, "POST", host=host, body=b"x").body == b"x"


def test_wrong_configuration_of_the_new_process(node, agent_file, service, endpoint, host):  # noqa: F811
    """What the new process says is in the old one's log."""
    agent = agent_file(node.upstream, listeners((endpoint, service().port)))
    agent.wait_log("^connected$")
    agent.write("listeners: []\n")
    agent.signal(signal.SIGUSR2)
    assert "no listeners configured" in agent.wait_line("upgrade failed")["err"]
    assert request(node.proxy, host=host).status == 200


def test_new_process_that_can_not_connect(python_server, peers, agent_file, service, endpoint):  # noqa: F811
    """It has the time of one attempt and some seconds; then the old one, which is connected, stays."""
    server = python_server()
    agent = agent_file(server.upstream_address, listeners((endpoint, service().port)), "--connect.timeout", "300ms")
    tunnel = peers.call(server.tunnel(endpoint))
    server.refusals = [(401, "No", b"{}")] * 1000
    agent.signal(signal.SIGUSR2)
    child = agent.wait_line("new process started")["pid"]
    assert "not connected" in agent.wait_line("upgrade failed")["err"]
    wait_until(lambda: not is_alive(child), 20 * SLOW, "the end of the new process")
    assert not tunnel.session.ended and tunnel.session.go_away_received is None
    server.refusals.clear()
    agent.expected_errors = [""]


def test_crash_of_the_old_process_frees_its_place(python_server, peers, agent_file, service, endpoint):  # noqa: F811
    """kill -9 of the old one while the new one is not ready: the new one carries on."""
    server = python_server()
    agent = agent_file(server.upstream_address, listeners((endpoint, service().port)))
    first = peers.call(server.tunnel(endpoint))
    server.refusals = [(503, "No", b"{}")] * 4
    agent.signal(signal.SIGUSR2)
    child = agent.wait_line("new process started")["pid"]
    agent.family.add(child)
    agent.pids.append(child)
    os.kill(agent.pid, signal.SIGKILL)
    agent.program.process.wait(10)
    agent.pid = child
    agent.wait_line("^took over$")
    peers.call(server.tunnel(endpoint, but=first), 30 * SLOW)
    assert request(server.proxy_address, host=f"{endpoint}.x.y", headers=[("Connection", "close")]).status == 200


def test_note_without_its_sockets_is_ignored(node, program, service, endpoint):
    """The variable in a shell's environment by accident, without what it speaks of."""
    one = program("agent", "http", endpoint, service().port, "--connect.url", node.upstream_url,
                  environment={"PIKO_AGENT_HANDOVER": "1 1 1 :5000"})
    one.wait_log("^connected$")
