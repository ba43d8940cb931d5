"""Our agent: in front of a service on our node, and against the independent Python server, which judges its yamux."""

import asyncio
import json
import random
import signal
import threading
import time

import pytest

from peer import agent as agents
from peer import http1, websocket, yamux
from peer.http1 import chunk, request, response, wait_until
from programs import SLOW, descriptors, resident_bytes


# ---- HTTP listeners, end to end ----

def test_http_end_to_end(node, real_agent, service, endpoint, host):
    recorder = agents.Recorder(lambda seen: response(headers=[("X-Service", "1")], body=seen.body[::-1]))
    target = service(recorder)
    agent = real_agent(node.upstream, "http", endpoint, target.port)
    for size in (0, 1, 100_000, 2_000_000):
        data = random.randbytes(size)
        answer = request(node.proxy, "POST", "/p?q=1", host=host, body=data, timeout=30 * SLOW)
        assert answer.status == 200 and answer.body == data[::-1] and answer.get("x-service") == "1"
    seen = recorder.requests[0]
    assert seen.target == "/p?q=1" and seen.get("host") == host
    assert seen.get("x-forwarded-for").split(", ")[0] == "127.0.0.1"
    assert not seen.has("x-piko-endpoint") and not seen.has("x-piko-authorization")
    line = wait_until(lambda: agent.logged("^request$"), what="the access log")[0]
    assert line["endpoint-id"] == endpoint
    assert {"proto": "HTTP/1.1", "method": "POST", "path": "/p", "status": 200, "host": host}.items() <= line["request"].items()


def test_http_framing_through_the_agent(node, real_agent, service, endpoint, host):
    """The same oddities as on the proxy port, with the agent's own HTTP in the way."""
    def respond(seen):
        if seen.target == "/chunked":
            return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"ab") + chunk(b"cd") + b"0\r\nDigest: x\r\n\r\n"
        if seen.target == "/204":
            return response(204, "No Content", length=False)
        if seen.target == "/304":
            return response(304, "Not Modified", [("ETag", '"e"')], length=False)
        if seen.target == "/early":
            return b"HTTP/1.1 103 Early Hints\r\nLink: l\r\n\r\n" + response(body=b"final")
        if seen.method == "HEAD":
            return b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n"
        return response(body=repr((seen.body, seen.trailers)).encode())
    real_agent(node.upstream, "http", endpoint, service(agents.Recorder(respond)).port)
    with http1.Connection(node.proxy) as client:
        for _ in range(2):
            answer = client.request(target="/chunked", host=host)
            assert answer.body == b"abcd" and answer.trailer("digest") == "x"
            assert client.request(target="/204", host=host).status == 204
            assert client.request(target="/304", host=host).get("etag") == '"e"'
            answer = client.request(target="/early", host=host)
            assert answer.body == b"final" and [one.status for one in answer.informational] == [103]
            assert client.request("HEAD", host=host).get("content-length") == "77"
            client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: T\r\n\r\n")
            client.send(chunk(b"x" * 70_000) + b"0\r\nT: of-request\r\n\r\n")
            assert client.read_response("POST").body == repr((b"x" * 70_000, [("T", "of-request")])).encode()


@pytest.mark.parametrize("fields", [[("X-Long", "a" * 100_000)], [(f"X-{index}", "1") for index in range(199)]], ids=["long", "many"])
def test_heads_that_the_server_takes(node, real_agent, service, endpoint, host, fields):
    """The server's limits of a head count, and not the agent's, which gets more than the client sent."""
    recorder = agents.Recorder()
    real_agent(node.upstream, "http", endpoint, service(recorder).port)
    assert request(node.proxy, host=host, headers=fields).status == 200
    assert [recorder.requests[0].get(name.lower()) for name, _ in fields] == [value for _, value in fields]


def test_service_connections_are_reused(node, real_agent, service, endpoint, host):
    target = service()
    real_agent(node.upstream, "http", endpoint, target.port)
    with http1.Connection(node.proxy) as client:
        for _ in range(50):
            assert client.request(host=host).status == 200
    assert target.connections <= 5, "a new connection for each request"


def test_idle_service_connection_that_closes(node, real_agent, service, endpoint, host):
    """The service closes its idle connection just before the next request: no client may see it."""
    async def handler(stream):
        for _ in range(2):
            await http1.read_message(stream)
            await stream.write(response(body=b"ok"))
        await stream.reset()
    real_agent(node.upstream, "http", endpoint, service(handler).port)
    with http1.Connection(node.proxy) as client:
        for _ in range(60):
            assert client.request(host=host).body == b"ok"


def test_service_down(node, real_agent, service, peers, endpoint, host):
    """502 as JSON while the service is down, and all well when it is back."""
    target = service()
    port = target.port
    agent = real_agent(node.upstream, "http", endpoint, port)
    assert request(node.proxy, host=host).status == 200
    peers.call(target.stop())
    for method in ("GET", "POST"):
        answer = request(node.proxy, method, host=host)
        assert answer.status == 502 and json.loads(answer.body) == {"error": "upstream unreachable"}
        assert answer.get("content-type").startswith("application/json")
    service(port=port)
    assert request(node.proxy, host=host).status == 200
    wait_until(lambda: any(line["request"]["status"] == 502 for line in agent.logged("^request$")), what="the 502 in the log")


def test_service_slow(node, real_agent, service, endpoint, host):
    async def respond(seen):
        await asyncio.sleep(30 if seen.target == "/slow" else 0)
        return response(body=b"ok")
    real_agent(node.upstream, "http", endpoint, service(agents.Recorder(respond)).port, "--timeout", "500ms")
    began = time.monotonic()
    answer = request(node.proxy, target="/slow", host=host)
    assert answer.status == 504 and json.loads(answer.body) == {"error": "upstream timeout"}
    assert time.monotonic() - began < 5 * SLOW
    assert request(node.proxy, host=host).body == b"ok"


def test_service_speaks_nonsense(node, real_agent, service, endpoint, host):
    async def handler(stream):
        await stream.read_until(b"\r\n\r\n")
        await stream.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        await stream.finish()
    real_agent(node.upstream, "http", endpoint, service(handler).port)
    answer = request(node.proxy, host=host)
    assert answer.status == 502 and "error" in json.loads(answer.body)


def test_upgrade_through_the_agent(node, real_agent, service, endpoint, host):
    async def handler(stream):
        head = await stream.read_until(b"\r\n\r\n")
        assert b"upgrade: proto/2" in head.lower()
        await stream.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: proto/2\r\n\r\nfirst ")
        await stream.write(await stream.read_to_end())
        await stream.finish()
    real_agent(node.upstream, "http", endpoint, service(handler).port)
    with http1.Connection(node.proxy) as client:
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: proto/2\r\n\r\n")
        assert client.read_response().status == 101
        client.send(b"x" * 300_000)
        client.finish()
        assert client.read_to_end() == b"first " + b"x" * 300_000


@pytest.mark.parametrize("form", ["{}", "127.0.0.1:{}", "localhost:{}", "http://127.0.0.1:{}", "http://localhost:{}/"])
def test_address_forms(node, real_agent, service, endpoint, host, form):
    real_agent(node.upstream, "http", endpoint, form.format(service().port))
    assert request(node.proxy, host=host).status == 200


def test_agent_start_with_a_file(node, program, backend, service, endpoint, tmp_path):
    """Many listeners, HTTP and TCP, from YAML, with environment variables expanded."""
    recorder = agents.Recorder()
    web, raw = service(recorder), service(agents.echo)
    config = tmp_path / "agent.yaml"
    config.write_text(f"""# Two listeners.
connect:
  url: ${{URL}}
  timeout: "${{CONNECT_TIMEOUT:10s}}"
listeners:
  - endpoint_id: {endpoint}
    addr: {web.port}
    timeout: 15s
  - endpoint_id: {endpoint}-tcp
    addr: "127.0.0.1:{raw.port}"
    protocol: tcp
    timeout: 1m30s
    access_log: {{disable: true}}
grace_period: 5s
""")
    agent = program("agent", "start", "--config.path", config, "--config.expand-env", "--io-backend", backend, environment={"URL": node.upstream_url})
    for name in (endpoint, endpoint + "-tcp"):
        agent.wait_log("connected", **{"endpoint-id": name})
    assert request(node.proxy, host=f"{endpoint}.x.y").status == 200
    from test_tcp_forward import TcpTunnel
    client = TcpTunnel(node, endpoint + "-tcp")
    client.send(b"hello")
    assert client.read_exactly(5) == b"hello"
    client.connection.close()


def test_agent_without_listeners(program, tmp_path):
    config = tmp_path / "agent.yaml"
    config.write_text("connect:\n  url: http://127.0.0.1:1\n")
    agent = program("agent", "start", "--config.path", config)
    assert agent.wait() != 0
    assert "no listeners configured" in agent.log + agent.output


# ---- TCP listeners ----

def test_tcp_listener_half_close(python_server, peers, real_agent, service, endpoint):
    """The Python server opens streams on the agent: FIN each way is carried as FIN, and only as FIN."""
    async def handler(stream):
        data = await stream.read_to_end()
        await stream.write(b"answer to %d bytes" % len(data))
        await stream.finish()
    server = python_server()
    real_agent(server.upstream_address, "tcp", endpoint, service(handler).port)

    async def ask(size):
        stream = await (await server.tunnel(endpoint)).session.open()
        await stream.write(b"x" * size)
        await stream.finish()
        return await stream.read_to_end()
    for size in (0, 1, 262144, 600_000):
        assert peers.call(ask(size)) == b"answer to %d bytes" % size


def test_tcp_listener_service_ends_first(python_server, peers, real_agent, service, endpoint):
    got = []

    async def handler(stream):
        await stream.write(b"banner")
        await stream.finish()
        got.append(await stream.read_to_end())
    server = python_server()
    real_agent(server.upstream_address, "tcp", endpoint, service(handler).port)

    async def ask():
        stream = await (await server.tunnel(endpoint)).session.open()
        assert await stream.read_to_end() == b"banner"
        await stream.write(b"and after")
        await stream.finish()
    peers.call(ask())
    wait_until(lambda: got == [b"and after"], what="the bytes after the service's end")


def test_tcp_listener_resets(python_server, peers, real_agent, service, endpoint):
    """A reset of the service is a reset of the stream, and the other way round; no service at all is a reset too."""
    seen = []

    async def handler(stream):
        word = await stream.read()
        if word == b"reset me":
            await stream.reset()
            return
        try:
            await stream.read()
            seen.append("end")
        except ConnectionError:
            seen.append("reset")
    server = python_server()
    target = service(handler)
    real_agent(server.upstream_address, "tcp", endpoint, target.port)

    async def ask():
        session = (await server.tunnel(endpoint)).session
        stream = await session.open()
        await stream.write(b"reset me")
        with pytest.raises(yamux.StreamReset):
            await stream.read_to_end()
        stream = await session.open()
        await stream.write(b"hello")
        await stream.acknowledged_event.wait()
        while target.connections < 2:
            await asyncio.sleep(0.01)
        await stream.reset()
        while not seen:
            await asyncio.sleep(0.01)
        await target.stop()
        target.server.close()
        stream = await session.open()
        try:
            assert await stream.read_to_end() == b""
        except yamux.StreamReset:
            pass
    peers.call(ask())


def test_tcp_logs(node, real_agent, service, endpoint):
    agent = real_agent(node.upstream, "tcp", endpoint, service(agents.echo).port)
    from test_tcp_forward import TcpTunnel
    client = TcpTunnel(node, endpoint)
    client.send(b"x")
    assert client.read_exactly(1) == b"x"
    client.connection.close()
    assert agent.wait_log("connection opened")["endpoint-id"] == endpoint
    agent.wait_log("connection closed")


# ---- The protocol, judged by the Python server ----

KINDS = {
    "every byte on the wire": {"writes": agents.every_byte},
    "every byte a message": {"messages": agents.every_byte},
    "pieces of 13": {"messages": agents.pieces_of(13)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_agent_takes_any_split(python_server, peers, real_agent, service, endpoint, kind):
    server = python_server()
    for key, value in KINDS[kind].items():
        setattr(server, key, value)
    recorder = agents.Recorder(lambda seen: response(body=seen.body[::-1]))
    real_agent(server.upstream_address, "http", endpoint, service(recorder).port)
    size = 3000 if "every byte" in kind else 300_000
    for _ in range(3):
        data = random.randbytes(size)
        assert request(server.proxy_address, "POST", host=f"{endpoint}.x.y", headers=[("Connection", "close")], body=data, timeout=30 * SLOW).body == data[::-1]


@pytest.mark.parametrize("updates", ["at once", "never"])
def test_agent_respects_windows(python_server, peers, real_agent, service, endpoint, updates):
    """The judge sees every overrun. Without window updates exactly 256 KiB come."""
    async def handler(stream):
        await stream.read()
        await stream.write(b"x" * 1_000_000)
        await stream.finish()
    server = python_server(updates=yamux.update_at_once if updates == "at once" else yamux.update_never)
    real_agent(server.upstream_address, "tcp", endpoint, service(handler).port)

    async def ask():
        stream = await (await server.tunnel(endpoint)).session.open()
        await stream.write(b"go")
        if updates == "at once":
            assert len(await stream.read_to_end()) == 1_000_000
            await stream.finish()
            return
        await stream.read_exactly(262144)
        await asyncio.sleep(0.3)
        assert not stream.chunks and stream.bytes_in == 262144
        await stream.give_window(1_000_000)
        assert len(await stream.read_to_end()) == 1_000_000 - 262144
        await stream.finish()
    peers.call(ask())


def test_many_streams(python_server, peers, real_agent, service, endpoint):
    """200 streams at once, lazily opened (SYN on the first data frame), then nothing is left on either side."""
    server = python_server()
    agent = real_agent(server.upstream_address, "tcp", endpoint, service(agents.echo).port)
    before = len(descriptors(agent.pid))

    async def one(session, index):
        stream = await session.open(lazy_syn=index % 2 == 0)
        data = random.randbytes(20_000)
        await stream.write(data)
        await stream.finish()
        assert await stream.read_to_end() == data

    async def ask():
        session = (await server.tunnel(endpoint)).session
        for _ in range(3):
            await asyncio.gather(*(one(session, index) for index in range(200)))
        assert not session.streams
    peers.call(ask(), 60 * SLOW)
    wait_until(lambda: len(descriptors(agent.pid)) <= before, 10 * SLOW, lambda: f"descriptors: {descriptors(agent.pid)}")


def test_agent_answers_pings(python_server, peers, real_agent, service, endpoint):
    server = python_server()
    real_agent(server.upstream_address, "tcp", endpoint, service(agents.echo).port)

    async def ask():
        for value in (0, 7, 0xFFFFFFFF):
            await (await server.tunnel(endpoint)).session.ping(value)
    peers.call(ask())


@pytest.mark.parametrize("wire", ["version", "text", "masked", "close"])
def test_agent_survives_a_broken_server(python_server, peers, real_agent, service, endpoint, wire):
    """Whatever the server sends: the agent closes the session properly and comes back."""
    server = python_server()
    agent = real_agent(server.upstream_address, "tcp", endpoint, service(agents.echo).port)

    async def ask():
        tunnel = await server.tunnel(endpoint)
        if wire == "version":
            await tunnel.session.send_raw(yamux.header(0, 0, 0, 0, version=9))
        elif wire == "text":
            await tunnel.socket.send_frame(websocket.TEXT, b"text")
        elif wire == "masked":
            await tunnel.socket.send_frame(websocket.BINARY, b"x", mask=b"abcd")
        else:
            await tunnel.socket.close(1001)
        await asyncio.wait_for(tunnel.session.end_event.wait(), 10)
        if wire in ("text", "masked"):
            assert tunnel.socket.close_code in (1002, 1003)
        again = await server.tunnel(endpoint, but=tunnel)
        stream = await again.session.open()
        await stream.write(b"hi")
        assert await stream.read() == b"hi"
        await stream.finish()
        await stream.read_to_end()
    peers.call(ask(), 30 * SLOW)
    assert agent.process.poll() is None


# ---- Reconnecting ----

@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 429, 500, 502, 503, 504, 200, 301, None])
def test_refusals_never_end_the_agent(python_server, peers, real_agent, service, endpoint, status):
    """Whatever the answer, the agent tries again. Those that a retry may cure come back soon."""
    server = python_server()
    transient = status in (408, 429, 500, 502, 503, 504, None)
    server.refusals = [(status, "No", b'{"error":"not now \xe2\x9c\x93"}')] * (2 if transient else 1)
    agent = real_agent(server.upstream_address, "http", endpoint, service().port, wait=False)
    wait_until(lambda: not server.refusals, 10 * SLOW, "the refusals were asked for")
    if transient:
        peers.call(server.tunnel(endpoint), 10 * SLOW)
    else:
        http1.wait_until(lambda: "not now" in agent.log or status in (200, 301), 5, agent.tail)
    assert agent.process.poll() is None


def test_back_off_grows(python_server, peers, real_agent, service, endpoint):
    """First wait about 100 ms, then doubling: in 1.6 s there are 3 to 6 attempts, not hundreds."""
    server = python_server()
    server.refusals = [(503, "No", b"{}")] * 1000
    began = time.monotonic()
    real_agent(server.upstream_address, "http", endpoint, service().port, wait=False)
    wait_until(lambda: len(server.handshakes) >= 4, 10 * SLOW, "four attempts")
    assert time.monotonic() - began > 0.6
    count = len(server.handshakes)
    time.sleep(0.5)
    assert len(server.handshakes) - count <= 2


def test_reconnects_after_each_kind_of_end(python_server, peers, real_agent, service, endpoint):
    server = python_server()
    agent = real_agent(server.upstream_address, "http", endpoint, service().port)
    last = None
    for how in ("close", "abort", "eof"):
        tunnel = peers.call(server.tunnel(endpoint, last), 20 * SLOW)

        async def end():
            if how == "close":
                await tunnel.session.close()
            elif how == "abort":
                tunnel.session.abort()
            else:
                tunnel.socket.writer.close()
        peers.call(end())
        last = tunnel
    peers.call(server.tunnel(endpoint, last), 20 * SLOW)
    assert agent.process.poll() is None


def test_server_go_away_makes_before_it_breaks(python_server, peers, real_agent, service, endpoint):
    """On the server's go-away the agent opens its next session, and finishes the streams of the old one."""
    async def handler(stream):
        while data := await stream.read():
            await stream.write(data)
        await stream.finish()
    server = python_server()
    real_agent(server.upstream_address, "tcp", endpoint, service(handler).port)

    async def ask():
        first = await server.tunnel(endpoint)
        stream = await first.session.open()
        await stream.write(b"one")
        assert await stream.read() == b"one"
        await first.session.go_away()
        second = await server.tunnel(endpoint, but=first)
        assert not first.session.ended
        await stream.write(b"still works")
        assert await stream.read() == b"still works"
        await stream.finish()
        assert await stream.read_to_end() == b""
        await asyncio.wait_for(first.session.end_event.wait(), 10)
        assert not second.session.ended
    peers.call(ask(), 30 * SLOW)


def test_reconnects_to_a_server_that_comes_back(new_node, real_agent, service, endpoint, host):
    """kill -9 of the server: the agent is back by itself as soon as there is one on the port again."""
    node = new_node()
    agent = real_agent(node.upstream, "http", endpoint, service().port)
    assert request(node.proxy, host=host).status == 200
    ports = (node.proxy[1], node.upstream[1], node.admin[1])
    node.kill()
    mark = agent.mark()
    again = new_node(ports=ports)
    agent.wait_log("connected", after=mark)
    assert request(again.proxy, host=host).status == 200


def test_path_of_the_url_is_a_prefix(python_server, peers, real_agent, service, endpoint):
    server = python_server()
    url = f"http://{server.upstream_address[0]}:{server.upstream_address[1]}/prefix"
    real_agent(url, "http", endpoint, service().port)
    tunnel = peers.call(server.tunnel(endpoint))
    assert tunnel.target == f"/prefix/piko/v1/upstream/{endpoint}"


# ---- Ending ----

def test_sigterm_drains(python_server, peers, real_agent, service, endpoint):
    """SIGTERM: go-away first, the running request is finished, then exit 0."""
    release = []

    async def respond(seen):
        event = asyncio.Event()
        release.append(event)
        await event.wait()
        return response(body=b"in time")
    server = python_server()
    agent = real_agent(server.upstream_address, "http", endpoint, service(agents.Recorder(respond)).port)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(request(server.proxy_address, host=f"{endpoint}.x.y", headers=[("Connection", "close")])))
    thread.start()
    wait_until(lambda: release, what="the request at the service")
    agent.send_signal(signal.SIGTERM)

    async def drained():
        tunnel = server.tunnels[endpoint][0]
        await asyncio.wait_for(tunnel.session.go_away_event.wait(), 10)
        assert tunnel.session.go_away_received == 0 and not tunnel.session.ended
        release[0].set()
    peers.call(drained())
    thread.join(10)
    assert answers and answers[0].body == b"in time"
    assert agent.wait() == 0


def test_sigterm_grace_period_is_a_bound(python_server, peers, real_agent, service, endpoint):
    async def respond(seen):
        await asyncio.sleep(600)
    server = python_server()
    agent = real_agent(server.upstream_address, "http", endpoint, service(agents.Recorder(respond)).port, "--grace-period", "500ms")
    client = http1.Connection(server.proxy_address)
    client.send(f"GET / HTTP/1.1\r\nHost: {endpoint}.x.y\r\n\r\n")
    wait_until(lambda: server.tunnels[endpoint][0].session.streams, what="the stream")
    time.sleep(0.1)
    began = time.monotonic()
    agent.send_signal(signal.SIGTERM)
    agent.wait(10)
    assert 0.4 < time.monotonic() - began < 5 * SLOW
    client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_at_once_when_idle(python_server, real_agent, service, endpoint, number):
    server = python_server()
    agent = real_agent(server.upstream_address, "http", endpoint, service().port)
    began = time.monotonic()
    assert agent.stop(number) == 0
    assert time.monotonic() - began < 3 * SLOW


def test_ends_while_it_waits_to_reconnect(real_agent, service, endpoint):
    agent = real_agent(("127.0.0.1", 1), "http", endpoint, service().port, wait=False)
    wait_until(lambda: agent.lines, what="a first log line")
    assert agent.stop() == 0


def test_slow_client_does_not_grow_the_agent(node, real_agent, service, endpoint, host):
    """Back-pressure through all: service → agent → server → client that does not read."""
    async def handler(stream):
        seen = await http1.read_message(stream)
        if seen.target == "/small":
            await stream.write(response(body=b"small"))
            return
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            await stream.write(b"x" * 100_000)
    agent = real_agent(node.upstream, "http", endpoint, service(handler).port)
    with http1.Connection(node.proxy, receive_buffer=8192) as client:
        client.send(f"GET /endless HTTP/1.1\r\nHost: {host}\r\n\r\n")
        client.read_until(b"\r\n\r\n")
        time.sleep(1)
        for _ in range(10):
            assert request(node.proxy, target="/small", host=host).body == b"small"
        for pid in [agent.pid, *node.processes()]:
            assert resident_bytes(pid) < 64 << 20 or SLOW > 1
        client.reset()
