"""Peers that are slow, or never read: nothing is cut while it moves, and nothing grows while it stands still."""

import asyncio
import socket
import subprocess
import threading
import time

import pytest

from conftest import connection
from peer import agent as agents
from peer import http1
from peer.http1 import chunk, request, response, wait_until
from programs import SLOW, resident_bytes


def test_slow_reader_that_makes_progress_is_not_cut(new_node, tunnel, host):
    """proxy.http.write_timeout is the time without progress, however much more waits behind what the client takes."""
    node = new_node(workers=1, arguments=["--proxy.http.write-timeout", "500ms"])

    async def handler(stream):
        await http1.read_message(stream)
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n")
        for _ in range(200):
            await stream.write(b"x" * 100_000)
        await stream.finish()
    tunnel(node, handler)
    with connection(node, receive_buffer=65536, timeout=10 * SLOW) as client:
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
        client.read_until(b"\r\n\r\n")
        began = time.monotonic()
        total = len(client.buffer)
        client.buffer = b""
        while total < 20_000_000:
            total += len(client.read_exactly(min(20_000, 20_000_000 - total)))
            time.sleep(max(0, began + total / 4_000_000 - time.monotonic()))
        assert total == 20_000_000


def test_reader_that_stops_is_cut_in_time(new_node, tunnel, host):
    node = new_node(workers=1, arguments=["--proxy.http.write-timeout", "500ms"])
    lost = threading.Event()

    async def handler(stream):
        await http1.read_message(stream)
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")
        try:
            for _ in range(2000):
                await stream.write(b"x" * 100_000)
        except ConnectionError:
            lost.set()
    tunnel(node, handler)
    with connection(node, receive_buffer=65536) as client:
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
        client.read_until(b"\r\n\r\n")
        assert lost.wait(10 * SLOW)


def test_a_slow_reader_holds_little_of_the_kernel(new_node, tunnel, host):
    """What waits for a client that takes nothing stays with the service, and is not megabytes in the kernel's queue."""
    node = new_node(workers=1)
    recorder = agents.Recorder(body=b"z" * 8_000_000)
    tunnel(node, recorder)
    with connection(node, receive_buffer=4096) as client:
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
        client.read_until(b"\r\n\r\n")
        time.sleep(1)
        lines = subprocess.run(["ss", "-tnH", "state", "established", f"( sport = :{node.proxy[1]} and dport = :{client.socket.getsockname()[1]} )"],
                               check=True, capture_output=True, text=True).stdout.split()
        assert 1_000 < int(lines[1]) < 600_000, lines
        client.reset()


@pytest.mark.parametrize("kind", ["served", "refused"])
def test_pipelining_without_reading_is_bounded(new_node, tunnel, host, kind):
    """Requests of a client that reads no answer wait: their answers are not made, and memory does not grow."""
    node = new_node(workers=1)
    recorder = agents.Recorder(body=b"y" * 4_000)
    tunnel(node, recorder)
    wire = f"GET / HTTP/1.1\r\nHost: {host if kind == 'served' else 'nobody.example.com'}\r\n\r\n".encode() * 1_000
    request(node.proxy, host=host)
    before = sum(map(resident_bytes, node.processes()))
    with connection(node, receive_buffer=8192) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        client.socket.settimeout(2.0)
        total = 0
        try:
            while total < 24_000_000:
                total += client.socket.send(wire)
        except TimeoutError:
            pass
        grown = sum(map(resident_bytes, node.processes())) - before
        assert total < 24_000_000, f"{total} bytes of requests were taken, memory grew by {grown >> 20} MiB"
        assert grown < 16 << 20, f"memory grew by {grown >> 20} MiB"
        client.reset()


def test_pipelined_requests_go_on_when_the_client_reads(node, tunnel, host):
    """The other side of it: every one of many large answers comes once the client begins to read."""
    recorder = agents.Recorder(lambda seen: response(body=seen.target.encode() * 20_000))
    tunnel(node, recorder)
    with connection(node, receive_buffer=8192, timeout=30 * SLOW) as client:
        client.send(b"".join(f"GET /{number:03} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() for number in range(200)))
        time.sleep(0.5)
        for number in range(200):
            assert client.read_response().body == f"/{number:03}".encode() * 20_000


class FarAgent:
    """Accepts no stream before `let` is set, as an agent at the end of a long line; then answers."""

    def __init__(self):
        self.let = threading.Event()
        self.streams = 0

    async def __call__(self, stream):
        self.streams += 1
        while not self.let.is_set():
            await asyncio.sleep(0.02)
        await http1.read_message(stream)
        await stream.write(response(body=b"far"))
        await stream.finish()


def test_more_requests_at_once_than_a_session_may_open(new_node, tunnel, host):
    """256 streams may wait to be accepted: further requests wait for that themselves, and are not refused."""
    node = new_node(workers=1)
    agent = FarAgent()
    tunnel(node, agent, acknowledges=False)
    clients = [connection(node, timeout=30 * SLOW) for _ in range(600)]
    for client in clients:
        client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\n\r\nx")
    wait_until(lambda: agent.streams == 256, what="256 streams")
    clients[-1].reset()
    agent.let.set()
    for client in clients[:-1]:
        assert client.read_response("POST").body == b"far"
        client.close()


@pytest.mark.parametrize("end", ["timeout", "gone"])
def test_waiting_for_a_stream_ends(new_node, tunnel, peers, host, end):
    node = new_node(workers=1, arguments=["--proxy.timeout", "2s"] if end == "timeout" else [])
    agent = FarAgent()
    session = tunnel(node, agent, judged=False, acknowledges=False)
    clients = [connection(node, timeout=20 * SLOW) for _ in range(300)]
    for client in clients:
        client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\n\r\nx")
    wait_until(lambda: agent.streams == 256, what="256 streams")
    if end == "gone":
        peers.call(session.abort())
    for client in clients:
        assert client.read_response("POST").status == (504 if end == "timeout" else 502)
        client.close()


@pytest.mark.parametrize("way", ["reset", "timeout", "bad"])
def test_final_errors_follow_informational_answers(new_node, tunnel, host, way):
    """A service that fails behind a 100 or 103 has not answered yet: the client still gets a status."""
    node = new_node(workers=1, arguments=["--proxy.timeout", "1s"])

    async def handler(stream):
        await stream.read_until(b"\r\n\r\n")
        await stream.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        await asyncio.sleep(0.2)
        if way == "reset":
            await stream.reset()
        elif way == "bad":
            await stream.write(b"nonsense\r\n\r\n")
        else:
            await asyncio.sleep(60)
    tunnel(node, handler)
    with connection(node) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n")
        assert client.read_response("POST").status == (504 if way == "timeout" else 502)


def test_client_gone_stops_a_service_that_goes_on_sending(node, tunnel, endpoint):
    """A TCP client leaves as the public ones do, without a Close frame, while the service sends without end: the service is
    stopped after at most some windows."""
    from test_tcp_forward import TcpTunnel
    sent = [0]
    stopped = threading.Event()

    async def handler(stream):
        try:
            while sent[0] < 200_000_000:
                await stream.write(b"z" * 10_000)
                sent[0] += 10_000
        except ConnectionError:
            stopped.set()
    tunnel(node, handler)
    client = TcpTunnel(node, endpoint)
    client.connection.finish()
    assert stopped.wait(10 * SLOW), f"{sent[0]} bytes were sent to nobody"


def test_pipelined_requests_before_a_half_close_are_all_answered(node, tunnel, host):
    async def respond(seen):
        await asyncio.sleep(0.05)
        return response(body=seen.target.encode())
    tunnel(node, agents.Recorder(respond))
    with connection(node) as client:
        client.send(b"".join(f"GET /{number} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() for number in range(5)))
        client.finish()
        for number in range(5):
            answer = client.read_response()
            assert answer.body == f"/{number}".encode()
        assert "close" in answer.options() and client.ends()
