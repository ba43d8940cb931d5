"""Edges where streams over data connections once behaved otherwise than streams over a session: a retry after a body that a
pump had begun, readers that pause or are slow, ends and resets that come early. Each test runs with both transports."""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import random
import signal
import socket
import struct
import termios
import threading
import time

import pytest

from peer import agent as agents
from peer import http1, websocket
from peer.http1 import request, response, wait_until
from programs import LIBC, SLOW, descriptors, metric
from test_direct import RawClient, endpoints


def on_data(agent, transport):
    """Whether a stream has come over a data connection, as it must have for a test of the direct transport to mean anything."""
    return transport != "direct" or len(agent.pool.clients) > 0


# ---- Requests ----

async def until_received(stream):
    """Waits (a second at most) until the other side's kernel holds all that was written on a TCP stream."""
    end = time.monotonic() + 1
    waiting = struct.pack("i", 1)
    while (stream.writer.transport.get_write_buffer_size() or struct.unpack("i", waiting)[0]) and time.monotonic() < end:
        waiting = fcntl.ioctl(stream.writer.get_extra_info("socket").fileno(), termios.TIOCOUTQ, waiting)
        await asyncio.sleep(0.005)


def test_put_of_which_a_pump_has_sent_a_part_is_not_sent_again(new_node, tunnel, transport, host):
    """Its upstream breaks in the middle of a body that no code of ours has seen: behind the response before, which came while
    the worker did not run, so that its pump and the body's start in the same turn."""
    node = new_node(workers=1)
    body = b"".join(b"%07d\n" % index for index in range(131_072))
    puts, taken, late, frozen = [], [], threading.Event(), threading.Event()

    async def handler(stream):
        while True:
            seen = await http1.read_message(stream, on_head=lambda head: "stop" if head.method == "PUT" else None)
            if seen.method == "PUT":
                puts.append(seen)
                if len(puts) == 1:
                    taken.append(await stream.read_exactly(200_000))
                await stream.reset()
                return
            if seen.target == "/late":
                late.set()
                while not frozen.is_set():
                    await asyncio.sleep(0.005)
                await stream.write(response(body=b"x" * 72_000))
                if transport == "direct":
                    await until_received(stream)
                    os.kill(worker, signal.SIGCONT)
            else:
                await stream.write(response(body=b"w" * 2_000_000))
    agent = tunnel(node, handler)
    worker, = node.workers()
    with http1.Connection(node.proxy, timeout=10 * SLOW) as client:
        for _ in range(4):               # the kernel's buffers grow, so that a whole response waits for the worker
            assert len(client.request(host=host).body) == 2_000_000
        client.send(f"GET /late HTTP/1.1\r\nHost: {host}\r\n\r\nPUT / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n")
        assert late.wait(10 * SLOW)
        if transport == "direct":        # a session's flow control would wait for the worker
            os.kill(worker, signal.SIGSTOP)
        frozen.set()
        assert len(client.read_response().body) == 72_000
        wait_until(lambda: puts, what="the PUT")
        client.send(body[:200_000])
        wait_until(lambda: taken, what="the body's beginning")
        try:
            client.send(body[200_000:])
            outcome = client.read_response("PUT").status
        except (OSError, EOFError):
            outcome = "cut"
    assert taken == [body[:200_000]] and on_data(agent, transport)
    assert len(puts) == 1, "it was sent again, though its beginning is gone"
    assert outcome in (502, "cut")


@contextlib.contextmanager
def uploading(client, host, count):
    """A thread sends a POST with so many bytes meanwhile, as far as they are taken: the answer tells."""
    def upload():
        with contextlib.suppress(OSError):
            client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {count}\r\n\r\n".encode() + bytes(count))
    sender = threading.Thread(target=upload)
    sender.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            client.socket.shutdown(socket.SHUT_RDWR)
        sender.join()


def test_slow_service_is_not_a_slow_client(new_node, tunnel, transport, host):
    """proxy.http.read_timeout is about the client: a service that has begun its response and lets the upload wait for longer
    loses nothing."""
    node = new_node(workers=1, arguments=["--proxy.http.read-timeout", "1s"])
    count = 24_000_000

    async def handler(stream):
        seen = await http1.read_message(stream, on_head=lambda head: "stop")
        if seen.method == "GET":
            await stream.write(response(headers=[("Connection", "close")]))
            return
        await stream.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + http1.chunk(b"begun"))
        await asyncio.sleep(3)
        left = count
        while left:
            piece = await stream.read()
            assert piece, f"{left} bytes are missing"
            left -= len(piece)
        await stream.write(http1.chunk(b" and whole") + b"0\r\n\r\n")
    agent = tunnel(node, handler)
    assert request(node.proxy, host=host).status == 200
    with http1.Connection(node.proxy, timeout=20 * SLOW) as client:
        with uploading(client, host, count):
            assert client.read_response("POST").body == b"begun and whole"
    assert on_data(agent, transport)


def test_service_that_takes_no_upload_has_only_its_time(new_node, tunnel, transport, host):
    """The other side of it: without a response, proxy.timeout holds."""
    node = new_node(workers=1, arguments=["--proxy.timeout", "1s"])
    ended = threading.Event()

    async def handler(stream):
        seen = await http1.read_message(stream, on_head=lambda head: "stop")
        if seen.method == "GET":
            await stream.write(response(headers=[("Connection", "close")]))
            return
        while not ended.is_set():
            await asyncio.sleep(0.02)
    agent = tunnel(node, handler)
    assert request(node.proxy, host=host).status == 200
    count = 24_000_000
    with http1.Connection(node.proxy, timeout=8 * SLOW) as client:
        with uploading(client, host, count):
            try:
                outcome = client.read_response("POST").status
            except ConnectionError:
                outcome = "cut"          # behind the 504, when that was not read in time
            finally:
                ended.set()
    assert outcome in (504, "cut") and on_data(agent, transport)


def test_time_limit_holds_on_a_connection_that_was_long_idle(new_node, tunnel, transport, host):
    """Such a connection is watched for signs of life; the request's time is its time all the same."""
    node = new_node(workers=1, arguments=["--proxy.timeout", "1s"])

    async def respond(seen):
        if seen.target == "/slow":
            await asyncio.sleep(4)
        return response()
    agent = tunnel(node, agents.Recorder(respond))

    def slow():
        began = time.monotonic()
        assert request(node.proxy, target="/slow", host=host).status == 504
        return time.monotonic() - began
    assert slow() < 2.5 * SLOW
    assert request(node.proxy, host=host).status == 200
    if transport == "direct":
        time.sleep(5.2)                  # from 5 s on a connection is doubtful
    assert slow() < 2.5 * SLOW
    assert on_data(agent, transport)


def test_raw_client_does_not_wait_for_what_never_comes(new_node, peers, transport, endpoint, host):
    """The session is lost, and no data connection is left but one that has served requests: a raw stream has no way to go, and
    its client is told at once."""
    node = new_node(workers=1, arguments=["--proxy.timeout", "30s"])
    agent = peers.call(agents.Agent.connect(node.upstream, endpoint, agents.Recorder(), transport=transport, waiting=1))
    if agent.pool:
        agent.pool.is_ending = True      # opens no other
    assert request(node.proxy, host=host).status == 200
    assert on_data(agent, transport)

    async def lose_session():
        agent.session.abort()
    peers.call(lose_session())
    wait_until(lambda: endpoint not in endpoints(node), what="the session is gone")
    if transport == "direct":
        assert request(node.proxy, host=host).status == 200, "requests are still served"
    began = time.monotonic()
    client = RawClient(node, endpoint)
    assert client.answer.status == 502 and time.monotonic() - began < 5 * SLOW
    client.connection.close()
    peers.call(agent.abort())


# ---- Readers that pause, or are slow ----

def user_timeouts(pid):
    """{address of the peer: TCP_USER_TIMEOUT in milliseconds} of a process's TCP connections."""
    pidfd_getfd = 438
    found = {}
    pidfd = os.pidfd_open(pid)
    try:
        for number, what in descriptors(pid).items():
            if not what.startswith("socket:"):
                continue
            copy = LIBC.syscall(pidfd_getfd, pidfd, number, 0)
            if copy < 0:
                if ctypes.get_errno() in (1, 38):
                    pytest.skip("this machine lets no process look at another's sockets")
                continue                 # closed meanwhile
            with socket.socket(fileno=copy) as one:
                try:
                    if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
                        found[one.getpeername()[:2]] = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                except OSError:
                    pass                 # it listens, or just ended
    finally:
        os.close(pidfd)
    return found


def test_no_time_limit_of_the_kernel_on_streams(new_node, tunnel, transport):
    """A limit on unacknowledged bytes would end a stream whose reader merely pauses; a session's peer always reads."""
    node = new_node(workers=1)
    agent = tunnel(node, agents.echo)
    timeouts = user_timeouts(*node.workers())
    assert timeouts[agent.socket.writer.get_extra_info("sockname")[:2]] == 30_000
    if transport == "direct":
        data = [writer.get_extra_info("sockname")[:2] for writer in agent.pool.writers]
        assert [timeouts[address] for address in data] == [0] * 4


@pytest.mark.soak
def test_service_that_pauses_reading_for_long_is_not_reset(new_node, real_agent, service, endpoint):
    node = new_node(workers=1)
    count, pauses = 40_000_000, [0, 0, 0, 45]

    async def handler(stream):
        await stream.write(b"hello")
        await asyncio.sleep(pauses.pop(0))
        total = 0
        while piece := await stream.read():
            total += len(piece)
        await stream.write(b"%d" % total)
        await stream.finish()
    real_agent(node.upstream, "tcp", endpoint, service(handler).port)

    def transfer(count):
        client = RawClient(node, endpoint)
        assert client.read_exactly(5) == b"hello"
        client.socket.settimeout(80 * SLOW)
        client.socket.sendall(bytes(count))
        client.finish()
        assert client.read_to_end() == b"%d" % count
        client.connection.close()
    for size in (1, 1, 1, count):        # the agent opens data connections once it is called
        transfer(size)
    assert pauses == []


def test_very_slow_reader_that_makes_progress_is_not_cut(new_node, tunnel, transport, host):
    """Its progress is seen long before the kernel has room for more."""
    node = new_node(workers=1, arguments=["--proxy.http.write-timeout", "1s"])
    body = random.randbytes(1_000_000) * 12
    agent = tunnel(node, agents.Recorder(lambda seen: response(body=body)))
    with http1.Connection(node.proxy, receive_buffer=8192, timeout=20 * SLOW) as client:
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
        client.read_until(b"\r\n\r\n")
        pieces = [client.buffer]
        end = time.monotonic() + 4
        while time.monotonic() < end:
            pieces.append(client.socket.recv(8000))
            time.sleep(0.1)
        client.buffer = b""
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        left = len(body) - sum(map(len, pieces))
        assert left > len(body) // 2, "the most of it still waits"
        assert b"".join(pieces) + client.read_exactly(left) == body
    assert on_data(agent, transport)


# ---- Ends and resets ----

@pytest.mark.parametrize("kind", ["raw", "websocket"])
def test_end_that_came_with_a_pipelined_upgrade(new_node, tunnel, transport, endpoint, host, kind):
    """Behind a request comes an upgrade to the TCP endpoint, with bytes and the end of the client's half: all reaches the
    service, and nothing stays."""
    node = new_node(workers=1)
    seen = []

    async def requests(stream):
        while True:
            await http1.read_message(stream)
            await asyncio.sleep(0.3)     # what follows the request has come by then
            await stream.write(response())

    async def streams(stream):
        try:
            data = await stream.read_to_end()
        except OSError:
            data = "reset"
        seen.append(data)
        await stream.write(b"%d bytes" % len(data))
        await stream.finish()
    pools = [agent.pool for agent in (tunnel(node, requests), tunnel(node, streams, name=endpoint + "-tcp"))]

    def settled():
        """No stream is carried, and as many data connections wait as the agents keep."""
        return metric(node, "piko_pumps") == 0 and all(pool.idle == pool.count for pool in pools if pool)

    def run():
        with http1.Connection(node.proxy, timeout=10 * SLOW) as client:
            client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"
                        f"GET /_piko/v1/tcp/{endpoint}-tcp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n".encode()
                        + (b"Upgrade: piko-raw/1\r\n\r\nhello" if kind == "raw" else
                           b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                           + websocket.encode_frame(websocket.BINARY, b"hello", mask=b"abcd")))
            client.finish()
            assert client.read_response().status == 200
            assert client.read_response().status == 101
            wait_until(lambda: seen, what="the end of the stream")
            if kind == "raw":
                assert seen == [b"hello"] and client.read_to_end() == b"5 bytes"
            seen.clear()
    first = RawClient(node, endpoint + "-tcp")
    first.finish()
    assert first.read_to_end() == b"0 bytes"
    first.connection.close()
    assert request(node.proxy, host=host).status == 200
    seen.clear()
    wait_until(settled, what="nothing is going on")
    before = node.descriptor_counts()
    for _ in range(3):
        run()
    wait_until(settled, what=lambda: f"nothing is left: {metric(node, 'piko_pumps')} pumps")
    node.assert_descriptors_return_to(before)
    if transport == "direct":
        assert all(pool.clients for pool in pools)


@pytest.mark.parametrize("kind", ["upgrade", "until close"])
def test_reset_by_the_service_stays_a_reset(new_node, real_agent, service, endpoint, host, kind):
    """On each of two workers, of which only one has the agent's session: neither an upgraded stream nor a response that ends
    with its connection may seem whole."""
    node = new_node(workers=2)
    resets = asyncio.Event()

    async def handler(stream):
        await http1.read_message(stream)
        if kind == "upgrade":
            await stream.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\nhello")
        else:
            await stream.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"y" * 100_000 + b"hello")
        await resets.wait()
        await stream.reset()
    target = service(handler)
    real_agent(node.upstream, "http", endpoint, target.port)
    clients = [http1.Connection(node.proxy, timeout=10 * SLOW) for _ in range(8)]
    for client in clients:
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n" if kind == "upgrade"
                    else f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n")
    for client in clients:
        client.read_until(b"hello")
    target.server.get_loop().call_soon_threadsafe(resets.set)
    for client in clients:
        with pytest.raises(ConnectionResetError):
            assert client.read_to_end() == "never", "an end instead of a reset"
        client.close()
