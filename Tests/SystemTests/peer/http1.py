"""HTTP/1.1 messages (RFC 9112) for both sides of a test: strict to read, free to write.

`parse_message` is a generator that asks for bytes ("until" a mark, "exactly" n, "some") and so serves blocking sockets
(`Connection`) and asyncio streams (`read_message`) alike. It refuses bare LF, folded lines, double or doubtful framing: a
proxy that lets such a thing through fails the test that sees it.
"""

import re
import socket
import time
from dataclasses import dataclass, field

TOKEN = re.compile(r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$")
VALUE = re.compile(r"^[\t\x20-\x7e\x80-\xff]*$")


class BadMessage(Exception):
    """The other side sent something that RFC 9112 does not allow."""


@dataclass
class Message:
    start: str = ""
    method: str = ""
    target: str = ""
    version: str = ""
    status: int = 0
    reason: str = ""
    headers: list = field(default_factory=list)      # (name as sent, value)
    body: bytes = b""
    trailers: list = field(default_factory=list)
    chunked: bool = False
    chunks: int = 0
    informational: list = field(default_factory=list)  # the 1xx messages before a response
    head_bytes: bytes = b""

    def all(self, name):
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name, default=None):
        values = self.all(name)
        return values[0] if values else default

    def has(self, name):
        return bool(self.all(name))

    def trailer(self, name):
        return next((value for key, value in self.trailers if key.lower() == name.lower()), None)

    def options(self):
        """The lower-case tokens of Connection."""
        return [token.strip().lower() for value in self.all("connection") for token in value.split(",") if token.strip()]


def parse_fields(lines):
    fields = []
    for line in lines:
        name, colon, value = line.partition(":")
        value = value.strip(" \t")
        if not colon or not TOKEN.match(name) or not VALUE.match(value):
            raise BadMessage(f"field line {line!r}")
        fields.append((name, value))
    return fields


def parse_head(data, is_response):
    text = data[:-4].decode("latin-1")
    if "\n" in text.replace("\r\n", "") or "\r" in text.replace("\r\n", ""):
        raise BadMessage(f"bare CR or LF in {data!r}")
    lines = text.split("\r\n")
    message = Message(start=lines[0], head_bytes=data)
    if is_response:
        match = re.match(r"^HTTP/1\.([01]) ([1-9][0-9][0-9]) ([\t\x20-\x7e\x80-\xff]*)$", lines[0])
        if not match:
            raise BadMessage(f"status line {lines[0]!r}")
        message.version, message.status, message.reason = "1." + match[1], int(match[2]), match[3]
    else:
        match = re.match(r"^([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])$", lines[0])
        if not match:
            raise BadMessage(f"request line {lines[0]!r}")
        message.method, message.target, message.version = match[1], match[2], "1." + match[3]
    message.headers = parse_fields(lines[1:])
    return message


def parse_message(is_response, method="GET", on_head=None, body_sink=None):
    """Generator: yields ("until", mark), ("exactly", n), ("some", n), ("end", None); is sent bytes; returns the Message.
    `method`: of the request that a response answers. `on_head(message)` may return "stop" to leave the body unread.
    `body_sink(bytes)`: takes the body instead of `message.body`."""
    informational = []
    while True:
        message = parse_head((yield ("until", b"\r\n\r\n")), is_response)
        if is_response and 100 <= message.status < 200 and message.status != 101:
            informational.append(message)
            continue
        break
    message.informational = informational
    if on_head is not None and on_head(message) == "stop":
        return message
    pieces = []
    take = pieces.append if body_sink is None else body_sink
    encodings, lengths = message.all("transfer-encoding"), message.all("content-length")
    if encodings and lengths:
        raise BadMessage("both Transfer-Encoding and Content-Length")
    if is_response and (method == "HEAD" or message.status in (101, 204, 304) or (method == "CONNECT" and message.status // 100 == 2)):
        if encodings and message.status in (101, 204):
            raise BadMessage(f"Transfer-Encoding in {message.status}")
        return message
    if encodings:
        if encodings != ["chunked"]:
            raise BadMessage(f"Transfer-Encoding {encodings}")
        message.chunked = True
        while True:
            line = yield ("until", b"\r\n")
            if not re.match(rb"^[0-9a-fA-F]{1,16}\r\n$", line):
                raise BadMessage(f"chunk size line {line!r}")
            size = int(line, 16)
            if size == 0:
                break
            message.chunks += 1
            while size:
                piece = yield ("some", size)
                if not piece:
                    raise EOFError("end of stream within a chunk")
                size -= len(piece)
                take(piece)
            if (yield ("exactly", 2)) != b"\r\n":
                raise BadMessage("no CRLF after a chunk")
        lines = []
        while (line := (yield ("until", b"\r\n"))) != b"\r\n":
            lines.append(line[:-2].decode("latin-1"))
        message.trailers = parse_fields(lines)
    elif lengths:
        if len(lengths) != 1 or not re.match(r"^[0-9]+$", lengths[0]):
            raise BadMessage(f"Content-Length {lengths}")
        left = int(lengths[0])
        while left:
            piece = yield ("some", left)
            if not piece:
                raise EOFError(f"end of stream, {left} bytes of the body missing")
            left -= len(piece)
            take(piece)
    elif is_response:
        while piece := (yield ("some", 1 << 20)):
            take(piece)
    message.body = b"".join(pieces)
    return message


async def read_message(source, is_response=False, **options):
    """Runs `parse_message` on anything with async read_until, read_exactly and read. EOFError at a clean end."""
    machine = parse_message(is_response, **options)
    wish = next(machine)
    try:
        while True:
            kind, what = wish
            if kind == "until":
                data = await source.read_until(what)
            elif kind == "exactly":
                data = await source.read_exactly(what)
            else:
                data = await source.read(what)
            wish = machine.send(data)
    except StopIteration as stop:
        return stop.value


class Connection:
    """A blocking client connection for raw tests: send any bytes, read strict responses, each with a deadline."""

    def __init__(self, address, timeout=10.0, receive_buffer=None, source=None):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.socket.bind((source, 0))
        self.socket.settimeout(timeout)
        self.timeout = timeout
        self.socket.connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def finish(self):
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self):
        """Closes with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.socket.close()

    def _more(self):
        data = self.socket.recv(262144)
        self.buffer += data
        return len(data)

    def read_until(self, mark, limit=1 << 20):
        while mark not in self.buffer:
            if len(self.buffer) > limit:
                raise BadMessage(f"no {mark!r} in {limit} bytes")
            if not self._more():
                raise EOFError(f"end of stream before {mark!r}; had {self.buffer[:300]!r}")
        end = self.buffer.index(mark) + len(mark)
        data, self.buffer = self.buffer[:end], self.buffer[end:]
        return data

    def read_exactly(self, count):
        while len(self.buffer) < count:
            if not self._more():
                raise EOFError(f"end of stream; {len(self.buffer)} of {count} bytes")
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def read(self, most=1 << 20):
        if not self.buffer:
            self._more()
        data, self.buffer = self.buffer[:most], self.buffer[most:]
        return data

    def read_to_end(self):
        """Everything up to FIN. A reset counts as the end only when `reset_is_end`."""
        while self._more():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def ends(self, within=None):
        """True when the other side closes (FIN or RST) within the deadline without a byte more."""
        if self.buffer:
            return False
        self.socket.settimeout(within or self.timeout)
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        finally:
            self.socket.settimeout(self.timeout)

    def silent(self, seconds):
        """True when nothing at all arrives for so long (the connection stays open)."""
        if self.buffer:
            return False
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(1)
            self.buffer += data
            return False
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(self.timeout)

    def read_response(self, method="GET", **options):
        machine = parse_message(True, method, **options)
        wish = next(machine)
        try:
            while True:
                kind, what = wish
                if kind == "until":
                    data = self.read_until(what)
                elif kind == "exactly":
                    data = self.read_exactly(what)
                else:
                    data = self.read(what)
                wish = machine.send(data)
        except StopIteration as stop:
            return stop.value

    def request(self, method="GET", target="/", headers=(), body=b"", host="e1.example.com", version="1.1"):
        """A well-formed request and its response."""
        lines = [f"{method} {target} HTTP/{version}"]
        if host is not None:
            lines.append(f"Host: {host}")
        lines += [f"{name}: {value}" for name, value in headers]
        if body or method in ("POST", "PUT", "PATCH"):
            lines.append(f"Content-Length: {len(body)}")
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)
        return self.read_response(method)


def request(address, *arguments, timeout=10.0, **options):
    """One request on a connection of its own."""
    with Connection(address, timeout) as connection:
        return connection.request(*arguments, **options)


def chunk(data, extension=b""):
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


def response(status=200, reason="OK", headers=(), body=b"", length=True):
    """The bytes of a response with Content-Length (or none: `length=False`)."""
    lines = [f"HTTP/1.1 {status} {reason}"] + [f"{name}: {value}" for name, value in headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def wait_until(condition, timeout=10.0, what="condition", every=0.01):
    """Waits for a condition with a deadline, and returns its value; the failure names what was waited for."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what() if callable(what) else what}")
        time.sleep(every)
