"""A Piko server in small: an upstream port for agents and a proxy port for clients and `forward`, to test our agent against
something that is not ours.

The proxy port is a byte pipe: a request's head is read for its endpoint, then the connection is joined to a new stream of
that endpoint's newest tunnel, head first. Tests that want to look closer take a tunnel (`await server.tunnel("e1")`) and
open streams on it themselves. With `pool="connections=8, idle=4"` it takes data connections of the direct transport, which
tests take with `await server.data("e1")`.
"""

import asyncio
import time

from . import direct, websocket, yamux


class Tunnel:
    def __init__(self, endpoint, socket, session, headers, target):
        self.endpoint, self.socket, self.session = endpoint, socket, session
        self.headers, self.target = headers, target


class Data:
    """A data connection that waits."""

    def __init__(self, reader, writer, credential):
        self.stream, self.credential = direct.TcpStream(reader, writer), credential

    async def begin(self, address="192.0.2.7", port=4711, **preamble):
        """The stream, after a preamble."""
        await self.stream.write(direct.preamble(address, port, **preamble))
        return self.stream


class Server:
    def __init__(self, pool=None, **session_options):
        self.pool = pool
        self.waiting = {}                # endpoint -> [Data]
        self.credentials = []            # all that were given out, oldest first
        self.data_refusal = None         # (status, reason, body bytes): the answer to data connections, until it is None
        self.data_refused_at = []        # when that was answered (time.monotonic)
        self.tunnels = {}                # endpoint -> [Tunnel], newest last
        self.handshakes = []             # (target, headers) of every upgrade that was asked for
        self.refusals = []               # (status, reason, body bytes): answers to the next handshakes
        self.session_options = session_options
        self.writes = self.messages = None
        self.changed = asyncio.Event()
        self.violations = []
        self.tasks = set()
        self.ended_tunnels = []
        self.writers = set()

    async def start(self, upstream_port=0, proxy_port=0):
        self.upstream = await asyncio.start_server(self._on_upstream, "127.0.0.1", upstream_port, limit=1 << 20)
        self.proxy = await asyncio.start_server(self._on_proxy, "127.0.0.1", proxy_port, limit=1 << 20)
        self.upstream_address = self.upstream.sockets[0].getsockname()
        self.proxy_address = self.proxy.sockets[0].getsockname()
        return self

    async def stop(self):
        self.upstream.close()
        self.proxy.close()
        for writer in list(self.writers):
            writer.transport.abort()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def tunnel(self, endpoint, but=None, timeout=15):
        """The newest living tunnel of an endpoint (not `but`), waiting for one."""
        async def find():
            while True:
                living = [one for one in self.tunnels.get(endpoint, []) if not one.session.ended and one is not but]
                if living:
                    return living[-1]
                self.changed.clear()
                await self.changed.wait()
        return await asyncio.wait_for(find(), timeout)

    async def _on_upstream(self, reader, writer):
        task = asyncio.current_task()
        self.tasks.add(task)
        self.writers.add(writer)
        try:
            first, headers = await websocket.read_head(reader)
            target = first.split(" ")[1]
            self.handshakes.append((target, headers))
            self.changed.set()
            if self.refusals:
                status, reason, body = self.refusals.pop(0)
                if status is None:       # cut without an answer
                    writer.transport.abort()
                    return
                writer.write(f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\n"
                             f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
                await writer.drain()
                return
            if "/piko/v1/data/" in target:
                await self._on_data(reader, writer, first, target, headers)
                return
            problem = self._check(first, headers)
            if problem:
                self.violations.append(problem)
                return
            socket = websocket.WebSocket(reader, writer, False, self.writes, self.messages)
            endpoint = target.split("?")[0].rsplit("/", 1)[1]
            session = yamux.Session(socket, is_client=False, **self.session_options)
            tunnel = Tunnel(endpoint, socket, session, headers, target)
            self.tunnels.setdefault(endpoint, []).append(tunnel)
            self.changed.set()
            # Only now: who learns from the agent that it is connected finds the tunnel.
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         b"Sec-WebSocket-Accept: " + websocket.accept_key(headers["sec-websocket-key"].encode()) + b"\r\n"
                         + self._grant(headers) + b"\r\n")
            await session.run()
            self.violations += session.violations
            if isinstance(session.failure, websocket.ProtocolError):
                self.violations.append(str(session.failure))
            self.tunnels[endpoint].remove(tunnel)
            self.ended_tunnels.append(tunnel)
            self.changed.set()
        except (EOFError, ConnectionError):
            pass
        finally:
            self.tasks.discard(task)
            self.writers.discard(writer)
            writer.close()

    def _grant(self, headers):
        if not self.pool or "direct/1" not in headers.get("x-piko-transport", ""):
            return b""
        return f"x-piko-transport: direct/1\r\nx-piko-pool: {self.pool}\r\n{self._new_credential()}".encode()

    def _new_credential(self):
        self.credentials.append(f"credential+{len(self.credentials)}/=")
        return f"x-piko-credential: {self.credentials[-1]}\r\n"

    async def _on_data(self, reader, writer, first, target, headers):
        if self.data_refusal:
            status, reason, body = self.data_refusal
            self.data_refused_at.append(time.monotonic())
            writer.write(f"HTTP/1.1 {status} {reason}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
            await writer.drain()
            return
        used = headers.get("x-piko-credential")
        if first.split(" ")[0] != "GET" or headers.get("upgrade") != "piko-direct/1" or "upgrade" not in headers.get("connection", "").lower():
            self.violations.append(f"data connection without its upgrade: {first} {headers}")
        if used not in self.credentials:
            self.violations.append(f"data connection with a credential that was never given: {used}")
        writer.write(f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: piko-direct/1\r\n{self._new_credential()}\r\n".encode())
        data = Data(reader, writer, used)
        self.waiting.setdefault(target.rsplit("/", 1)[1], []).append(data)
        self.changed.set()
        data.ended = asyncio.Event()
        await data.ended.wait()

    async def data(self, endpoint, timeout=15):
        """A data connection that waits, no longer in `waiting`."""
        async def find():
            while not self.waiting.get(endpoint):
                self.changed.clear()
                await self.changed.wait()
            return self.waiting[endpoint].pop(0)
        return await asyncio.wait_for(find(), timeout)

    def _check(self, first, headers):
        method, target, version = first.split(" ")
        if method != "GET" or version != "HTTP/1.1":
            return f"handshake line {first!r}"
        if "/piko/v1/upstream/" not in target:
            return f"handshake target {target!r}"
        if headers.get("upgrade", "").lower() != "websocket" or "upgrade" not in headers.get("connection", "").lower():
            return f"handshake without upgrade: {headers}"
        if headers.get("sec-websocket-version") != "13" or len(headers.get("sec-websocket-key", "")) != 24:
            return f"handshake version or key: {headers}"
        if "host" not in headers:
            return "handshake without Host"
        return None

    async def _on_proxy(self, reader, writer):
        task = asyncio.current_task()
        self.tasks.add(task)
        self.writers.add(writer)
        try:
            first, headers = await websocket.read_head(reader)
            target = first.split(" ")[1]
            if target.startswith("/_piko/v1/tcp/"):
                await self._on_tcp(reader, writer, target.rsplit("/", 1)[1], headers)
                return
            endpoint = headers.get("x-piko-endpoint") or headers.get("host", "").split(".")[0]
            living = [one for one in self.tunnels.get(endpoint, []) if not one.session.ended]
            if not living:
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
                return
            stream = await living[-1].session.open()
            head = first + "\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
            await stream.write(head.encode("latin-1"))
            await self._join(stream, reader.read, writer)
        except (EOFError, ConnectionError):
            pass
        finally:
            self.tasks.discard(task)
            self.writers.discard(writer)
            writer.close()

    async def _on_tcp(self, reader, writer, endpoint, headers):
        living = [one for one in self.tunnels.get(endpoint, []) if not one.session.ended]
        if not living:
            body = b'{"error":"no available upstreams"}'
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
            return
        stream = await living[-1].session.open()
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     b"Sec-WebSocket-Accept: " + websocket.accept_key(headers["sec-websocket-key"].encode()) + b"\r\n\r\n")
        socket = websocket.WebSocket(reader, writer, False, self.writes, self.messages)

        async def up():
            while data := await socket.receive():
                await stream.write(data)
            await stream.finish()

        async def down():
            while data := await stream.read():
                await socket.send(data)
            await socket.close()
        await asyncio.gather(up(), down())

    async def _join(self, stream, read, writer):
        async def up():
            while data := await read(65536):
                await stream.write(data)
            await stream.finish()

        async def down():
            try:
                while data := await stream.read():
                    writer.write(data)
                    await writer.drain()
                writer.write_eof()
            except yamux.StreamReset:
                writer.transport.abort()
                raise
        await asyncio.gather(up(), down())
