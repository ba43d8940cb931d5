"""The direct transport (docs/protocol-direct.md): our server against an independent agent, our agent against an independent
server. That everything else works over it as well is seen by the other tests, which run with `transport` direct, too."""

import asyncio
import base64
import json
import os
import random
import re
import signal
import socket
import struct
import threading
import time

import pytest

from peer import agent as agents
from peer import direct, http1, websocket
from peer.http1 import request, response, wait_until
from programs import SLOW, metric, scaled


@pytest.fixture
def transport():
    return "direct"


def endpoints(node):
    return json.loads(request(node.admin, target="/status/upstream/endpoints", host="admin").body)


async def end_of(reader, timeout=10):
    """What the reader gives up to its end; a reset counts as an end."""
    try:
        return await asyncio.wait_for(reader.read(-1), timeout)
    except ConnectionError:
        return b"reset"


# ---- The offer and the credential ----

def test_offer_is_answered(node, tunnel, peers, endpoint):
    agent = tunnel(node)
    assert agent.answer["x-piko-transport"] == "direct/1"
    assert re.fullmatch(r"connections=[0-9]+, idle=[0-9]+", agent.answer["x-piko-pool"])
    assert len(agent.answer["x-piko-credential"]) <= 1024
    plain = peers.call(agents.Agent.connect(node.upstream, endpoint, agents.Recorder()))
    assert not [name for name in plain.answer if name.startswith("x-piko")], "nobody asked"
    peers.call(plain.close())


@pytest.mark.parametrize("offer, taken", [("direct/1", True), ("direct/2, direct/1", True), ("DIRECT/1", True), ("direct/2", False), ("mux", False), ("", False)])
def test_offers(node, peers, endpoint, offer, taken):
    agent = peers.call(agents.Agent.connect(node.upstream, endpoint, agents.Recorder(), headers=[("x-piko-transport", offer)]))
    assert ("x-piko-credential" in agent.answer) == taken
    peers.call(agent.close())


def test_server_that_is_told_not_to(new_node, tunnel, peers, endpoint, host, program, backend, service):
    node = new_node(arguments=["--upstream.direct.enabled=false"])
    agent = tunnel(node)
    assert agent.pool is None and "x-piko-credential" not in agent.answer
    with pytest.raises(websocket.Refused) as refused:
        peers.call(direct.open_data(node.upstream, endpoint, "x"))
    assert refused.value.status == 404
    assert request(node.proxy, host=host).status == 200
    insists = program("agent", "http", endpoint, service().port, "--connect.url", node.upstream_url, "--io-backend", backend,
                      "--connect.transport", "direct")
    line = insists.wait_log("connect failed")
    assert "does not offer the direct transport" in line["err"] and insists.process.poll() is None


def test_credentials(node, tunnel, peers, endpoint):
    """Only the very bytes that the server made let a data connection in, and only for their endpoint."""
    agent = tunnel(node)
    good = agent.pool.credential
    other = tunnel(node, name=endpoint + "-other").pool.credential

    def status(credential, name=endpoint):
        try:
            _, writer, _ = peers.call(direct.open_data(node.upstream, name, credential))
            writer.close()
            return 101
        except websocket.Refused as refused:
            assert "error" in json.loads(refused.body)
            return refused.status
    assert status(good) == 101
    raw = base64.b64decode(good)
    for index in range(len(raw)):
        changed = bytearray(raw)
        changed[index] ^= 1 << random.randrange(8)
        assert status(base64.b64encode(changed).decode()) == 401, f"byte {index}"
    for bad in (None, "", "x", "=", good[:-4], good + "AAAA", good.rstrip("=") + "*", raw[:20].hex(), other, "A" * 2000):
        assert status(bad) == 401, bad
    assert status(good, endpoint + "-other") == 401 and status(other, endpoint + "-other") == 101
    assert metric(node, "piko_direct_refused_total") >= len(raw)


def test_credential_dies_with_its_server(new_node, tunnel, peers, endpoint):
    first, second = new_node(), new_node()
    credential = tunnel(first).pool.credential
    with pytest.raises(websocket.Refused) as refused:
        peers.call(direct.open_data(second.upstream, endpoint, credential))
    assert refused.value.status == 401


@pytest.mark.parametrize("target, headers, body, status", [
    ("/piko/v1/data/{endpoint}", "Connection: Upgrade\r\nUpgrade: websocket\r\n{credential}", "", 400),
    ("/piko/v1/data/{endpoint}", "Upgrade: piko-direct/1\r\n{credential}", "", 400),
    ("/piko/v1/data/{endpoint}", "Connection: Upgrade\r\nUpgrade: piko-direct/1\r\n{credential}{credential}", "", 400),
    ("/piko/v1/data/{endpoint}", "Connection: Upgrade\r\nUpgrade: piko-direct/1\r\n{credential}Content-Length: 1\r\n", "x", 400),
    ("/piko/v1/data/{endpoint}", "Connection: Upgrade\r\nUpgrade: piko-direct/1\r\n{credential}Origin: http://evil.example\r\n", "", 403),
    ("/piko/v1/data/", "Connection: Upgrade\r\nUpgrade: piko-direct/1\r\n{credential}", "", 404),
    ("/piko/v1/data/{endpoint}/x", "Connection: Upgrade\r\nUpgrade: piko-direct/1\r\n{credential}", "", 404),
    ("/piko/v1/data/%00", "Connection: Upgrade\r\nUpgrade: piko-direct/1\r\n{credential}", "", 400),
])
def test_malformed_data_requests(node, tunnel, endpoint, target, headers, body, status):
    credential = f"x-piko-credential: {tunnel(node).pool.credential}\r\n"
    with http1.Connection(node.upstream) as client:
        client.send(f"GET {target.format(endpoint=endpoint)} HTTP/1.1\r\nHost: a\r\n{headers.format(credential=credential)}\r\n{body}")
        assert client.read_response().status == status


def test_bytes_before_a_stream_end_the_connection(node, tunnel, peers, endpoint, host):
    recorder = agents.Recorder()
    agent = tunnel(node, recorder)

    async def speaks(early):
        credential = f"x-piko-credential: {agent.pool.credential}\r\n"
        reader, writer = await asyncio.open_connection(*node.upstream)
        writer.write((f"GET /piko/v1/data/{endpoint} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: piko-direct/1\r\n{credential}\r\n"
                      + ("early" if early else "")).encode())
        if not early:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        assert not (await end_of(reader)).endswith(b"PIKO")
        writer.close()
    for early in (True, False):
        peers.call(speaks(early))
    for _ in range(10):
        assert request(node.proxy, host=host).body == b"hello"


# ---- Streams ----

def test_preamble_names_the_client(node, tunnel, endpoint, host):
    seen = []

    async def handler(stream):
        message = await http1.read_message(stream)
        seen.append(message)
        await stream.write(response(body=b"x"))
        await agents.Recorder()(stream)
    agent = tunnel(node, handler)
    with http1.Connection(node.proxy) as client:
        for _ in range(5):
            assert client.request(host=host).status == 200
        local = client.socket.getsockname()
    used = [client for client in agent.pool.clients if client == local]
    assert used or not agent.pool.clients, agent.pool.clients
    # A request over a connection that was used before has no preamble, and is framed as ever: `http1` would have said so.
    assert len(agent.pool.clients) <= 2


def test_exchanges_reuse_their_connection(node, tunnel, endpoint, host):
    recorder = agents.Recorder()
    agent = tunnel(node, recorder)
    with http1.Connection(node.proxy) as client:
        for _ in range(50):
            assert client.request(host=host).status == 200
    assert recorder.connections <= 3 and len(agent.pool.clients) <= 2
    assert metric(node, "piko_direct_streams_total") > 0


def test_raw_streams_use_connections_up(node, tunnel, endpoint):
    agent = tunnel(node, agents.echo)
    for index in range(12):
        client = RawClient(node, endpoint)
        assert client.answer.status == 101 and client.answer.get("upgrade") == "piko-raw/1"
        client.socket.sendall(b"ping %d" % index)
        assert client.read_exactly(len(b"ping %d" % index)) == b"ping %d" % index
        client.finish()
        assert client.read_to_end() == b""
    wait_until(lambda: len(agent.pool.clients) >= 4, what="streams over data connections")


class RawClient:
    """A raw connection through the proxy port, as forward makes it."""

    def __init__(self, node, endpoint, early=b"", offer="piko-raw/1, websocket"):
        self.connection = http1.Connection(node.proxy)
        self.socket = self.connection.socket
        self.connection.send(f"GET /_piko/v1/tcp/{endpoint} HTTP/1.1\r\nHost: x\r\nUpgrade: {offer}\r\nConnection: Upgrade\r\n"
                             "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode() + early)
        self.answer = self.connection.read_response()

    def read_exactly(self, count):
        while len(self.connection.buffer) < count:
            piece = self.socket.recv(65536)
            assert piece, f"ended with {self.connection.buffer!r}"
            self.connection.buffer += piece
        data, self.connection.buffer = self.connection.buffer[:count], self.connection.buffer[count:]
        return data

    def finish(self):
        self.socket.shutdown(socket.SHUT_WR)

    def read_to_end(self):
        data = self.connection.buffer
        while piece := self.socket.recv(65536):
            data += piece
        return data


@pytest.mark.parametrize("offer, taken", [("piko-raw/1, websocket", "piko-raw/1"), ("websocket, piko-raw/1", "piko-raw/1"), ("PIKO-RAW/1", "piko-raw/1"), ("piko-raw/2, websocket", "websocket")])
def test_raw_offers(node, tunnel, endpoint, offer, taken):
    tunnel(node, agents.echo)
    client = RawClient(node, endpoint, offer=offer)
    assert client.answer.status == 101 and client.answer.get("upgrade") == taken
    client.connection.close()


def test_raw_carries_early_bytes_and_half_close(node, tunnel, endpoint):
    async def handler(stream):
        data = await stream.read_to_end()
        await stream.write(b"%d bytes" % len(data))
        await stream.finish()
    tunnel(node, handler)
    for early in (b"", b"early bytes", os.urandom(100_000)):
        client = RawClient(node, endpoint, early=early)
        client.socket.sendall(b"and more")
        client.finish()
        assert client.read_to_end() == b"%d bytes" % (len(early) + 8)


@pytest.mark.parametrize("side", ["client", "agent"])
def test_resets_are_resets(node, tunnel, endpoint, side):
    """In the middle of a stream, small and when it is spliced."""
    for size in (10, 2_000_000):
        seen = []

        async def handler(stream):
            try:
                seen.append(len(await stream.read_exactly(size)))
                if side == "agent":
                    await stream.reset()
                    return
                seen.append(await stream.read())
            except (OSError, EOFError) as error:
                seen.append(type(error))
        tunnel(node, handler)
        client = RawClient(node, endpoint)
        client.socket.sendall(b"x" * size)
        wait_until(lambda: seen, what="the bytes")
        if side == "client":
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.socket.close()
            wait_until(lambda: len(seen) == 2, what="the reset")
            assert seen[1] is not b"" and seen[1] in (ConnectionResetError, EOFError), seen
        else:
            with pytest.raises(ConnectionError):
                assert client.read_to_end() == b"never", "an end instead of a reset"


def test_raw_errors_come_before_101(node, endpoint):
    client = RawClient(node, endpoint)
    assert client.answer.status == 502 and json.loads(client.answer.body) == {"error": "no available upstreams"}


# ---- The pool at the server ----

def test_idle_connections_are_closed(new_node, tunnel, peers, endpoint, host):
    node = new_node(arguments=["--upstream.direct.idle-timeout", "500ms"])
    agent = tunnel(node)
    agent.pool.is_ending = True          # keeps none ready from now on
    wait_until(lambda: not agent.pool.writers, what="all are closed")
    assert metric(node, "piko_direct_connections") == 0
    assert request(node.proxy, host=host).status == 200, "the session serves"


def test_pool_is_bounded(new_node, tunnel, peers, endpoint):
    node = new_node(workers=1, arguments=["--upstream.direct.max-connections", "6", "--upstream.direct.max-idle", "5"])
    agent = tunnel(node)
    assert agent.answer["x-piko-pool"] == "connections=6, idle=5"
    opened = []
    with pytest.raises(websocket.Refused) as refused:
        for _ in range(10):
            opened.append(peers.call(direct.open_data(node.upstream, endpoint, agent.pool.credential)))
    assert refused.value.status == 429 and len(opened) == 2
    for _, writer, _ in opened:
        writer.close()


def test_go_away_closes_what_waits_and_loses_nothing(node, tunnel, peers, endpoint, host):
    """Requests that may not be repeated go on while one agent after another leaves in good order."""
    stop, failures, served = threading.Event(), [], [0]

    def client():
        connection = http1.Connection(node.proxy, timeout=10 * SLOW)
        try:
            while not stop.is_set():
                answer = connection.request("POST", host=host, body=b"x" * random.choice([1, 100_000]))
                served[0] += 1
                if answer.status != 200:
                    failures.append(answer)
        except (OSError, EOFError) as error:
            failures.append((error, time.time(), connection.socket.getsockname()))
        connection.close()
    tunnel(node)
    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(scaled(40, 8)):
        mark = served[0]
        leaving = tunnel(node)
        wait_until(lambda: served[0] > mark + 30, 20 * SLOW, "requests")

        async def leave():
            leaving.pool.end()
            await leaving.session.go_away()
        peers.call(leave())
        wait_until(lambda: failures or not leaving.pool.writers, 10 * SLOW, "its data connections end")
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_data_connection_that_comes_after_the_go_away(node, peers, endpoint, host):
    """It was on its way when the agent said that it leaves: it is closed or refused, and serves nobody for ever. On every worker."""
    async def late():
        agent = await agents.Agent.connect(node.upstream, endpoint, agents.Recorder(), headers=[direct.OFFER])
        credential = agent.answer["x-piko-credential"]
        kept = []
        for _ in range(8):
            reader, writer, credential = await direct.open_data(node.upstream, endpoint, credential)
            kept.append((reader, writer))
        await agent.session.go_away()
        refused = 0
        for _ in range(200):
            try:
                reader, writer, credential = await direct.open_data(node.upstream, endpoint, credential)
                kept.append((reader, writer))
            except websocket.Refused as refusal:
                assert refusal.status == 401
                refused += 1
            if refused > 8:             # every worker knows by now
                break
            await asyncio.sleep(0.01)
        assert refused > 8
        for reader, writer in kept:
            assert await asyncio.wait_for(reader.read(), 10 * SLOW) == b""
            writer.close()
        await agent.close()
    peers.call(late())


def test_agents_share_the_load_whatever_they_speak(node, tunnel, peers, endpoint, host):
    """Agents with data connections and agents without, on two workers: each gets its share."""
    recorders = [agents.Recorder() for _ in range(4)]
    for recorder in recorders[:2]:
        tunnel(node, recorder)
    plain = [peers.call(agents.Agent.connect(node.upstream, endpoint, recorder)) for recorder in recorders[2:]]
    for _ in range(400):
        assert request(node.proxy, host=host).status == 200
    counts = [len(recorder.requests) for recorder in recorders]
    assert sum(counts) == 400 and min(counts) >= 50, counts
    for agent in plain:
        peers.call(agent.close())


def test_session_lost_data_connections_serve_on(node, tunnel, peers, endpoint, host):
    """The session's TCP connection is cut; what waits is a tunnel of its own."""
    agent = tunnel(node, judged=False)
    peers.call(asyncio.wait_for(abort_session(agent), 5))
    wait_until(lambda: endpoint not in endpoints(node), what="the session is gone")
    for _ in range(20):
        assert request(node.proxy, host=host).status == 200


async def abort_session(agent):
    agent.session.abort()


def test_one_endpoint_uses_all_workers(new_node, real_agent, service, endpoint, host):
    """One agent, one busy endpoint, four workers: each of them serves over data connections of its own."""
    node = new_node(workers=4)
    real_agent(node.upstream, "http", endpoint, service().port, "--access-log.disable")
    stop, failures = threading.Event(), []

    def client():
        connection = http1.Connection(node.proxy, timeout=10 * SLOW)
        while not stop.is_set():
            if connection.request(host=host).status != 200:
                failures.append("not 200")
        connection.close()
    threads = [threading.Thread(target=client) for _ in range(16)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: metric(node, "piko_proxy_requests_total") > 2_000, 60 * SLOW, "load")
        mark = node.mark()
        relayed = metric(node, "piko_connections_relayed_total")
        shortages = metric(node, "piko_direct_shortages_total")
        begin = metric(node, "piko_proxy_requests_total")
        wait_until(lambda: metric(node, "piko_proxy_requests_total") > begin + 2_000, 60 * SLOW, "more load")
        assert metric(node, "piko_connections_relayed_total") - relayed <= 8, "clients are still relayed"
        assert metric(node, "piko_direct_shortages_total") - shortages <= 100, "streams still go through the session"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    served = {}
    for line in node.logged("request", after=mark):
        served[line["worker"]] = served.get(line["worker"], 0) + 1
    assert len(served) == 4 and min(served.values()) > sum(served.values()) / 16, served
    assert failures == []


# ---- Our agent against the Python server ----

def agent_pair(python_server, real_agent, service, endpoint, kind, handler, *arguments, pool="connections=64, idle=16"):
    server = python_server(pool=pool)
    target = service(handler)
    return server, real_agent(server.upstream_address, kind, endpoint, target.port, *arguments), target


def test_agent_opens_none_before_it_is_called(python_server, peers, real_agent, service, endpoint):
    server, agent, _ = agent_pair(python_server, real_agent, service, endpoint, "tcp", agents.echo)
    assert agent.logged("connected")[0]["transport"] == "direct"

    async def called():
        await asyncio.sleep(0.5)
        assert not server.waiting.get(endpoint)
        stream = await (await server.tunnel(endpoint)).session.open()
        await stream.write(b"over the session")
        assert await stream.read_exactly(16) == b"over the session"
        data = await server.data(endpoint)
        for index in range(5):
            raw = await data.begin()
            await raw.write(b"hello")
            assert await raw.read_exactly(5) == b"hello"
            following = await server.data(endpoint)
            assert following.credential in server.credentials[1:], "the newest credential"
            await raw.finish()
            assert await raw.read_to_end() == b""
            data.ended.set()
            data = following
        data.ended.set()
        await stream.reset()
    peers.call(called())


def test_agent_takes_a_preamble_byte_by_byte(python_server, peers, real_agent, service, endpoint):
    server, agent, _ = agent_pair(python_server, real_agent, service, endpoint, "tcp", agents.echo)

    async def split():
        first = await (await server.tunnel(endpoint)).session.open()
        await first.write(b"x")
        wire = direct.preamble("2001:db8::1", 999, filling=7) + b"payload"
        for cut in (1, 5, 16, 31, 32, 33, 38):
            data = await server.data(endpoint)
            await data.stream.write(wire[:cut])
            await asyncio.sleep(0.02)
            await data.stream.write(wire[cut:])
            assert await data.stream.read_exactly(7) == b"payload"
            data.ended.set()
        data = await server.data(endpoint)
        for byte in wire:
            await data.stream.write(bytes([byte]))
        assert await data.stream.read_exactly(7) == b"payload"
        data.ended.set()
        await first.reset()
    peers.call(split())
    line = wait_until(lambda: [line for line in agent.logged("connection opened") if line.get("client_addr")], what="the log line")[0]
    assert line["client_addr"] == "[2001:db8::1]:999"


@pytest.mark.parametrize("broken", [{"version": 2}, {"flags": 1}, {"magic": b"HTTP"}])
def test_agent_refuses_what_is_no_preamble(python_server, peers, real_agent, service, endpoint, broken):
    server, agent, target = agent_pair(python_server, real_agent, service, endpoint, "tcp", agents.echo)
    agent.expected_errors = ["no preamble"]

    async def refused():
        first = await (await server.tunnel(endpoint)).session.open()
        await first.write(b"x")
        await first.read_exactly(1)
        data = await server.data(endpoint)
        stream = await data.begin(**broken)
        assert await end_of(stream.reader) in (b"", b"reset")
        data.ended.set()
        again = await server.data(endpoint)
        stream = await again.begin()
        await stream.write(b"fine")
        assert await stream.read_exactly(4) == b"fine"
        again.ended.set()
        await first.reset()
    peers.call(refused())
    assert target.connections == 2


def test_agent_keeps_to_the_limits(python_server, peers, real_agent, service, endpoint):
    server, agent, _ = agent_pair(python_server, real_agent, service, endpoint, "tcp", agents.echo, pool="connections=5, idle=3, later=1")

    async def limited():
        session = (await server.tunnel(endpoint)).session
        streams = []
        for _ in range(12):
            streams.append(await session.open())
            await streams[-1].write(b"x")
            await streams[-1].read_exactly(1)
        await asyncio.sleep(0.7)
        assert len(server.waiting[endpoint]) == 3
        taken = []
        for _ in range(5):
            data = await server.data(endpoint)
            taken.append(data)
            await (await data.begin()).write(b"y")
        await asyncio.sleep(0.7)
        assert not server.waiting[endpoint], "five in all"
        for data in taken:
            data.ended.set()
        for stream in streams:
            await stream.reset()
    peers.call(limited())


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_refused_data_connections_cost_nothing(python_server, peers, real_agent, service, endpoint, status):
    """The session carries all meanwhile, and the agent asks again with growing waits."""
    server, agent, _ = agent_pair(python_server, real_agent, service, endpoint, "http", agents.Recorder())
    server.data_refusal = (status, "No", b'{"error":"not now"}')

    def waits():
        """Between the refusals; several connections may be refused at once."""
        times = server.data_refused_at
        return [after - before for before, after in zip(times, times[1:]) if after - before > 0.5]

    def call():
        assert request(server.proxy_address, host=f"{endpoint}.x.y", headers=[("Connection", "close")]).status == 200

    def waits_twice():
        call()                          # a wait that is over ends with a call
        return len(waits()) >= 2
    wait_until(waits_twice, 30, "the agent asks again, twice")
    assert waits()[0] > 0.9 and waits()[1] > 1.9, waits()
    server.data_refusal = None

    async def comes():
        data = await server.data(endpoint)
        data.ended.set()
    came = threading.Event()

    def calls():
        while not came.wait(0.1):
            call()
    thread = threading.Thread(target=calls)
    thread.start()
    try:
        peers.call(comes())
    finally:
        came.set()
        thread.join()
    assert len(agent.logged("data connection failed")) == 1
    assert "not now" in agent.logged("data connection failed")[0]["err"]


def test_agent_http_exchanges_and_upgrades(python_server, peers, real_agent, service, endpoint):
    async def handler(stream):
        while True:
            seen = await http1.read_message(stream)
            if "upgrade" in seen.options():
                await stream.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
                await agents.echo(stream)
                return
            await stream.write(response(body=b"forwarded for " + seen.get("x-forwarded-for").encode()))
    server, agent, _ = agent_pair(python_server, real_agent, service, endpoint, "http", handler)

    async def exchanges():
        stream = await (await server.tunnel(endpoint)).session.open()
        await stream.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await http1.read_message(stream, is_response=True)).status == 200
        data = await server.data(endpoint)
        raw = await data.begin()
        for _ in range(3):
            await raw.write(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
            answer = await http1.read_message(raw, is_response=True)
            assert answer.body == b"forwarded for 192.0.2.1, 127.0.0.1"
        await raw.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        assert (await http1.read_message(raw, is_response=True)).status == 101
        payload = os.urandom(3_000_000)
        asyncio.get_running_loop().create_task(raw.write(payload))
        assert await raw.read_exactly(len(payload)) == payload
        await raw.finish()
        assert await raw.read_to_end() == b""
        data.ended.set()
        await stream.reset()
    peers.call(exchanges())


def test_agent_serves_what_comes_after_its_go_away(python_server, peers, real_agent, service, endpoint):
    """SIGTERM: a stream that the server began before it heard of it is served; then idle connections end, and the agent."""
    server, agent, _ = agent_pair(python_server, real_agent, service, endpoint, "http", agents.Recorder())

    async def leaving():
        tunnel = await server.tunnel(endpoint)
        stream = await tunnel.session.open()
        await stream.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await http1.read_message(stream, is_response=True)
        await stream.reset()
        data = await server.data(endpoint)
        agent.send_signal(signal.SIGTERM)
        await asyncio.wait_for(tunnel.session.go_away_event.wait(), 10)
        raw = await data.begin()
        # And so is the next request on it: the worker that has it may not have heard yet.
        for _ in range(2):
            await raw.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
            answer = await http1.read_message(raw, is_response=True)
            assert answer.status == 200
        assert await end_of(raw.reader) == b""
        data.ended.set()
    peers.call(leaving())
    assert agent.wait() == 0


def test_forward_falls_back_and_insists(python_server, peers, program, backend, endpoint):
    """A server that knows only WebSocket: auto uses it, direct does not."""
    server = python_server()
    agent = peers.call(agents.Agent.connect(server.upstream_address, endpoint, agents.echo))
    for choice, works in (("auto", True), ("mux", True), ("direct", False)):
        forward = program("forward", "tcp", "127.0.0.1:0", endpoint, "--connect.url", f"http://127.0.0.1:{server.proxy_address[1]}",
                          "--io-backend", backend, "--connect.transport", choice)
        port = int(forward.wait_log("listening")["addr"].rpartition(":")[2])
        forward.expected_errors = ["connect failed"]
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(10)
            client.sendall(b"hello")
            if works:
                assert client.recv(5) == b"hello"
            else:
                with pytest.raises(ConnectionError):
                    assert client.recv(5) == b"never"
    peers.call(agent.close())
