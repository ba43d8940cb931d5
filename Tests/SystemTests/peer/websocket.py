"""WebSocket (RFC 6455): frames, the opening handshake, and a connection for asyncio, for both roles.

The encoder can be told to break every rule (no mask, reserved bits, lying lengths), because tests need that; the decoder
keeps all rules and raises `ProtocolError` with the close code that section 7.4.1 asks for.
No extension and no subprotocol is ever negotiated: the Piko protocol has none.
"""

import asyncio
import base64
import hashlib
import os
import struct
from dataclasses import dataclass

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class ProtocolError(Exception):
    """The peer broke RFC 6455; `code` is the close code to send."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code


class Refused(Exception):
    """The opening handshake was answered with something other than a valid 101."""

    def __init__(self, status, headers, body):
        super().__init__(f"HTTP {status}: {body[:200]!r}")
        self.status, self.headers, self.body = status, headers, body


def accept_key(key: bytes) -> bytes:
    """Section 4.2.2: the Sec-WebSocket-Accept value for a Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


def apply_mask(payload: bytes, key: bytes) -> bytes:
    """Section 5.3, over one big integer, which is fast enough to carry gigabytes."""
    length = len(payload)
    if length == 0:
        return b""
    mask = (key * (length // 4 + 1))[:length]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(mask, "little")).to_bytes(length, "little")


def encode_frame(opcode, payload=b"", mask=None, fin=True, rsv=0, declared_length=None, length_bytes=None):
    """One frame. `mask` is 4 bytes or None; `declared_length` lies about the length; `length_bytes` (0, 2 or 8) forces a
    form of the length field that may not be the shortest."""
    length = len(payload) if declared_length is None else declared_length
    first = (0x80 if fin else 0) | (rsv << 4) | opcode
    masked = 0x80 if mask is not None else 0
    if length_bytes is None:
        length_bytes = 0 if length < 126 else 2 if length < 65536 else 8
    if length_bytes == 0:
        header = struct.pack("!BB", first, masked | length)
    elif length_bytes == 2:
        header = struct.pack("!BBH", first, masked | 126, length)
    else:
        header = struct.pack("!BBQ", first, masked | 127, length)
    if mask is None:
        return header + payload
    return header + mask + apply_mask(payload, mask)


@dataclass
class Frame:
    fin: bool
    opcode: int
    payload: bytes


class FrameDecoder:
    """Bytes in, whole frames out. `expects_masked`: True for the server's side (5.1: a client masks every frame)."""

    def __init__(self, expects_masked, payload_bytes_max=64 << 20):
        self.expects_masked = expects_masked
        self.payload_bytes_max = payload_bytes_max
        self.buffer = bytearray()
        self.in_message = False

    def feed(self, data):
        self.buffer += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self):
        buffer = self.buffer
        if len(buffer) < 2:
            return None
        first, second = buffer[0], buffer[1]
        fin, rsv, opcode = bool(first & 0x80), (first >> 4) & 7, first & 0xF
        masked, length = bool(second & 0x80), second & 0x7F
        if rsv:
            raise ProtocolError(1002, "reserved bits")
        if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise ProtocolError(1002, f"opcode {opcode}")
        if masked != self.expects_masked:
            raise ProtocolError(1002, "masked by the server" if masked else "not masked by the client")
        if opcode & 0x8 and (not fin or length > 125):
            raise ProtocolError(1002, "control frame fragmented or over 125 bytes")
        if opcode == CONTINUATION and not self.in_message:
            raise ProtocolError(1002, "continuation of nothing")
        if opcode in (TEXT, BINARY) and self.in_message:
            raise ProtocolError(1002, "message within a message")
        offset = 2
        if length == 126:
            if len(buffer) < 4:
                return None
            (length,) = struct.unpack_from("!H", buffer, 2)
            offset = 4
            if length < 126:
                raise ProtocolError(1002, "length not in its shortest form")
        elif length == 127:
            if len(buffer) < 10:
                return None
            (length,) = struct.unpack_from("!Q", buffer, 2)
            offset = 10
            if length < 65536 or length >> 63:
                raise ProtocolError(1002, "length not in its shortest form, or negative")
        if length > self.payload_bytes_max:
            raise ProtocolError(1009, f"payload of {length} bytes")
        end = offset + (4 if masked else 0) + length
        if len(buffer) < end:
            return None
        if masked:
            payload = apply_mask(bytes(buffer[offset + 4:end]), bytes(buffer[offset:offset + 4]))
        else:
            payload = bytes(buffer[offset:end])
        del buffer[:end]
        if opcode in (CONTINUATION, TEXT, BINARY):
            self.in_message = not fin
        return Frame(fin, opcode, payload)


def parse_close(payload):
    """The code of a Close frame's payload (None: it had none); 7.4: which codes may appear on the wire."""
    if not payload:
        return None
    if len(payload) == 1:
        raise ProtocolError(1002, "close payload of one byte")
    (code,) = struct.unpack_from("!H", payload)
    payload[2:].decode("utf-8")
    if not (code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014) or 3000 <= code <= 4999):
        raise ProtocolError(1002, f"close code {code}")
    return code


async def read_head(reader, limit=65536):
    """An HTTP head up to its empty line: (first line, {lower-case name: value}), all as str. Raises EOFError."""
    data = b""
    try:
        data = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        raise EOFError(f"end of stream in a head: {error.partial[:200]!r}") from None
    lines = data[:-4].decode("latin-1").split("\r\n")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        name = name.lower()
        value = value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return lines[0], headers


async def upgrade(reader, writer, target, host, headers=(), key=None, version="13"):
    """The client's opening handshake (section 4.1) on an open connection; raises `Refused`, returns the 101's headers."""
    key = base64.b64encode(os.urandom(16)) if key is None else key
    lines = [f"GET {target} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade",
             f"Sec-WebSocket-Key: {key.decode()}", f"Sec-WebSocket-Version: {version}"]
    lines += [f"{name}: {value}" for name, value in headers]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    await writer.drain()
    first, answer = await read_head(reader)
    status = int(first.split(" ")[1])
    if status != 101:
        if "content-length" in answer:
            body = await reader.readexactly(int(answer["content-length"]))
        else:
            body = await reader.read(65536)
        raise Refused(status, answer, body)
    problems = []
    if answer.get("upgrade", "").lower() != "websocket":
        problems.append("Upgrade is not websocket")
    if "upgrade" not in [token.strip().lower() for token in answer.get("connection", "").split(",")]:
        problems.append("Connection does not name upgrade")
    if answer.get("sec-websocket-accept", "").encode() != accept_key(key):
        problems.append("wrong Sec-WebSocket-Accept")
    for name in ("sec-websocket-extensions", "sec-websocket-protocol", "content-length", "transfer-encoding"):
        if name in answer:
            problems.append(f"{name} in the 101")
    if problems:
        raise Refused(status, answer, ("; ".join(problems)).encode())
    return answer


class WebSocket:
    """An open WebSocket that carries bytes in binary messages, as the Piko protocol uses it.

    `writes` is a function that cuts what is to be written on the TCP connection into pieces (frames split at every byte),
    `messages` one that cuts what is to be sent into messages. Both default to "whole".
    """

    def __init__(self, reader, writer, is_client, writes=None, messages=None):
        self.reader, self.writer, self.is_client = reader, writer, is_client
        self.decoder = FrameDecoder(expects_masked=not is_client)
        self.writes, self.messages = writes, messages
        self.masks = True                # a client that must not: a test sets this to False
        self.data_opcode = BINARY
        self.frames = []
        self.close_code = None           # the peer's, once it has sent Close; None in it: 1005
        self.close_received = asyncio.Event()
        self.close_sent = False
        self.pongs = []
        self.ended = False

    async def write_raw(self, data):
        """Bytes as they are, below the framing."""
        if self.writes is None:
            self.writer.write(data)
            await self.writer.drain()
            return
        for piece in self.writes(data):
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def send_frame(self, opcode, payload=b"", **options):
        if "mask" not in options and self.is_client and self.masks:
            options["mask"] = os.urandom(4)
        await self.write_raw(encode_frame(opcode, payload, **options))

    async def send(self, data):
        pieces = [data] if self.messages is None else self.messages(data)
        for piece in pieces:
            await self.send_frame(self.data_opcode, piece)

    async def close(self, code=1000, reason=b""):
        if not self.close_sent:
            self.close_sent = True
            await self.send_frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)

    async def receive(self):
        """The next piece of data (a frame's payload: boundaries mean nothing here); b"" at Close or end of stream."""
        while True:
            while self.frames:
                frame = self.frames.pop(0)
                if frame.opcode == CLOSE:
                    self.close_code = parse_close(frame.payload)
                    self.close_received.set()
                    self.ended = True
                    if not self.close_sent:
                        try:
                            await self.close(self.close_code)
                        except (ConnectionError, OSError):
                            pass
                    return b""
                if frame.opcode == PING:
                    await self.send_frame(PONG, frame.payload)
                elif frame.opcode == PONG:
                    self.pongs.append(frame.payload)
                elif frame.opcode == TEXT:
                    raise ProtocolError(1003, "text message")
                elif frame.payload:
                    return frame.payload
            if self.ended:
                return b""
            try:
                data = await self.reader.read(262144)
            except (ConnectionError, OSError):
                data = b""
            if not data:
                self.ended = True
                return b""
            self.frames += self.decoder.feed(data)

    def abort(self):
        self.ended = True
        self.writer.transport.abort()

    # The carrier interface that yamux.Session asks for.
    async def read(self):
        return await self.receive()

    async def write(self, data):
        await self.send(data)

    async def finish(self):
        try:
            await self.close()
        except (ConnectionError, OSError):
            pass
        self.writer.close()
