"""Large transfers, byte-exact, while nobody's memory grows: 64 MiB in the everyday run, 1 GiB in soak."""

import hashlib
import socket
import threading
import time

import pytest

from peer import http1
from peer.http1 import Connection, request, wait_until
from programs import SLOW, resident_bytes, scaled
from tools.digest_stream import blocks, digest

SIZE = scaled(1 << 30, 64 << 20)
RESIDENT_MAX = 64 << 20


class BlockingService:
    """A plain threaded HTTP service: fast enough for gigabytes. POST answers the digest of its body; GET sends `SIZE` bytes."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.failures = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                accepted, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted):
        connection = Connection.__new__(Connection)
        connection.socket, connection.buffer, connection.timeout = accepted, b"", 120
        accepted.settimeout(300)
        try:
            while True:
                state = hashlib.blake2b()
                machine = http1.parse_message(False, body_sink=state.update)
                wish = next(machine)
                try:
                    while True:
                        kind, what = wish
                        wish = machine.send(connection.read_until(what) if kind == "until" else connection.read_exactly(what) if kind == "exactly" else connection.read(what))
                except StopIteration as stop:
                    seen = stop.value
                if seen.method == "POST":
                    connection.send(http1.response(body=state.hexdigest().encode()))
                elif seen.target == "/chunked":
                    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    for block in blocks(SIZE):
                        connection.send(http1.chunk(block))
                    connection.send(b"0\r\n\r\n")
                else:
                    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
                    for block in blocks(SIZE):
                        connection.send(block)
        except (EOFError, OSError):
            pass
        except Exception as error:
            self.failures.append(error)
        finally:
            accepted.close()

    def close(self):
        self.listener.close()


class Memory:
    """Watches the resident memory of processes while a test runs."""

    def __init__(self, pids):
        self.pids, self.peak, self.done = pids, dict.fromkeys(pids, 0), threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def _watch(self):
        while not self.done.wait(0.05):
            for pid in self.pids:
                try:
                    self.peak[pid] = max(self.peak[pid], resident_bytes(pid))
                except (FileNotFoundError, ProcessLookupError):
                    pass

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        if SLOW == 1:
            assert max(self.peak.values()) < RESIDENT_MAX, {pid: f"{peak >> 20} MiB" for pid, peak in self.peak.items()}


@pytest.fixture
def big(node, real_agent, endpoint):
    service = BlockingService()
    agent = real_agent(node.upstream, "http", endpoint, service.port, "--timeout", "5m")
    yield node, agent
    service.close()
    assert service.failures == []


@pytest.mark.timeout(900)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_up(big, host, framing):
    node, agent = big
    with Memory([agent.pid, *node.processes()]), Connection(node.proxy, timeout=300) as client:
        if framing == "length":
            client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {SIZE}\r\n\r\n")
            for block in blocks(SIZE):
                client.send(block)
        else:
            client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n")
            for block in blocks(SIZE):
                client.send(http1.chunk(block))
            client.send(b"0\r\n\r\n")
        assert client.read_response("POST").body.decode() == digest(SIZE)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_down(big, host, framing):
    node, agent = big
    state = hashlib.blake2b()
    with Memory([agent.pid, *node.processes()]), Connection(node.proxy, timeout=300) as client:
        client.send(f"GET /{framing} HTTP/1.1\r\nHost: {host}\r\n\r\n")
        client.read_response(body_sink=state.update)
    assert state.hexdigest() == digest(SIZE)


@pytest.mark.timeout(900)
def test_through_forward(node, real_agent, real_forward, endpoint):
    """Both directions at once through forward, server and agent."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        accepted, _ = listener.accept()
        state = hashlib.blake2b()

        def send():
            for block in blocks(SIZE):
                accepted.sendall(block)
        sender = threading.Thread(target=send)
        sender.start()
        while data := accepted.recv(1 << 20):
            state.update(data)
        sender.join()
        accepted.sendall(state.hexdigest().encode())
        accepted.close()
    threading.Thread(target=serve, daemon=True).start()
    agent = real_agent(node.upstream, "tcp", endpoint, listener.getsockname()[1])
    forward = real_forward(node.proxy, endpoint)
    with Memory([agent.pid, forward.pid, *node.processes()]), Connection(forward.address, timeout=300) as client:
        def send():
            for block in blocks(SIZE):
                client.send(block)
            client.finish()
        sender = threading.Thread(target=send)
        sender.start()
        state, left = hashlib.blake2b(), SIZE
        while left:
            piece = client.read(left)
            assert piece, f"{left} bytes are missing"
            state.update(piece)
            left -= len(piece)
        assert state.hexdigest() == digest(SIZE)
        assert client.read_to_end().decode() == digest(SIZE)
        sender.join()
    listener.close()


@pytest.mark.timeout(900)
def test_reader_that_stops(big, host):
    """A reader that stops (for 30 s in soak) blocks only itself; then it gets everything."""
    node, agent = big
    state = hashlib.blake2b()
    with Memory([agent.pid, *node.processes()]), Connection(node.proxy, timeout=300, receive_buffer=65536) as client:
        client.send(f"GET /length HTTP/1.1\r\nHost: {host}\r\n\r\n")
        client.socket.settimeout(30)
        end = time.monotonic() + scaled(30, 3)
        while time.monotonic() < end:
            assert request(node.proxy, "POST", host=host, body=b"x").body.decode() == hashlib.blake2b(b"x").hexdigest()
            time.sleep(0.02)
        client.read_response(body_sink=state.update)
    assert state.hexdigest() == digest(SIZE)
