"""An HTTP proxy that knows CONNECT and nothing else, for tests: it notes what it is asked, and may want credentials, answer with
given bytes, or say nothing. Whatever name it is asked for, it connects to this machine: nobody else has to know the names."""

import asyncio
import base64


class ConnectProxy:
    def __init__(self, credentials=None, answers=()):
        self.credentials = credentials          # "user:password", or None: anybody may
        self.answers = list(answers)            # bytes (or None: silence) for the next requests, instead of a tunnel
        self.targets = []                       # every target that was asked for, refused or not
        self.tunnels = []                       # those that there was a tunnel to
        self.heads = []
        self.behind = b""                       # sent in one piece with the head of 200
        self.open = set()

    async def start(self, host="127.0.0.1"):
        self.server = await asyncio.start_server(self._serve, host, 0)
        self.address = self.server.sockets[0].getsockname()[:2]
        self.port = self.address[1]
        return self

    async def stop(self):
        self.server.close()
        await self.cut()

    async def cut(self):
        """Resets every connection."""
        for writer in list(self.open):
            writer.transport.abort()

    def url(self, credentials=""):
        host = f"[{self.address[0]}]" if ":" in self.address[0] else self.address[0]
        return f"http://{credentials + '@' if credentials else ''}{host}:{self.port}"

    async def _serve(self, reader, writer):
        self.open.add(writer)
        try:
            await self._answer(reader, writer)
        except (OSError, EOFError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open.discard(writer)
            writer.close()

    async def _answer(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, target, version = head.split("\r\n", 1)[0].split(" ")
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
        assert method == "CONNECT" and version == "HTTP/1.1" and fields["host"] == target.lower(), head
        self.heads.append(head)
        self.targets.append(target)
        if self.answers:
            answer = self.answers.pop(0)
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)
                await writer.drain()
            return
        shown = next((line.split(" ", 2)[2] for line in head.split("\r\n") if line.lower().startswith("proxy-authorization: basic ")), "")
        if self.credentials is not None and base64.b64decode(shown).decode() != self.credentials:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n")
            return
        await self._tunnel(reader, writer, target)

    async def _tunnel(self, reader, writer, target):
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(target.rpartition(":")[2]))
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            return
        self.open.add(far_writer)
        self.tunnels.append(target)
        writer.write(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n" + self.behind)
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            self.open.discard(far_writer)
            far_writer.transport.abort()

    async def _pump(self, reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
