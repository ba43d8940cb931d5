"""The Python peers against themselves and against the `websockets` package: a judge must be judged first."""

import asyncio
import random
import struct

import pytest
import websockets.asyncio.client
import websockets.asyncio.server

from peer import agent as agents
from peer import http1, websocket, yamux
from peer.server import Server


def run(coroutine, timeout=60):
    return asyncio.run(asyncio.wait_for(coroutine, timeout))


class Pipe:
    """One end of an in-memory carrier."""

    def __init__(self, incoming, outgoing, cut=None):
        self.incoming, self.outgoing, self.cut = incoming, outgoing, cut

    async def read(self):
        return await self.incoming.get()

    async def write(self, data):
        for piece in [data] if self.cut is None else self.cut(data):
            await self.outgoing.put(piece)

    async def finish(self):
        await self.outgoing.put(b"")

    def abort(self):
        self.outgoing.put_nowait(b"")


def pair(cut=None, client_options=None, server_options=None):
    up, down = asyncio.Queue(), asyncio.Queue()
    client = yamux.Session(Pipe(down, up, cut), True, **(client_options or {})).start()
    server = yamux.Session(Pipe(up, down, cut), False, **(server_options or {})).start()
    return client, server


# ---- WebSocket ----

def test_accept_key_of_the_rfc():
    assert websocket.accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_frame_examples_of_the_rfc():
    key = bytes.fromhex("37fa213d")
    assert websocket.encode_frame(websocket.TEXT, b"Hello") == bytes.fromhex("810548656c6c6f")
    assert websocket.encode_frame(websocket.TEXT, b"Hello", mask=key) == bytes.fromhex("818537fa213d7f9f4d5158")
    assert websocket.encode_frame(websocket.BINARY, b"x" * 256)[:4] == bytes.fromhex("827e0100")
    assert websocket.encode_frame(websocket.BINARY, b"x" * 65536)[:10] == bytes.fromhex("827f0000000000010000")
    decoder = websocket.FrameDecoder(expects_masked=True)
    assert decoder.feed(bytes.fromhex("818537fa213d7f9f4d5158")) == [websocket.Frame(True, websocket.TEXT, b"Hello")]


@pytest.mark.parametrize("wire, code", [
    ("c000", 1002), ("8300", 1002), ("0900", 1002), ("897e0080", 1002), ("8000", 1002), ("827e0001", 1002),
    ("827f0000000000000001", 1002), ("827f8000000000000000", 1002), ("0100820161", 1002), ("828000000000", 1002),
])
def test_decoder_refuses(wire, code):
    with pytest.raises(websocket.ProtocolError) as caught:
        websocket.FrameDecoder(expects_masked=False).feed(bytes.fromhex(wire))
    assert caught.value.code == code


def test_our_websocket_client_to_their_server():
    async def main():
        async def handler(connection):
            async for message in connection:
                assert isinstance(message, bytes)
                await connection.send(message)

        async with websockets.asyncio.server.serve(handler, "127.0.0.1", 0, compression=None, max_size=None) as server:
            address = server.sockets[0].getsockname()
            for cut in (None, agents.every_byte):
                reader, writer = await asyncio.open_connection(*address)
                await websocket.upgrade(reader, writer, "/x", "localhost")
                client = websocket.WebSocket(reader, writer, True, writes=cut)
                for size in (0, 1, 125, 126, 127, 1000) + (() if cut else (65535, 65536, 1_000_000)):
                    data = random.randbytes(size)
                    await client.send(data)
                    back = b""
                    while len(back) < size:
                        back += await client.receive()
                    assert back == data
                await client.close(1000)
                assert await client.receive() == b"" and client.close_code == 1000
                writer.close()
    run(main())


def test_their_websocket_client_to_our_server():
    async def main():
        async def handler(reader, writer):
            _, headers = await websocket.read_head(reader)
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         b"Sec-WebSocket-Accept: " + websocket.accept_key(headers["sec-websocket-key"].encode()) + b"\r\n\r\n")
            socket = websocket.WebSocket(reader, writer, False)
            while data := await socket.receive():
                await socket.send(data)
            assert socket.close_code == 1000
            writer.close()

        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        async with websockets.asyncio.client.connect(f"ws://{host}:{port}/", compression=None, max_size=None) as client:
            for size in (1, 125, 126, 65535, 65536, 500_000):
                data = random.randbytes(size)
                await client.send(data)
                assert await client.recv() == data
            await (await client.ping())
        server.close()
    run(main())


# ---- Yamux ----

@pytest.mark.parametrize("cut", [None, agents.every_byte, agents.pieces_of(7), agents.pieces_of(13)])
def test_yamux_echo_many_streams(cut):
    async def main():
        client, server = pair(cut)
        size = 3_000 if cut else 700_000

        async def serve():
            while True:
                asyncio.create_task(agents.echo(await client.accept()))
        serving = asyncio.create_task(serve())

        async def one():
            stream = await server.open()
            data = random.randbytes(size)

            async def send():
                await stream.write(data)
                await stream.finish()
            sending = asyncio.create_task(send())
            assert await stream.read_to_end() == data
            await sending
        await asyncio.gather(*(one() for _ in range(20)))
        await client.ping(7)
        await server.ping(8)
        assert client.violations == [] and server.violations == []
        assert not client.streams and not server.streams
        assert client.last_accepted == 40
        serving.cancel()
    run(main())


def test_yamux_half_close_reset_and_go_away():
    async def main():
        client, server = pair()
        stream = await server.open(lazy_syn=True)
        await stream.write(b"question")
        await stream.finish()
        other = await client.accept()
        assert await other.read_to_end() == b"question"
        await other.write(b"answer after the peer's FIN")
        await other.finish()
        assert await stream.read_to_end() == b"answer after the peer's FIN"

        stream = await server.open()
        other = await client.accept()
        await other.reset()
        with pytest.raises(yamux.StreamReset):
            await stream.read()
        await client.go_away()
        await server.go_away_event.wait()
        assert server.go_away_received == 0
        await client.close()
        await server.end_event.wait()
        assert client.violations == [] and server.violations == []
    run(main())


def test_yamux_blocks_without_window_updates():
    async def main():
        client, server = pair(client_options={"updates": yamux.update_never})
        stream = await server.open()
        writing = asyncio.create_task(stream.write(b"x" * (yamux.INITIAL_WINDOW + 1)))
        other = await client.accept()
        assert len(await other.read_exactly(yamux.INITIAL_WINDOW)) == yamux.INITIAL_WINDOW
        await asyncio.sleep(0.05)
        assert not writing.done()
        await other.give_window(1)
        await writing
        assert await other.read_exactly(1) == b"x"
        assert client.violations == []
    run(main())


@pytest.mark.parametrize("name, frames, text", [
    ("over the window", [(1, 1, 2, 0, b""), (0, 0, 2, 262145, b"x" * 262145)], "window was"),
    ("own parity", [(1, 1, 1, 0, b"")], "parity"),
    ("unknown stream", [(0, 0, 4, 1, b"x")], "never opened"),
    ("data after FIN", [(1, 1, 2, 0, b""), (0, 4, 2, 0, b""), (0, 0, 2, 1, b"x")], "after FIN"),
    ("ids shrink", [(1, 1, 4, 0, b""), (1, 1, 2, 0, b"")], "must grow"),
    ("stream 0", [(0, 0, 0, 0, b"")], "id 0"),
    ("bad type", [(9, 0, 0, 0, b"")], "bad header"),
    ("unasked pong", [(2, 2, 0, 99, b"")], "never sent"),
])
def test_yamux_judge_notices(name, frames, text):
    async def main():
        client, server = pair()
        for kind, flags, stream, length, payload in frames:
            await server.send_frame(kind, flags, stream, length, payload)
        await asyncio.sleep(0.02)
        assert any(text in violation for violation in client.violations), client.violations
    run(main())


# ---- HTTP ----

class Bytes:
    """A source over fixed bytes, in pieces of one."""

    def __init__(self, data):
        self.data = data

    async def read(self, most=1):
        data, self.data = self.data[:1], self.data[1:]
        return data

    async def read_exactly(self, count):
        data, self.data = self.data[:count], self.data[count:]
        if len(data) < count:
            raise EOFError()
        return data

    async def read_until(self, mark):
        if mark not in self.data:
            raise EOFError()
        return await self.read_exactly(self.data.index(mark) + len(mark))


@pytest.mark.parametrize("wire", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n Folded: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nBad Name: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
    b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n",
])
def test_http_reader_is_strict(wire):
    with pytest.raises(http1.BadMessage):
        run(http1.read_message(Bytes(wire), True))


def test_http_reader_reads():
    message = run(http1.read_message(Bytes(
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: 1\r\na: 2\r\n\r\n"
        + http1.chunk(b"hello ") + http1.chunk(b"world") + b"0\r\nDigest: x\r\n\r\n"), True))
    assert message.body == b"hello world" and message.trailers == [("Digest", "x")] and message.all("A") == ["1", "2"]
    assert message.chunks == 2 and message.informational[0].status == 103


# ---- Agent and server of our own against each other ----

@pytest.mark.parametrize("cut", [None, agents.every_byte])
def test_agent_to_server(cut):
    async def main():
        server = await Server().start()
        server.writes = cut
        recorder = agents.Recorder()
        agent = await agents.Agent.connect(server.upstream_address, "e1", recorder, writes=cut,
                                           headers=[("Authorization", "Bearer t")])
        echo = await agents.Agent.connect(server.upstream_address, "e2", agents.echo, messages=cut)
        await server.tunnel("e1")
        await server.tunnel("e2")

        def client():
            with http1.Connection(server.proxy_address) as connection:
                return connection.request(host="e1.example.com").body
        assert await asyncio.to_thread(client) == b"hello"
        assert recorder.requests[0].get("host") == "e1.example.com"

        reader, writer = await asyncio.open_connection(*server.proxy_address)
        await websocket.upgrade(reader, writer, "/_piko/v1/tcp/e2", "x")
        tcp = websocket.WebSocket(reader, writer, True)
        await tcp.send(b"ping")
        assert await tcp.receive() == b"ping"
        await tcp.close()
        assert await tcp.receive() == b""
        with pytest.raises(websocket.Refused) as caught:
            reader, writer = await asyncio.open_connection(*server.proxy_address)
            await websocket.upgrade(reader, writer, "/_piko/v1/tcp/none", "x")
        assert caught.value.status == 502
        await agent.close()
        await echo.abort()
        while server.tunnels["e1"] or server.tunnels["e2"]:
            server.changed.clear()
            await server.changed.wait()
        await server.stop()
        assert agent.violations == [] and server.violations == []
        assert server.handshakes[0][1]["authorization"] == "Bearer t"
    run(main())


def test_parse_close():
    assert websocket.parse_close(b"") is None
    assert websocket.parse_close(struct.pack("!H", 1003) + b"text") == 1003
    for payload in (b"\x03", struct.pack("!H", 1005), struct.pack("!H", 999)):
        with pytest.raises(websocket.ProtocolError):
            websocket.parse_close(payload)
