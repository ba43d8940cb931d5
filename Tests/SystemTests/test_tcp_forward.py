"""Raw TCP: `/_piko/v1/tcp/ENDPOINT` on the proxy port by an independent WebSocket client, and `piko forward` in front of it."""

import asyncio
import json
import random
import socket
import threading
import time

import pytest

from peer import agent as agents
from peer import http1, websocket
from peer.http1 import request, wait_until
from programs import SLOW


class TcpTunnel:
    """A blocking client of /_piko/v1/tcp."""

    def __init__(self, node, endpoint, headers="", source=None):
        self.connection = http1.Connection(node.proxy, source=source)
        self.connection.send(f"GET /_piko/v1/tcp/{endpoint} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n")
        self.answer = self.connection.read_response()
        self.decoder = websocket.FrameDecoder(expects_masked=False)
        self.data = b""
        self.close_code = "none yet"

    def send(self, data, opcode=websocket.BINARY, **options):
        self.connection.send(websocket.encode_frame(opcode, data, mask=b"\x01\x02\x03\x04", **options))

    def fill(self):
        """More data; False at the end."""
        piece = self.connection.read()
        for frame in self.decoder.feed(piece):
            if frame.opcode == websocket.CLOSE:
                self.close_code = websocket.parse_close(frame.payload)
            elif frame.opcode in (websocket.BINARY, websocket.CONTINUATION):
                self.data += frame.payload
            else:
                assert frame.opcode == websocket.PONG, frame
        return bool(piece)

    def read_exactly(self, count):
        while len(self.data) < count:
            assert self.fill() and self.close_code == "none yet", f"ended with {self.data!r}, {self.close_code}"
        data, self.data = self.data[:count], self.data[count:]
        return data

    def read_to_close(self):
        while self.close_code == "none yet" and self.fill():
            pass
        data, self.data = self.data, b""
        return data


def test_bytes_both_ways(node, tunnel, endpoint):
    tunnel(node, agents.echo)
    client = TcpTunnel(node, endpoint)
    assert client.answer.status == 101
    for size in (1, 100, 65536, 500_000):
        data = random.randbytes(size)
        sender = threading.Thread(target=client.send, args=(data,))
        sender.start()
        assert client.read_exactly(size) == data
        sender.join()
    client.send(b"pi", fin=False)
    client.send(b"", opcode=websocket.PING)
    client.send(b"ng", opcode=websocket.CONTINUATION)
    assert client.read_exactly(4) == b"ping"
    client.send(b"\x03\xe8", opcode=websocket.CLOSE)
    client.read_to_close()
    assert client.close_code == 1000


def test_errors_come_before_101(node, tunnel, peers, endpoint):
    client = TcpTunnel(node, "nobody-listens")
    assert client.answer.status == 502 and json.loads(client.answer.body) == {"error": "no available upstreams"}
    for path, status in ((f"/_piko/v1/tcp/{endpoint}", (400, 426)), ("/_piko/v1/tcp/", (400, 404)), ("/_piko/other", (404,)), ("/_piko", (404,))):
        assert request(node.proxy, target=path, host=f"{endpoint}.x.y").status in status, path


def test_service_speaks_first_and_ends(node, tunnel, endpoint):
    """The service's bytes, all of them, then a proper Close."""
    async def handler(stream):
        await stream.write(b"banner" * 100_000)
        await stream.finish()
        await stream.read_to_end()
    tunnel(node, handler)
    client = TcpTunnel(node, endpoint)
    assert client.read_to_close() == b"banner" * 100_000
    assert client.close_code in (1000, None)


def test_client_close_is_the_end_of_its_half(node, tunnel, endpoint):
    """All that was sent before Close arrives, then the end."""
    got = []

    async def handler(stream):
        got.append(await stream.read_to_end())
        await stream.finish()
    tunnel(node, handler)
    client = TcpTunnel(node, endpoint)
    client.send(b"z" * 200_000)
    client.send(b"", opcode=websocket.CLOSE)
    wait_until(lambda: got, what="the service's end of stream")
    assert got == [b"z" * 200_000]
    client.read_to_close()
    assert client.connection.ends()


@pytest.mark.parametrize("name, wire, code", [
    ("unmasked", websocket.encode_frame(websocket.BINARY, b"x"), 1002),
    ("text", websocket.encode_frame(websocket.TEXT, b"x", mask=b"abcd"), 1003),
    ("rsv", websocket.encode_frame(websocket.BINARY, b"x", mask=b"abcd", rsv=1), 1002),
    ("large control", websocket.encode_frame(websocket.PING, b"x" * 126, mask=b"abcd"), 1002),
])
def test_row_18_on_the_tcp_path(node, tunnel, endpoint, name, wire, code):
    ended = threading.Event()

    async def handler(stream):
        try:
            await stream.read_to_end()
        finally:
            ended.set()
    tunnel(node, handler)
    client = TcpTunnel(node, endpoint)
    client.connection.send(wire)
    client.read_to_close()
    assert client.close_code == code
    assert ended.wait(10), "the stream to the agent is let go"


def test_dead_client_frees_the_stream(node, tunnel, endpoint):
    ended = threading.Event()

    async def handler(stream):
        try:
            await stream.read_to_end()
        finally:
            ended.set()
    agent = tunnel(node, handler)
    client = TcpTunnel(node, endpoint)
    client.connection.reset()
    assert ended.wait(10)


# ---- piko forward ----

def connect(address):
    return http1.Connection(address)


def test_forward_echo(node, tunnel, real_forward, endpoint):
    tunnel(node, agents.echo)
    forward = real_forward(node.proxy, endpoint)
    for _ in range(3):
        with connect(forward.address) as client:
            for size in (1, 1000, 300_000):
                data = random.randbytes(size)
                sender = threading.Thread(target=client.send, args=(data,))
                sender.start()
                assert client.read_exactly(size) == data
                sender.join()


def test_forward_half_close(node, tunnel, real_forward, real_agent, service, endpoint):
    """A client that shuts its half down gets the reply to all it sent, through forward, server and agent."""
    async def handler(stream):
        data = await stream.read_to_end()
        await stream.write(b"got %d" % len(data))
        await stream.finish()
    target = service(handler)
    real_agent(node.upstream, "tcp", endpoint, target.port)
    forward = real_forward(node.proxy, endpoint)
    for size in (0, 5, 400_000):
        with connect(forward.address) as client:
            client.send(b"x" * size)
            client.finish()
            assert client.read_to_end() == b"got %d" % size


def test_forward_service_ends_first(node, tunnel, real_forward, real_agent, service, endpoint):
    got = []

    async def handler(stream):
        await stream.write(b"banner" * 50_000)
        await stream.finish()
        got.append(await stream.read_to_end())
    real_agent(node.upstream, "tcp", endpoint, service(handler).port)
    forward = real_forward(node.proxy, endpoint)
    with connect(forward.address) as client:
        assert client.read_to_end() == b"banner" * 50_000
        client.send(b"after the service's end")
        client.finish()
        wait_until(lambda: got, what="the client's bytes at the service")
        assert got == [b"after the service's end"]


def test_forward_without_upstream(node, real_forward, endpoint):
    """No agent: the client's connection is closed, the forwarder lives on and logs it."""
    forward = real_forward(node.proxy, endpoint)
    with connect(forward.address) as client:
        assert client.ends(10 * SLOW)
    assert forward.process.poll() is None


def test_forward_survives_the_server(new_node, tunnel, real_forward, endpoint):
    node = new_node()
    forward = real_forward(node.proxy, endpoint)
    port = node.proxy[1]
    node.kill()
    try:
        with connect(forward.address) as client:
            assert client.ends(10 * SLOW)
    except ConnectionResetError:
        pass                             # the reset came before connect(2) had returned
    again = new_node(ports=(port, 0, 0))
    tunnel(again, agents.echo)
    with connect(forward.address) as client:
        client.send(b"again")
        assert client.read_exactly(5) == b"again"


def test_forward_against_the_python_server(python_server, peers, real_forward, endpoint):
    """Our forward against an independent server: handshake, masking, framing, close."""
    server = python_server()
    agent = peers.call(agents.Agent.connect(server.upstream_address, endpoint, agents.echo))
    forward = real_forward(server.proxy_address, endpoint)
    with connect(forward.address) as client:
        data = random.randbytes(200_000)
        sender = threading.Thread(target=client.send, args=(data,))
        sender.start()
        assert client.read_exactly(len(data)) == data
        sender.join()
    peers.call(agent.close())


def test_forward_short_form_and_config(node, tunnel, program, backend, endpoint, tmp_path):
    """`piko forward PORT ENDPOINT`, and `piko forward start --config.path` with several ports."""
    tunnel(node, agents.echo)
    from programs import address_of
    short = program("forward", "127.0.0.1:0", endpoint, "--connect.url", node.proxy_url, "--io-backend", backend)
    addresses = [address_of(short.wait_log("listening")["addr"])]
    config = tmp_path / "forward.yaml"
    config.write_text(f"connect:\n  url: {node.proxy_url}\nports:\n- addr: 127.0.0.1:0\n  endpoint_id: {endpoint}\n- {{addr: '127.0.0.1:0', endpoint_id: {endpoint}}}\n")
    many = program("forward", "start", "--config.path", config, "--io-backend", backend)
    wait_until(lambda: len(many.logged("listening")) == 2, what=many.tail)
    addresses += [address_of(line["addr"]) for line in many.logged("listening")]
    for address in addresses:
        with connect(address) as client:
            client.send(b"hello")
            assert client.read_exactly(5) == b"hello"


def test_many_forwarded_connections(node, tunnel, real_forward, endpoint):
    tunnel(node, agents.echo)
    forward = real_forward(node.proxy, endpoint)
    clients = [connect(forward.address) for _ in range(200)]
    for index, client in enumerate(clients):
        client.send(b"%05d" % index)
    for index, client in enumerate(clients):
        assert client.read_exactly(5) == b"%05d" % index
        client.finish()
    for client in clients:
        assert client.ends(10 * SLOW)
        client.close()
