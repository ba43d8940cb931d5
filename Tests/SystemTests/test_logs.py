"""Logs: one JSON object a line, levels and subsystems, the access log, and no secrets."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import threading

import pytest

from peer import agent as agents
from peer import http1
from peer.http1 import request, response, wait_until
from programs import BIN, SLOW, address_of, metric
from test_tcp_forward import TcpTunnel

once = pytest.mark.parametrize("transport", ["direct"])
DURATION = r"[0-9.]+(ns|µs|us|ms|s|m|h)[0-9.a-zµ]*"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
VALID = f"00-{TRACE}-00f067aa0ba902b7-01"


def access_lines(node, **fields):
    return [line for line in node.logged("^request$", subsystem="proxy.access") if fields.items() <= line["request"].items()]


def test_access_log(node, tunnel, host, endpoint, transport):
    recorder = agents.Recorder(lambda seen: response(201, "Created", body=b"x"))
    tunnel(node, recorder)
    request(node.proxy, "POST", "/the/path?secret=1", host=host, body=b"abc", headers=[("X-Mine", "1")])
    line = wait_until(lambda: access_lines(node, host=host, path="/the/path"), what="the access log line")[0]
    assert {"proto": "HTTP/1.1", "method": "POST", "host": host, "status": 201}.items() <= line["request"].items()
    assert re.fullmatch(DURATION, line["request"]["duration"]) and re.fullmatch(DURATION, line["ttfb"])
    assert {"client_addr": "127.0.0.1", "endpoint-id": endpoint, "bytes_in": 3, "bytes_out": 1, "outcome": "completed"}.items() <= line.items()
    assert line["node-id"] and ("to-worker" in line or line["transport"] == transport and line["tunnel"] > 0)
    (seen,) = recorder.requests
    assert re.fullmatch("00-([0-9a-f]{32})-[0-9a-f]{16}-01", seen.get("traceparent"))[1] == line["trace_id"] == line["request_id"] == seen.get("x-request-id")
    assert line["level"] == "info" and "secret=1" not in json.dumps(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", line["ts"])


def test_what_a_request_is_known_by(node, tunnel, host):
    """Ids that are sound go on as they came, others are replaced, and tracestate goes with its traceparent."""
    recorder = agents.Recorder()
    tunnel(node, recorder)
    request(node.proxy, target="/kept", host=host, headers=[("traceparent", VALID), ("tracestate", "a=b"), ("X-Request-Id", "mine-1")])
    request(node.proxy, target="/made", host=host, headers=[("traceparent", VALID.upper()), ("tracestate", "a=b"), ("X-Request-Id", "not one")])
    kept, made = recorder.requests
    assert [kept.all(name) for name in ("traceparent", "tracestate", "x-request-id")] == [[VALID], ["a=b"], ["mine-1"]]
    assert made.all("traceparent") != [VALID.upper()] and len(made.all("traceparent")) == 1 and not made.has("tracestate")
    assert made.all("x-request-id") == [made.get("traceparent")[3:35]]
    for path, expected in (("/kept", (TRACE, "mine-1")), ("/made", (made.get("x-request-id"),) * 2)):
        line = wait_until(lambda: access_lines(node, host=host, path=path), what="the line")[0]
        assert (line["trace_id"], line["request_id"]) == expected


def test_a_client_that_left(node, tunnel, host):
    """It got no answer: the line says so."""
    arrived = threading.Event()

    async def never(seen):
        arrived.set()
        await asyncio.Event().wait()
    tunnel(node, agents.Recorder(never))
    with http1.Connection(node.proxy) as client:
        client.send(f"GET /left HTTP/1.1\r\nHost: {host}\r\n\r\n")
        assert arrived.wait(10 * SLOW)
        client.reset()
    line = wait_until(lambda: access_lines(node, host=host, path="/left"), what="the line")[0]
    assert (line["outcome"], line["request"]["status"], line["level"]) == ("client", 499, "info") and "ttfb" not in line


def test_tcp_connections_are_logged(node, tunnel, endpoint):
    tunnel(node, agents.echo)
    client = TcpTunnel(node, endpoint)
    client.send(b"hello")
    assert client.read_exactly(5) == b"hello"
    client.connection.reset()
    line = wait_until(lambda: node.logged("^connection$", subsystem="proxy.access", **{"endpoint-id": endpoint}), what="the line")[0]
    assert {"client_addr": "127.0.0.1", "bytes_in": 5, "bytes_out": 5, "outcome": "client"}.items() <= line.items() and "status" not in line
    assert re.fullmatch(DURATION, line["duration"])
    assert TcpTunnel(node, f"{endpoint}-none").answer.status == 502
    line = wait_until(lambda: node.logged("^connection$", **{"endpoint-id": f"{endpoint}-none"}), what="the line")[0]
    assert (line["outcome"], line["status"], line["level"]) == ("gateway", 502, "warn")


@once
def test_combined_format_and_sampling(new_node, tunnel, host, transport):
    """Of a share of nothing only what failed is logged, here in Apache's format, and nothing breaks out of a line. Headers stay as they are
    without traces."""
    node = new_node(arguments=["--proxy.access-log.format", "combined", "--proxy.access-log.sample", "0", "--proxy.trace.disable"])
    recorder = agents.Recorder(lambda seen: response(503 if seen.target == "/fails" else 200, "Some", body=b"12345"))
    tunnel(node, recorder)
    headers = [("Referer", "https://e/?a"), ("User-Agent", 'x" 200 5 "y'), ("traceparent", "wrong"), ("tracestate", "a=b")]
    for target in ("/", "/fails"):
        request(node.proxy, target=target, host=host, headers=headers)
    lines = wait_until(lambda: [text for parsed, text in node.lines if parsed is None], what="the line")
    (line,) = lines
    assert re.fullmatch(r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET /fails HTTP/1\.1" 503 5 "https://e/\?a" "x\\" 200 5 \\"y"', line), line
    assert recorder.requests[0].all("traceparent") == ["wrong"] and recorder.requests[0].has("tracestate") and not recorder.requests[0].has("x-request-id")
    with node.condition:
        node.lines = [pair for pair in node.lines if pair[1] != line]      # all others are JSON


def test_access_log_of_errors(node, host):
    request(node.proxy, target="/fails-502", host=host)
    line = wait_until(lambda: access_lines(node, host=host, path="/fails-502"), what="the line")[0]
    assert line["level"] == "warn" and line["request"]["status"] == 502


def test_access_log_headers(new_node, tunnel, host):
    node = new_node(arguments=["--proxy.access-log.request-headers.block-list", "authorization,cookie", "--proxy.access-log.response-headers.allow-list", "x-shown"])
    tunnel(node, agents.Recorder(lambda seen: response(headers=[("X-Shown", "yes"), ("X-Hidden", "no")], body=b"x")))
    request(node.proxy, host=host, headers=[("Authorization", "Bearer planted"), ("Cookie", "planted"), ("X-Kept", "kept")])
    line = wait_until(lambda: access_lines(node, status=200), what="the line")[0]
    assert "planted" not in node.log and "kept" in json.dumps(line["request"]["request_headers"])
    assert "yes" in json.dumps(line["request"]["response_headers"]) and "no" not in json.dumps(list(line["request"]["response_headers"].values()))


def test_access_log_can_be_disabled(new_node, tunnel, host):
    node = new_node(arguments=["--proxy.access-log.disable"])
    tunnel(node)
    request(node.proxy, host=host)
    assert node.stop() == 0
    assert not access_lines(node)


def proxy_of_quiet(node):
    """The proxy's address of a node that does not log it, asked over its control socket; None while it is not ready."""
    found = subprocess.run([BIN / "piko", "server", "info", "--server.control-socket", node.control_socket], capture_output=True, text=True, timeout=20 * SLOW)
    if found.returncode != 0 or "ready: true" not in found.stdout:
        return None
    return address_of(re.search(r'name: proxy\s+address: "([^"]+)"', found.stdout)[1])


def test_level_and_subsystems(new_node):
    """At level error an ordinary request leaves no line; a subsystem that is named logs all the same, and only it."""
    quiet = new_node(arguments=["--log.level", "error"], wait=False)
    loud = new_node(arguments=["--log.level", "error", "--log.subsystems", "proxy.access"], wait=False)
    for node in (quiet, loud):
        address = wait_until(lambda: proxy_of_quiet(node), 20 * SLOW, node.tail)
        assert request(address, host="nobody.example.com").status == 502
    assert quiet.stop() == 0 and loud.stop() == 0
    assert quiet.lines == [], quiet.log
    assert [parsed["subsystem"] for parsed, _ in loud.lines] == ["proxy.access"], loud.log


def test_no_secret_at_debug(node, tunnel, host, endpoint):
    """Planted secrets are in no log line at any level, nor in a command line."""
    tunnel(node, headers=[("Authorization", "Bearer planted-token-1"), ("x-piko-authorization", "Bearer planted-token-2")])
    request(node.proxy, host=host, headers=[("x-piko-authorization", "Bearer planted-token-3"), ("Authorization", "Bearer planted-token-4")])
    wait_until(lambda: access_lines(node, host=host), what="the line")
    for number in (1, 2, 3):
        assert f"planted-token-{number}" not in node.log


def test_worker_lines_are_whole(node, tunnel, host):
    """Lines of several processes never mix, long fields are cut and marked: every line of the shared node is JSON and short."""
    tunnel(node)
    threads = [threading.Thread(target=lambda: [request(node.proxy, target="/" + "l" * 3000, host=host) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for parsed, text in list(node.lines):
        assert isinstance(parsed, dict), text
        assert len(text.encode()) <= 4096


def test_full_pipe_blocks_nobody(new_node, tunnel, host):
    """Nobody reads stderr: lines are dropped, requests go on."""
    import fcntl
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, 1031, 4096)        # F_SETPIPE_SZ
    from programs import Node
    import tempfile
    folder = tempfile.TemporaryDirectory()
    ports = []
    import socket
    for _ in range(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    process = subprocess.Popen([BIN / "piko", "server", "--proxy.bind-addr", f"127.0.0.1:{ports[0]}", "--upstream.bind-addr", f"127.0.0.1:{ports[1]}",
                                "--admin.bind-addr", f"127.0.0.1:{ports[2]}", "--cluster.gossip.bind-addr", "127.0.0.1:0", "--server.workers", "2", "--log.level", "debug",
                                "--server.control-socket", f"{folder.name}/c.sock"], stderr=write_end, stdin=subprocess.DEVNULL)
    os.close(write_end)
    try:
        class Plain:
            proxy, upstream, admin = [("127.0.0.1", port) for port in ports]

        def ready():
            try:
                return request(Plain.admin, target="/ready", host="x").status == 200
            except OSError:
                return False
        wait_until(ready, 20 * SLOW, "ready")
        tunnel(Plain)
        before = metric(Plain, "piko_log_lines_dropped_total")
        for _ in range(300):
            assert request(Plain.proxy, host=host).status == 200
        assert metric(Plain, "piko_log_lines_dropped_total") - before >= 250
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20 * SLOW) == 0
        os.close(read_end)
        folder.cleanup()


def test_human_format_on_a_terminal():
    """A person at a terminal gets lines to read, not JSON."""
    leader, follower = pty.openpty()
    process = subprocess.Popen([BIN / "piko", "agent", "http", "e", "1", "--connect.url", "http://127.0.0.1:1"], stderr=follower, stdout=follower, stdin=subprocess.DEVNULL)
    os.close(follower)
    data = b""
    try:
        while data.count(b"\n") < 1:
            data += os.read(leader, 4096)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20 * SLOW)
        os.close(leader)
    assert not data.lstrip().startswith(b"{")
