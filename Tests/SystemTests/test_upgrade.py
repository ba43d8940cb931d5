"""Upgrades through the proxy port: WebSocket and any other protocol become a byte stream, in both directions, to the end."""

import asyncio
import random
import threading

import pytest
import websockets.sync.client

from peer import agent as agents
from peer import http1, websocket
from peer.http1 import response


async def switch_and_echo(stream):
    """Answers 101 to any upgrade and echoes; a plain request is answered 200."""
    head = (await stream.read_until(b"\r\n\r\n")).decode("latin-1").lower()
    if "upgrade:" not in head:
        await stream.write(response(body=b"plain"))
        await stream.finish()
        return
    await stream.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: proto/2\r\nX-More: kept\r\n\r\nfirst bytes ")
    while data := await stream.read():
        await stream.write(data)
    await stream.write(b" last bytes")
    await stream.finish()


def upgrade_request(host, extra=""):
    return f"GET /up HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: proto/2\r\n{extra}\r\n"


def test_unknown_protocol(node, tunnel, host):
    tunnel(node, switch_and_echo)
    with http1.Connection(node.proxy) as client:
        client.send(upgrade_request(host))
        answer = client.read_response()
        assert answer.status == 101 and answer.get("upgrade") == "proto/2" and "upgrade" in answer.options() and answer.get("x-more") == "kept"
        assert client.read_until(b"first bytes ") == b"first bytes "
        for size in (1, 10, 1000, 100_000):
            data = random.randbytes(size)
            client.send(data)
            assert client.read_exactly(size) == data
        client.finish()
        assert client.read_to_end() == b" last bytes", "half-close is carried"


def test_bytes_behind_the_upgrade_request(node, tunnel, host):
    """What a client sends together with its upgrade request belongs to the new protocol."""
    tunnel(node, switch_and_echo)
    with http1.Connection(node.proxy) as client:
        client.send(upgrade_request(host) + "early")
        assert client.read_response().status == 101
        assert client.read_until(b"early") == b"first bytes early"


def test_upgrade_reaches_the_service(node, tunnel, host):
    seen = []

    async def handler(stream):
        seen.append(await http1.read_message(stream))
        await stream.write(response(426, "No", body=b"no"))
        await stream.finish()
    tunnel(node, handler)
    with http1.Connection(node.proxy) as client:
        client.send(upgrade_request(host, "Sec-WebSocket-Protocol: chat\r\n"))
        assert client.read_response().status == 426
        assert seen[0].get("upgrade") == "proto/2" and "upgrade" in seen[0].options() and seen[0].get("sec-websocket-protocol") == "chat"


def test_service_ends_first(node, tunnel, host):
    async def handler(stream):
        await stream.read_until(b"\r\n\r\n")
        await stream.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: proto/2\r\n\r\nbye")
        await stream.finish()
        assert await stream.read_to_end() == b"and thanks"
        done.set()
    done = threading.Event()
    tunnel(node, handler)
    with http1.Connection(node.proxy) as client:
        client.send(upgrade_request(host))
        client.read_response()
        assert client.read_to_end() == b"bye"
        client.send(b"and thanks")
        client.finish()
        assert done.wait(10)


def test_reset_is_carried_both_ways(node, tunnel, host):
    ended = threading.Event()

    async def handler(stream):
        head = await stream.read_until(b"\r\n\r\n")
        await stream.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: proto/2\r\n\r\n")
        if b"/up" in head and b"x-reset" in head.lower():
            await stream.reset()
            return
        try:
            await stream.read()
        finally:
            ended.set()
    tunnel(node, handler)
    with http1.Connection(node.proxy) as client:
        client.send(upgrade_request(host, "X-Reset: 1\r\n"))
        try:
            client.read_response()
            assert client.ends()
        except (EOFError, ConnectionError):
            pass
    client = http1.Connection(node.proxy)
    client.send(upgrade_request(host))
    client.read_response()
    client.reset()
    assert ended.wait(10)


async def websocket_echo(stream):
    """A WebSocket echo service on a stream."""
    head = await http1.read_message(stream)
    key = head.get("sec-websocket-key").encode()
    await stream.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
                       + websocket.accept_key(key) + b"\r\n\r\n")
    decoder = websocket.FrameDecoder(expects_masked=True)
    while data := await stream.read():
        for frame in decoder.feed(data):
            await stream.write(websocket.encode_frame(websocket.PONG if frame.opcode == websocket.PING else frame.opcode, frame.payload, fin=frame.fin))
            if frame.opcode == websocket.CLOSE:
                await stream.finish()
                return


def test_websocket_through_the_tunnel(node, tunnel, host):
    tunnel(node, websocket_echo)
    with websockets.sync.client.connect(f"ws://{host}/chat", sock=http1.Connection(node.proxy).socket, max_size=None, compression=None) as client:
        for size in (0, 1, 125, 126, 65535, 65536, 1_000_000):
            data = random.randbytes(size)
            client.send(data)
            assert client.recv(10) == data
        client.send("text \u00e9")
        assert client.recv(10) == "text \u00e9"


def test_plain_request_after_refused_upgrade(node, tunnel, host):
    recorder = agents.Recorder()
    tunnel(node, recorder)
    with http1.Connection(node.proxy) as client:
        client.send(upgrade_request(host))
        assert client.read_response().status == 200
        try:
            assert client.request(host=host).status == 200
        except (EOFError, ConnectionError):
            pass


@pytest.mark.parametrize("where", ["service", "client"])
def test_upgraded_connections_end_with_their_agent(node, tunnel, peers, host, where):
    """The tunnel dies under an upgraded connection: the client learns it at once."""
    agent = tunnel(node, switch_and_echo)
    with http1.Connection(node.proxy) as client:
        client.send(upgrade_request(host))
        client.read_response()
        client.read_until(b"first bytes ")
        if where == "service":
            peers.call(agent.abort())
            assert client.ends()
