"""SIGHUP: the agent reads its file again, and touches only what changed."""

import asyncio
import os
import pty
import signal
import socket
import subprocess
import threading

import pytest

from agent_life import Load, agent_file, listeners, mirror  # noqa: F401
from peer import agent as agents
from peer import http1
from peer.http1 import request, response, wait_until
from programs import BIN, ENVIRONMENT, SLOW


class Held:
    """A service whose answers wait until they are released."""

    def __init__(self):
        self.events = []

    async def __call__(self, seen):
        event = asyncio.Event()
        self.events.append(event)
        await event.wait()
        return response(body=b"in time")

    def release(self, peers):
        async def set_all():
            for event in self.events:
                event.set()
        peers.call(set_all())


class Asking:
    """A request in a thread."""

    def __init__(self, address, host):
        self.answer = None

        def ask():
            try:
                self.answer = request(address, host=host, timeout=60 * SLOW, headers=[("Connection", "close")])
            except (OSError, EOFError) as error:
                self.answer = error
        self.thread = threading.Thread(target=ask)
        self.thread.start()

    def result(self):
        self.thread.join(60 * SLOW)
        return self.answer


def test_only_what_changed_is_touched(node, agent_file, service, peers, endpoint):
    """Kept: the same session and the running request. Removed: finishes what runs. Added: connects."""
    keep, leave, come = f"{endpoint}-k", f"{endpoint}-l", f"{endpoint}-c"
    held = Held()
    port = service(agents.Recorder(held)).port
    quick = service().port
    agent = agent_file(node.upstream, listeners((keep, port), (leave, port)))
    for name in (keep, leave):
        agent.wait_log("^connected$", **{"endpoint-id": name})
    kept = Asking(node.proxy, f"{keep}.x.y")
    left = Asking(node.proxy, f"{leave}.x.y")
    wait_until(lambda: len(held.events) == 2, 20 * SLOW, "both requests at the service")
    line = agent.reload(listeners((come, quick), (keep, port)))
    assert (line["listeners_kept"], line["listeners_changed"], line["listeners_added"], line["listeners_removed"]) == (1, 0, 1, 1)
    agent.wait_log("^connected$", **{"endpoint-id": come})
    assert request(node.proxy, host=f"{come}.x.y").status == 200
    wait_until(lambda: request(node.proxy, host=f"{leave}.x.y").status == 502, 20 * SLOW, "no route to what was removed")
    assert not agent.logged("^listener ended$", **{"endpoint-id": leave}), "it has a request to finish"
    held.release(peers)
    assert kept.result().body == b"in time" and left.result().body == b"in time"
    agent.wait_log("^listener ended$", **{"endpoint-id": leave})
    assert len(agent.logged("^connected$", **{"endpoint-id": keep})) == 1, "the session was not touched"
    assert not agent.logged("connection to server lost")


def test_kept_session_sees_nothing(python_server, peers, agent_file, service, endpoint):
    server = python_server()
    port = service().port
    agent = agent_file(server.upstream_address, listeners((endpoint, port)))
    tunnel = peers.call(server.tunnel(endpoint))
    for number in range(5):
        agent.reload(listeners((f"{endpoint}-{number}", port), (endpoint, port)))
    assert server.tunnels[endpoint] == [tunnel] and not tunnel.session.ended
    assert tunnel.session.go_away_received is None


def test_changed_makes_before_it_breaks(python_server, peers, agent_file, service, endpoint):
    """The old session hears go-away only when the new one is there, though that is refused at first."""
    server = python_server()
    agent = agent_file(server.upstream_address, listeners((endpoint, service().port)))
    first = peers.call(server.tunnel(endpoint))
    server.refusals = [(503, "No", b"{}")] * 3
    agent.reload(listeners((endpoint, service(agents.Recorder(body=b"second")).port)))
    second = peers.call(server.tunnel(endpoint, but=first), 20 * SLOW)
    assert not server.refusals and first.session.go_away_received is None or second.session is not None
    peers.call(asyncio.wait_for(first.session.go_away_event.wait(), 20 * SLOW))
    wait_until(lambda: first.session.ended, 20 * SLOW, "the end of the old session")
    assert request(server.proxy_address, host=f"{endpoint}.x.y", headers=[("Connection", "close")]).body == b"second"


def test_wait_for_the_changed_one_is_bounded(python_server, peers, agent_file, service, endpoint):
    server = python_server()
    agent = agent_file(server.upstream_address, listeners((endpoint, service().port)), "--connect.timeout", "700ms")
    first = peers.call(server.tunnel(endpoint))
    server.refusals = [(503, "No", b"{}")] * 1000
    agent.reload(listeners((endpoint, service().port)))
    wait_until(lambda: len(server.refusals) < 999, 20 * SLOW, "attempts")
    peers.call(asyncio.wait_for(first.session.go_away_event.wait(), 20 * SLOW))
    agent.wait_line("not connected yet")
    server.refusals.clear()
    peers.call(server.tunnel(endpoint, but=first), 30 * SLOW)


def test_reloads_under_load(node, agent_file, service, endpoint):
    """One endpoint that changes in each reload, one that stays: no request fails."""
    stays, changes = f"{endpoint}-s", f"{endpoint}-c"
    ports = [service(agents.Recorder(mirror)).port for _ in range(2)]
    agent = agent_file(node.upstream, listeners((stays, ports[0]), (changes, ports[0])))
    for name in (stays, changes):
        agent.wait_log("^connected$", **{"endpoint-id": name})
    with Load(node.proxy, [f"{stays}.x.y", f"{changes}.x.y", f"{changes}.x.y"]) as load:
        for round in range(1, 9):
            mark = agent.mark()
            agent.reload(listeners((changes, ports[round % 2]), (stays, ports[0])))
            agent.wait_log("^connected$", after=mark, **{"endpoint-id": changes})
            load.more(60)
    assert len(agent.logged("^connected$", **{"endpoint-id": stays})) == 1


def test_another_server_moves_all(python_server, peers, agent_file, service, endpoint):
    first, second = python_server(), python_server()
    text = listeners((endpoint, service().port))

    def url(server):
        return f"connect:\n  url: http://127.0.0.1:{server.upstream_address[1]}\n"
    agent = agent_file(None, text + url(first))
    old = peers.call(first.tunnel(endpoint))
    agent.reload(text + url(second))
    peers.call(second.tunnel(endpoint), 20 * SLOW)
    wait_until(lambda: old.session.ended, 20 * SLOW, "the end of the old session")


def test_drain_timeout_cuts(node, agent_file, service, peers, endpoint):
    held = Held()
    port = service(agents.Recorder(held)).port
    other = (f"{endpoint}-o", port)
    more = {"reload": "{drain_timeout: 300ms}"}
    agent = agent_file(node.upstream, listeners((endpoint, port), other, **more))
    agent.wait_log("^connected$", **{"endpoint-id": endpoint})
    asking = Asking(node.proxy, f"{endpoint}.x.y")
    wait_until(lambda: held.events, 20 * SLOW, "the request at the service")
    agent.reload(listeners(other, **more))
    agent.wait_log("^listener ended$", **{"endpoint-id": endpoint})
    answer = asking.result()
    assert isinstance(answer, (OSError, EOFError)) or answer.status == 502
    held.release(peers)


def test_log_settings_change(node, agent_file, service, endpoint, host):
    port = service().port
    agent = agent_file(node.upstream, listeners((endpoint, port)))
    agent.wait_log("^connected$")
    request(node.proxy, target="/one", host=host)
    assert "path" in agent.wait_log("^request$")["request"]
    agent.reload(listeners((endpoint, port, "access_log: {disable: true}")))
    request(node.proxy, target="/two", host=host)
    agent.reload(listeners((endpoint, port, "access_log: {request_headers: {allow_list: [X-Three]}}")))
    request(node.proxy, target="/three", host=host, headers=[("X-Three", "3")])
    line = wait_until(lambda: [one for one in agent.logged("^request$") if one["request"]["path"] == "/three"], 20 * SLOW, "the log line")[0]
    assert "3" in str(line["request"]["request_headers"])
    assert not [one for one in agent.logged("^request$") if one["request"]["path"] == "/two"]
    mark = agent.mark()
    agent.write(listeners((endpoint, port), log="{level: error}"))
    agent.signal(signal.SIGHUP)
    wait_until(lambda: agent.logged("received signal", after=mark), 20 * SLOW, "the signal")
    request(node.proxy, target="/four", host=host)
    agent.reload("nonsense", msg="reload failed")      # a line at error, and the end of the reload before
    assert not agent.logged("^request$", after=mark) and not agent.logged("^reloaded$", after=mark)
    assert len(agent.logged("^connected$")) == 1
    agent.expected_errors = ["reload failed"]


def metrics(port):
    return request(("127.0.0.1", port), target="/metrics", host="m", headers=[("Connection", "close")])


def test_metrics_port_changes(node, agent_file, service, endpoint, host):
    port = service().port

    def text(server):
        return listeners((endpoint, port), server=server)

    def listening(after):
        return int(agent.wait_line("^listening$", after=after)["addr"].rsplit(":", 1)[1])
    agent = agent_file(node.upstream, text("{enabled: false}"))
    agent.wait_log("^connected$")
    request(node.proxy, host=host)
    mark = agent.mark()
    agent.reload(text('{enabled: true, bind_addr: "127.0.0.1:0"}'))
    first = listening(mark)
    assert b'requests_total{status="200",method="GET",endpoint="%s"} 1' % endpoint.encode() in metrics(first).body
    agent.reload(text('{enabled: true, bind_addr: "127.0.0.1:0"}'))
    assert metrics(first).status == 200, "an address that did not change"
    mark = agent.mark()
    agent.reload(text('{enabled: true, bind_addr: "localhost:0"}'))
    second = listening(mark)
    assert metrics(second).status == 200
    wait_until(lambda: refused(first), 20 * SLOW, "the old port is closed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        line = agent.reload(text('{enabled: true, bind_addr: "127.0.0.1:%d"}' % taken.getsockname()[1]), msg="reload failed")
        assert "server.bind_addr" in line["err"] and "in use" in line["err"]
    assert metrics(second).status == 200, "a reload that failed changed nothing"
    agent.reload(text("{enabled: false}"))
    wait_until(lambda: refused(second), 20 * SLOW, "the port is closed")
    assert len(agent.logged("^connected$")) == 1


def refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
        return False
    except ConnectionRefusedError:
        return True


@pytest.mark.parametrize("text, words", [
    ("listeners: [", ["agent0.yaml"]),
    ("listeners:\n  - endpoint_id: a\n    adr: 1\n", ["adr", "addr"]),
    ("connect: {timeout: 1s}\n", ["no listeners"]),
    (None, ["No such file"]),
])
def test_wrong_files_change_nothing(node, agent_file, service, endpoint, host, text, words):
    agent = agent_file(node.upstream, listeners((endpoint, service().port)))
    agent.wait_log("^connected$")
    good = agent.path.read_text()
    if text is None:
        os.unlink(agent.path)
    line = agent.reload(text, msg="reload failed")
    assert line["level"] == "error"
    for word in words:
        assert word in line["err"], line
    assert request(node.proxy, host=host).status == 200
    assert agent.reload(good)["listeners_kept"] == 1
    assert len(agent.logged("^connected$")) == 1


def test_names_what_it_can_not_change(node, agent_file, service, endpoint):
    text = listeners((endpoint, service().port))
    agent = agent_file(node.upstream, text, "--grace-period", "9s")
    agent.wait_log("^connected$")
    agent.reload(text + "connect: {url: \"http://elsewhere:1\", timeout: 3s}\ngrace_period: 3s\nio_backend: auto\n")
    assert agent.wait_line("flags fix")["keys"] == ["connect.url", "grace_period"]
    mark = agent.mark()
    agent.reload(text + "connect: {url: \"http://elsewhere:1\", timeout: 4s}\ngrace_period: 3s\n")
    assert not agent.logged("flags fix", after=mark), "named when the file changes, not for ever"
    assert len(agent.logged("^connected$")) == 1


def test_backend_needs_a_restart(node, program, service, endpoint, tmp_path):
    path = tmp_path / "agent.yaml"
    text = listeners((endpoint, service().port))
    path.write_text(text + "io_backend: epoll\n")
    agent = program("agent", "start", "--config.path", path, "--connect.url", node.upstream_url)
    agent.wait_log("^connected$")
    path.write_text(text + "io_backend: auto\n")
    agent.send_signal(signal.SIGHUP)
    assert agent.wait_log("restart is needed")["keys"] == ["io_backend"]


def test_reload_without_a_file(node, real_agent, service, endpoint, host):
    agent = real_agent(node.upstream, "http", endpoint, service().port)
    agent.send_signal(signal.SIGHUP)
    assert agent.wait_log("^reloaded$")["listeners_kept"] == 1
    assert request(node.proxy, host=host).status == 200


def test_many_signals_are_as_one(node, agent_file, service, endpoint, host):
    agent = agent_file(node.upstream, listeners((endpoint, service().port)))
    agent.wait_log("^connected$")
    for _ in range(50):
        agent.signal(signal.SIGHUP)
    agent.wait_line("^reloaded$")
    assert request(node.proxy, host=host).status == 200
    assert len(agent.logged("^connected$")) == 1


def test_a_terminal_that_hangs_up_ends_it(service, endpoint):
    """SIGHUP is also what a terminal sends when it goes: then there is nobody left to run for."""
    main, other = pty.openpty()
    agent = subprocess.Popen([BIN / "piko", "agent", "http", endpoint, str(service().port), "--connect.url", "http://127.0.0.1:1"],
                             stdin=other, stdout=other, stderr=other, env=ENVIRONMENT, start_new_session=True,
                             preexec_fn=lambda: __import__("fcntl").ioctl(0, 0x540E, 0))     # TIOCSCTTY
    os.close(other)
    try:
        seen = b""
        while b"connect failed" not in seen:
            seen += os.read(main, 65536)
        os.close(main)
        assert agent.wait(20 * SLOW) == 0
    finally:
        if agent.poll() is None:
            agent.kill()
            agent.wait()
