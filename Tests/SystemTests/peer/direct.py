"""The direct transport, both sides, from docs/protocol-direct.md: data connections beside a session, and raw connections."""

import asyncio
import ipaddress
import socket
import struct

from . import websocket

PREAMBLE_BYTES = 32
OFFER = ("x-piko-transport", "direct/1")


class BadPreamble(Exception):
    """The first bytes of a stream are no preamble."""


def preamble(address, port, version=1, flags=0, magic=b"PIKO", filling=0):
    """The server's side: the first 32 bytes of a stream."""
    if address is None:
        packed = bytes(16)
    else:
        parsed = ipaddress.ip_address(address)
        packed = bytes(10) + b"\xff\xff" + parsed.packed if parsed.version == 4 else parsed.packed
    reserved = bytes([filling])
    return magic + bytes([version, flags]) + reserved * 2 + packed + struct.pack("!H", port) + reserved * 6


def parse_preamble(data):
    """(address, port) of the client; None for an unknown one."""
    if len(data) != PREAMBLE_BYTES or data[:6] != b"PIKO\x01\x00":
        raise BadPreamble(data)
    (port,) = struct.unpack_from("!H", data, 24)
    packed = data[8:24]
    if packed == bytes(16):
        return None, port
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address), port


class TcpStream:
    """A TCP connection with the interface of a yamux stream, so that one handler serves both."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def read(self, most=1 << 18):
        return await self.reader.read(most)

    async def read_exactly(self, count):
        try:
            return await self.reader.readexactly(count)
        except asyncio.IncompleteReadError as error:
            raise EOFError(str(error)) from None

    async def read_until(self, mark):
        try:
            return await self.reader.readuntil(mark)
        except asyncio.IncompleteReadError as error:
            raise EOFError(str(error)) from None

    async def read_to_end(self):
        return await self.reader.read(-1)

    async def write(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def finish(self):
        self.writer.write_eof()

    async def reset(self):
        """A real RST: `abort` alone sends FIN when everything was read."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def upgrade(address, target, protocols, headers=(), host=None):
    """An upgrade to one of `protocols`: (reader, writer, name that was taken, headers of the 101); raises `websocket.Refused`."""
    reader, writer = await asyncio.open_connection(*address, limit=1 << 20)
    try:
        lines = [f"GET {target} HTTP/1.1", f"Host: {host or f'{address[0]}:{address[1]}'}", "Connection: Upgrade",
                 f"Upgrade: {', '.join(protocols)}", *(f"{name}: {value}" for name, value in headers)]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        first, answer = await websocket.read_head(reader)
        status = int(first.split(" ")[1])
        if status != 101:
            body = await reader.readexactly(int(answer.get("content-length", "0")))
            raise websocket.Refused(status, answer, body)
        assert "upgrade" in answer.get("connection", "").lower() and answer.get("upgrade") in protocols, answer
        assert "content-length" not in answer and "transfer-encoding" not in answer, answer
        return reader, writer, answer["upgrade"], answer
    except BaseException:
        writer.close()
        raise


async def open_data(address, endpoint, credential, **options):
    """A data connection: (reader, writer, the new credential)."""
    headers = [("x-piko-credential", credential)] if credential is not None else []
    reader, writer, _, answer = await upgrade(address, f"/piko/v1/data/{endpoint}", ["piko-direct/1"], headers, **options)
    assert answer.get("x-piko-credential"), answer
    return reader, writer, answer["x-piko-credential"]


class DataPool:
    """An agent's data connections: so many wait at any time; each stream is given to the handler."""

    def __init__(self, agent, address, count, host=None):
        self.agent, self.address, self.count, self.host = agent, address, count, host
        self.credential = agent.answer["x-piko-credential"]
        self.writers = set()
        self.idle = 0
        self.clients = []                # (address, port) of every preamble
        self.is_ending = False

    async def fill(self):
        while self.idle < self.count and not self.is_ending:
            try:
                reader, writer, self.credential = await open_data(self.address, self.agent.endpoint, self.credential, host=self.host)
            except (websocket.Refused, OSError, EOFError):
                return                   # the session carries what comes
            self.idle += 1
            self.writers.add(writer)
            self.agent._track(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader, writer):
        stream = TcpStream(reader, writer)
        try:
            try:
                first = await reader.readexactly(PREAMBLE_BYTES)
            except (asyncio.IncompleteReadError, OSError) as error:
                if getattr(error, "partial", b""):
                    self.agent.failures.append(BadPreamble(error.partial))
                return
            finally:
                self.idle -= 1
            self.clients.append(parse_preamble(first))
            self.agent._track(asyncio.create_task(self.fill()))
            await self.agent._run(stream)
        except Exception as error:
            self.agent.failures.append(error)
        finally:
            self.writers.discard(writer)
            writer.close()

    def end(self):
        self.is_ending = True

    def abort(self):
        self.end()
        for writer in list(self.writers):
            writer.transport.abort()
