"""The upstream port: our server against an independent agent, well-behaved in odd ways first, then hostile."""

import asyncio
import json
import random
import threading
import time

import pytest

from peer import agent as agents
from peer import http1, websocket, yamux
from peer.http1 import request, response, wait_until
from programs import SLOW, resident_bytes, scaled


@pytest.fixture
def transport():
    """All of this is about the session."""
    return "mux"


def endpoints(node):
    return json.loads(request(node.admin, target="/status/upstream/endpoints", host="admin").body)


# ---- The handshake ----

def test_registered_before_101(node, tunnel, peers, endpoint, host):
    """The endpoint is routable through every worker before the agent is told 101: no first request ever fails."""
    for index in range(scaled(200, 40)):
        name = f"{endpoint}r{index}"
        agent = tunnel(node, agents.Recorder(), name=name)
        for _ in range(2):
            assert request(node.proxy, host=f"{name}.x.y").status == 200
        peers.call(agent.close())


def test_gone_at_once(node, tunnel, peers, endpoint, host):
    """After go-away, close or a cut the endpoint is out of the table; requests get 502 (after a moment's grace for an agent
    that reconnects)."""
    for how in ("close", "abort"):
        agent = tunnel(node)
        assert endpoints(node)[endpoint] == 1
        peers.call(getattr(agent, how)())
        wait_until(lambda: endpoint not in endpoints(node), what="the endpoint is gone")
        assert request(node.proxy, host=host).status == 502


def test_handshake_prefix_and_fields(node, tunnel):
    """Header names in any case, tokens in a list, tenant and token headers that nobody asked for."""
    tunnel(node, headers=[("AUTHORIZATION", "Bearer x"), ("x-piko-tenant-id", "t"), ("Sec-WebSocket-Extensions", "permessage-deflate"),
                          ("Sec-WebSocket-Protocol", "chat")])


@pytest.mark.parametrize("wire, status", [
    ("GET /piko/v1/upstream/e HTTP/1.1\r\nHost: x\r\n\r\n", (400, 426)),
    ("POST /piko/v1/upstream/e HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", (400, 404, 405, 426)),
    ("GET /piko/v1/upstream/e HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n", (400, 426)),
    ("GET /piko/v1/upstream/e HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", (400, 426)),
    ("GET /piko/v1/upstream/e HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\n"
     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", (400, 426)),
    ("GET /piko/v1/upstream/e HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n", (400, 426)),
    ("GET /piko/v1/upstream/e HTTP/1.0\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", (400, 426, 505)),
    ("GET /piko/v1/upstream/ HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", (400, 404)),
    ("GET /piko/v1/upstream/a/b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", (400, 404)),
    ("GET /elsewhere HTTP/1.1\r\nHost: x\r\n\r\n", (404,)),
    ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", (404,)),
    ("nonsense\r\n\r\n", (400,)),
])
def test_refused_handshakes(node, wire, status):
    with http1.Connection(node.upstream) as client:
        client.send(wire)
        answer = client.read_response(wire.split(" ")[0])
        assert answer.status in status
        if answer.status in (400, 426):
            assert "error" in json.loads(answer.body)


@pytest.mark.parametrize("where", ["upstream", "tcp"])
def test_row_17_cross_origin(node, tunnel, endpoint, where):
    """A browser's page from elsewhere is refused with 403; without Origin, or from the same, welcome."""
    tunnel(node, agents.echo)
    path = f"/piko/v1/upstream/{endpoint}x" if where == "upstream" else f"/_piko/v1/tcp/{endpoint}"
    address = node.upstream if where == "upstream" else node.proxy
    own = f"{address[0]}:{address[1]}"
    for origin, status in (("http://evil.example", 403), ("null", 403), (f"http://{own}", 101), (None, 101)):
        with http1.Connection(address) as client:
            client.send(f"GET {path} HTTP/1.1\r\nHost: {own}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + (f"Origin: {origin}\r\n" if origin else "") + "\r\n")
            assert client.read_response().status == status, origin


def test_odd_endpoint_names(node, tunnel):
    """Names are percent-encoded in the path; a control character or one too long is refused, not stored."""
    for name in ("with-dash_and.dot~1", "UPPER", "a" * 200):
        tunnel(node, agents.Recorder(), name=name)
        assert request(node.proxy, host="x", headers=[("x-piko-endpoint", name)]).status == 200
    for name in ("a%00b", "a%0d%0ab", "n" * 20_000):
        with http1.Connection(node.upstream) as client:
            client.send(f"GET /piko/v1/upstream/{name} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
            assert client.read_response().status in (400, 404, 414, 431)


# ---- Well-behaved, in every odd way ----

KINDS = {
    "every byte on the wire": {"writes": agents.every_byte},
    "every byte a message": {"messages": agents.every_byte},
    "pieces of 13": {"messages": agents.pieces_of(13)},
    "pieces of 4099 in writes of 1000": {"messages": agents.pieces_of(4099), "writes": agents.pieces_of(1000)},
    "updates at once": {"updates": yamux.update_at_once},
    "acknowledges with the first data": {"eager_ack": False},
}


@pytest.mark.parametrize("kind", KINDS)
def test_odd_but_legal_agents(node, tunnel, host, kind):
    """Frames split at every byte, tiny messages, lazy acknowledgements: all requests are answered, byte-exact."""
    size = 3000 if "every byte" in kind else 300_000
    recorder = agents.Recorder(lambda seen: response(body=seen.body[::-1]))
    tunnel(node, recorder, **KINDS[kind])
    for index in range(5):
        data = random.randbytes(size)
        assert request(node.proxy, "POST", host=host, body=data, timeout=30 * SLOW).body == data[::-1]
    assert len(recorder.requests) == 5


def test_fragmented_messages_and_interleaved_control(node, tunnel, peers, host):
    """A message in fragments with pings between them is one stream of bytes; each ping is answered with its payload."""
    agent = tunnel(node, agents.Recorder())

    async def fragmented(data):
        for index in range(0, len(data), 5):
            await agent.socket.send_frame(websocket.BINARY if index == 0 else websocket.CONTINUATION, data[index:index + 5], fin=index + 5 >= len(data))
            await agent.socket.send_frame(websocket.PING, b"p%d" % index)
    agent.socket.send = fragmented
    for _ in range(5):
        assert request(node.proxy, host=host).body == b"hello"
    wait_until(lambda: b"p0" in agent.socket.pongs, what="a pong")


def test_tiny_windows(node, tunnel, host):
    """The agent gives window back one byte at a time: the upload crawls, but arrives, and the server never overruns it."""
    async def trickle(stream):
        amount, stream.unreported = stream.unreported, 0
        for _ in range(min(amount, 300)):
            await stream.give_window(1)
        if amount > 300:
            await stream.give_window(amount - 300)
    recorder = agents.Recorder()
    tunnel(node, recorder, updates=trickle)
    data = random.randbytes(800_000)
    assert request(node.proxy, "POST", host=host, body=data, timeout=60 * SLOW).status == 200
    assert recorder.requests[0].body == data


def test_server_respects_the_window(node, tunnel, peers, host):
    """No window update at all: exactly 256 KiB arrive, then the server waits (the judge checks it never sends more)."""
    got = [0]

    async def handler(stream):
        while data := await stream.read():
            got[0] += len(data)
    agent = tunnel(node, handler, updates=yamux.update_never)
    with http1.Connection(node.proxy) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10000000\r\n\r\n")
        client.socket.settimeout(0.5)
        try:
            for _ in range(100):
                client.socket.send(b"x" * 65536)
        except TimeoutError:
            pass
        wait_until(lambda: got[0] == yamux.INITIAL_WINDOW, what=lambda: f"the whole window used: {got[0]}")
        client.reset()
    wait_until(lambda: not agent.session.streams, what="the stream is ended")


def test_window_updates_from_the_server(node, tunnel, host):
    """A download much larger than the window passes: the server gives back what its client took."""
    data = random.randbytes(1 << 20)

    async def handler(stream):
        await http1.read_message(stream)
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(data) * 8))
        for _ in range(8):
            await stream.write(data)
        await stream.finish()
    tunnel(node, handler)
    assert request(node.proxy, host=host, timeout=60 * SLOW).body == data * 8


def test_many_streams_at_once(node, tunnel, host):
    """200 requests pend at once over one tunnel, and are answered in a random order."""
    count = 200
    waiting = []
    arrived = threading.Event()

    async def respond(seen):
        event = asyncio.Event()
        waiting.append((event, asyncio.get_running_loop()))
        if len(waiting) == count:
            arrived.set()
        await event.wait()
        return response(body=seen.target.encode())
    tunnel(node, agents.Recorder(respond))
    failures = []

    def client(number):
        try:
            assert request(node.proxy, target=f"/{number}", host=host, timeout=60 * SLOW).body == f"/{number}".encode()
        except Exception as error:
            failures.append(error)
    threads = [threading.Thread(target=client, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    assert arrived.wait(30 * SLOW), f"{len(waiting)} of {count} requests arrived: {failures}"
    random.shuffle(waiting)
    for event, loop in waiting:
        loop.call_soon_threadsafe(event.set)
    for thread in threads:
        thread.join()
    assert failures == []


def test_streams_are_even_and_opened_properly(node, tunnel, peers, host):
    """Ids 2, 4, …: the judge in the session checks parity and order; here that the first is 2."""
    agent = tunnel(node)
    request(node.proxy, host=host, headers=[("Connection", "close")])
    assert agent.session.accepted_total >= 1 and agent.session.last_accepted % 2 == 0
    assert agent.session.last_accepted == 2 * agent.session.accepted_total


def test_pings_are_answered(node, tunnel, peers):
    agent = tunnel(node)
    for value in (0, 1, 0xFFFFFFFF):
        peers.call(agent.session.ping(value), 5 * SLOW)


def test_go_away_then_close(node, tunnel, peers, host, endpoint):
    """Go-away takes the tunnel out of routing at once; no stream is opened after it."""
    agent = tunnel(node)
    request(node.proxy, host=host)
    peers.call(agent.session.go_away())
    peers.call(agent.session.ping(5))
    agent.session.go_away_sent_seen = True
    wait_until(lambda: endpoint not in endpoints(node), what="the endpoint is withdrawn")
    assert request(node.proxy, host=host).status == 502


def test_half_close_on_http_streams(node, tunnel, host):
    """The agent finishes its half while the request's body still comes: the answer reaches the client at once."""
    async def handler(stream):
        await stream.read_until(b"\r\n\r\n")
        await stream.write(response(body=b"early"))
        await stream.finish()
        while await stream.read():
            pass
    tunnel(node, handler)
    with http1.Connection(node.proxy) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\n\r\nhalf")
        assert client.read_response("POST").body == b"early"


def test_agents_that_reset_in_the_answer(node, tunnel, host):
    async def handler(stream):
        await http1.read_message(stream)
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
        await stream.reset()
    agent = tunnel(node, handler)
    for _ in range(20):
        with pytest.raises((EOFError, ConnectionError)):
            request(node.proxy, host=host)
    wait_until(lambda: not agent.session.streams, what="no stream left")


# ---- Hostile ----

async def websocket_close_code(agent, timeout=10):
    """The code with which the server closed the WebSocket; None when it just ended."""
    try:
        await asyncio.wait_for(agent.session.end_event.wait(), timeout * SLOW)
    except TimeoutError:
        return "still open"
    return agent.socket.close_code


@pytest.mark.parametrize("name, frame, codes", [
    ("unmasked", websocket.encode_frame(websocket.BINARY, b"x" * 20), (1002,)),
    ("rsv", websocket.encode_frame(websocket.BINARY, b"x", mask=b"abcd", rsv=4), (1002,)),
    ("length 2^63", websocket.encode_frame(websocket.BINARY, b"", mask=b"abcd", declared_length=1 << 63, length_bytes=8), (1002, 1009)),
    ("length 2^62", websocket.encode_frame(websocket.BINARY, b"", mask=b"abcd", declared_length=1 << 62, length_bytes=8), (1002, 1009, "still open")),
    ("fragmented control", websocket.encode_frame(websocket.PING, b"x", mask=b"abcd", fin=False), (1002,)),
    ("large control", websocket.encode_frame(websocket.PING, b"x" * 126, mask=b"abcd"), (1002,)),
    ("text", websocket.encode_frame(websocket.TEXT, b"text", mask=b"abcd"), (1003,)),
    ("unknown opcode", websocket.encode_frame(3, b"x", mask=b"abcd"), (1002,)),
    ("stray continuation", websocket.encode_frame(websocket.CONTINUATION, b"x", mask=b"abcd"), (1002,)),
    ("message in a message", websocket.encode_frame(websocket.BINARY, b"", mask=b"abcd", fin=False) + websocket.encode_frame(websocket.BINARY, b"x", mask=b"abcd"), (1002,)),
    ("close of one byte", websocket.encode_frame(websocket.CLOSE, b"\x03", mask=b"abcd"), (1002,)),
    ("close code 1005", websocket.encode_frame(websocket.CLOSE, b"\x03\xed", mask=b"abcd"), (1002,)),
    ("longest length form", websocket.encode_frame(websocket.BINARY, b"x", mask=b"abcd", length_bytes=8), (1002,)),
])
def test_row_18_websocket_framing(node, tunnel, peers, host, name, frame, codes):
    """Each breach ends the tunnel with the right close code; nothing else is hurt."""
    agent = tunnel(node, judged=False)

    async def attack():
        await agent.socket.write_raw(frame)
        return await websocket_close_code(agent, 2 if "still open" in codes else 10)
    assert peers.call(attack(), 20 * SLOW) in codes
    if "still open" in codes:
        peers.call(agent.abort())


HOSTILE_YAMUX = {
    "version 1": yamux.header(0, 0, 0, 0, version=1),
    "unknown type": yamux.header(7, 0, 2, 0),
    "data on stream 0": yamux.header(0, 0, 0, 5) + b"hello",
    "syn with the server's parity": yamux.header(1, yamux.SYN, 2, 0),
    "syn + data over the window (row 30)": yamux.header(0, yamux.SYN, 1, 262145) + b"x" * 262145,
    "a data frame of 4 GiB": yamux.header(0, 0, 1, 0xFFFFFFFF) + b"x" * 1000,
}


@pytest.mark.parametrize("name", HOSTILE_YAMUX)
def test_hostile_yamux_frames_end_the_session(node, tunnel, peers, host, name):
    agent = tunnel(node, judged=False)
    assert request(node.proxy, host=host).status == 200

    async def attack():
        await agent.session.send_raw(HOSTILE_YAMUX[name])
        await asyncio.wait_for(agent.session.end_event.wait(), 10 * SLOW)
    peers.call(attack(), 20 * SLOW)


def test_row_30_data_over_the_window(node, tunnel, peers, host):
    """More than the window on an open stream is a breach of the session."""
    attacked = threading.Event()

    async def handler(stream):
        await stream.read_until(b"\r\n\r\n")
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        stream.send_window = 1 << 30
        await stream.write(b"x" * 5_000_000)
        attacked.set()
    agent = tunnel(node, handler, judged=False)
    with http1.Connection(node.proxy, receive_buffer=8192) as client:
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
        client.read_until(b"\r\n\r\n")

        async def ended():
            await asyncio.wait_for(agent.session.end_event.wait(), 10 * SLOW)
        peers.call(ended(), 20 * SLOW)


def test_row_31_window_overflow(node, tunnel, peers, host):
    """Window updates of 2^32-1 over and over: clamped or refused; the node lives and serves others."""
    agent = tunnel(node, judged=False)
    hold = []

    async def handler(stream):
        hold.append(stream)
        await asyncio.sleep(60)
    agent.handler = handler
    client = http1.Connection(node.proxy)
    client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
    wait_until(lambda: hold, what="the stream")

    async def attack():
        try:
            for _ in range(100):
                await agent.session.send_frame(yamux.WINDOW_UPDATE, 0, hold[0].number, 0xFFFFFFFF)
        except ConnectionError:
            pass
    peers.call(attack())
    client.close()
    peers.call(agent.abort())
    tunnel(node)
    assert request(node.proxy, host=host).status == 200


@pytest.mark.parametrize("attack", ["syn flood", "syn rst churn", "ping flood", "unknown ids", "empty data", "window updates of nothing"])
def test_row_32_floods_are_bounded(node, tunnel, peers, endpoint, attack):
    """An agent that opens streams (which no agent does) or floods: capped, memory bounded, others unaffected."""
    name = endpoint + "good"
    tunnel(node, agents.Recorder(), name=name)
    agent = tunnel(node, judged=False)
    before = {pid: resident_bytes(pid) for pid in node.workers()}
    count = scaled(1_000_000, 60_000)

    def frames(start, stop):
        for index in range(start, stop):
            number = 1 + 2 * index
            if attack == "syn flood":
                yield yamux.header(1, yamux.SYN, number, 0)
            elif attack == "syn rst churn":
                yield yamux.header(1, yamux.SYN, number, 0) + yamux.header(1, yamux.RST, number, 0)
            elif attack == "ping flood":
                yield yamux.header(2, yamux.SYN, 0, index)
            elif attack == "unknown ids":
                yield yamux.header(0, 0, 2 * index + 2, 1) + b"x"
            elif attack == "empty data":
                yield yamux.header(0, 0, 2, 0)
            else:
                yield yamux.header(1, 0, 2, 0)

    async def flood():
        try:
            for start in range(0, count, 2000):
                await agent.session.send_raw(b"".join(frames(start, start + 2000)))
                if agent.session.ended:
                    return
        except ConnectionError:
            pass
    future = peers.start(flood())
    for _ in range(30):
        assert request(node.proxy, host=f"{name}.x.y", timeout=10 * SLOW).status == 200
    future.result(120 * SLOW)
    for pid, resident in before.items():
        assert resident_bytes(pid) - resident < 32 << 20, "memory grew"
    peers.call(agent.abort())
    assert request(node.proxy, host=f"{name}.x.y").status == 200


def test_row_32_syn_after_go_away(node, tunnel, peers):
    agent = tunnel(node, judged=False)

    async def attack():
        await agent.session.go_away()
        try:
            for index in range(100):
                await agent.session.send_frame(yamux.WINDOW_UPDATE, yamux.SYN, 1 + 2 * index, 0)
            await asyncio.sleep(0.1)
        except ConnectionError:
            pass
    peers.call(attack())
    peers.call(agent.abort())


def test_row_33_stalled_agent_hurts_only_itself(node, tunnel, peers, endpoint):
    """An agent that takes nothing while many requests pend; another agent's requests go on."""
    async def never(stream):
        await asyncio.sleep(600)
    agent = tunnel(node, never, name=endpoint + "stalled", updates=yamux.update_never, judged=False)
    tunnel(node, agents.Recorder(), name=endpoint + "good")
    clients = [http1.Connection(node.proxy) for _ in range(scaled(200, 50))]
    for client in clients:
        client.socket.settimeout(0.2)
        client.send(f"POST / HTTP/1.1\r\nHost: {endpoint}stalled.x.y\r\nContent-Length: 1000000\r\n\r\n")
        try:
            client.socket.send(b"x" * 300_000)
        except TimeoutError:
            pass
    for _ in range(50):
        began = time.monotonic()
        assert request(node.proxy, host=f"{endpoint}good.x.y").status == 200
        assert time.monotonic() - began < 2 * SLOW
    for client in clients:
        client.close()
    peers.call(agent.abort())


def test_agent_that_stops_reading(node, tunnel, peers, endpoint):
    """The agent's TCP connection itself is not read: the worker's queue for it is bounded; others go on."""
    agent = tunnel(node, agents.Recorder(), name=endpoint + "deaf", judged=False)
    tunnel(node, agents.Recorder(), name=endpoint + "good")
    peers.loop.call_soon_threadsafe(agent.socket.writer.transport.pause_reading)
    before = {pid: resident_bytes(pid) for pid in node.workers()}
    clients = [http1.Connection(node.proxy) for _ in range(100)]
    for client in clients:
        client.socket.settimeout(0.05)
        try:
            client.send(f"POST / HTTP/1.1\r\nHost: {endpoint}deaf.x.y\r\nContent-Length: 10000000\r\n\r\n")
            for _ in range(20):
                client.socket.send(b"x" * 65536)
        except (TimeoutError, ConnectionError):
            pass
    for _ in range(20):
        assert request(node.proxy, host=f"{endpoint}good.x.y").status == 200
    for pid, resident in before.items():
        assert resident_bytes(pid) - resident < 192 << 20, "memory grew"  # a ring may hand over all that a client sent before it is stopped
    for client in clients:
        client.close()
    peers.call(agent.abort())


@pytest.mark.soak
def test_dead_agent_is_noticed(node, tunnel, peers, endpoint):
    """An agent that answers no ping is dropped after keep-alive 30 s + 10 s, and its endpoint withdrawn."""
    agent = tunnel(node, answers_pings=False)
    wait_until(lambda: endpoint not in endpoints(node), 60, "the endpoint is withdrawn")
    assert agent.session.pings_received


def test_half_open_handshake_holds_nothing(node):
    """Connections that never say a word on the upstream port do not keep others out."""
    clients = [http1.Connection(node.upstream) for _ in range(100)]
    clients[0].send("GET /piko/v1/up")
    assert request(node.admin, target="/health", host="x").status == 200
    for client in clients:
        client.close()
