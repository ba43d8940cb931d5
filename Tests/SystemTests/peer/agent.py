"""An agent of the Piko protocol: listens on one endpoint, and serves HTTP/1.1 or raw bytes on each stream.

    agent = await Agent.connect(upstream_address, "my-endpoint", handler=serve_http(recorder))

`handler(stream)` is a coroutine that is run for each stream that the server opens. With `transport="direct"` some data
connections wait beside the session, and streams come over either. Options of `connect` turn on the misbehaviour that a test
wants (see `websocket.WebSocket` and `yamux.Session`).
"""

import asyncio

from . import direct, http1, websocket, yamux


def every_byte(data):
    """A cutter: one piece for each byte."""
    return [data[index:index + 1] for index in range(len(data))]


def pieces_of(count):
    """A cutter: pieces of `count` bytes."""
    return lambda data: [data[index:index + count] for index in range(0, len(data), count)]


class Agent:
    def __init__(self, socket, session, endpoint, handler):
        self.socket, self.session, self.endpoint, self.handler = socket, session, endpoint, handler
        self.tasks = set()
        self.failures = []
        self.answer = {}
        self.pool = None

    @classmethod
    async def connect(cls, address, endpoint, handler=None, headers=(), writes=None, messages=None, prefix="",
                      host=None, transport="mux", waiting=4, **session_options):
        if transport == "direct":
            headers = [*headers, direct.OFFER]
        reader, writer = await asyncio.open_connection(*address, limit=1 << 20)
        try:
            answer = await websocket.upgrade(reader, writer, f"{prefix}/piko/v1/upstream/{endpoint}",
                                             host or f"{address[0]}:{address[1]}", headers)
        except BaseException:
            writer.close()
            raise
        socket = websocket.WebSocket(reader, writer, True, writes, messages)
        session = yamux.Session(socket, is_client=True, **session_options).start()
        agent = cls(socket, session, endpoint, handler)
        agent.answer = answer
        if handler is not None:
            agent._track(asyncio.create_task(agent._serve()))
            if transport == "direct" and answer.get("x-piko-transport") == "direct/1":
                agent.pool = direct.DataPool(agent, address, waiting, host)
                await agent.pool.fill()
        return agent

    def _track(self, task):
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _serve(self):
        try:
            while True:
                self._track(asyncio.create_task(self._run(await self.session.accept())))
        except yamux.SessionClosed:
            pass

    async def _run(self, stream):
        try:
            await self.handler(stream)
        except (EOFError, OSError):      # ENOTCONN too: FIN on a connection that was reset
            await self._quietly(stream.reset())
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.failures.append(error)
            await self._quietly(stream.reset())

    async def _quietly(self, action):
        try:
            await action
        except (ConnectionError, OSError, yamux.SessionClosed):
            pass

    async def close(self):
        """Go away, then the WebSocket's Close, as an agent that ends properly."""
        if self.pool:
            self.pool.end()
        await self._quietly(self.session.go_away())
        await self._quietly(self.session.close())
        await self._stop()

    async def abort(self):
        """The TCP connections are reset."""
        if self.pool:
            self.pool.abort()
        self.session.abort()
        await self._stop()

    async def _stop(self):
        for task in list(self.tasks):
            task.cancel()
        if self.session.task:
            self.session.task.cancel()
        await asyncio.gather(*self.tasks, self.session.task, return_exceptions=True)

    @property
    def violations(self):
        found = list(self.session.violations)
        if isinstance(self.session.failure, websocket.ProtocolError):
            found.append(str(self.session.failure))
        return found


# ---- Handlers ----

class Recorder:
    """Answers every request on a stream, keep-alive, with `respond(request) -> bytes`, and keeps what was asked."""

    def __init__(self, respond=None, body=b"hello"):
        self.requests = []
        self.bad = []
        self.connections = 0
        self.respond = respond or (lambda request: http1.response(headers=[("Content-Type", "text/plain")], body=body))

    async def __call__(self, stream):
        self.connections += 1
        while True:
            try:
                request = await http1.read_message(stream)
            except http1.BadMessage as error:
                self.bad.append(error)
                raise
            self.requests.append(request)
            answer = self.respond(request)
            if asyncio.iscoroutine(answer):
                answer = await answer
            await stream.write(answer)
            if "close" in request.options():
                await stream.finish()
                return


async def echo(stream):
    """Raw bytes back, and the end after the end."""
    while data := await stream.read():
        await stream.write(data)
    await stream.finish()


async def demo(stream):
    """The demo service in small, as tools/load.py asks for it: any request gets a line, /echo its body, /ws is a WebSocket that
    echoes messages."""
    while True:
        try:
            request = await http1.read_message(stream)
        except EOFError:
            return
        if request.target == "/ws":
            break
        await stream.write(http1.response(body=request.body if request.target == "/echo" else b"a line\n"))
        if "close" in request.options():
            await stream.finish()
            return
    await stream.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
                       + websocket.accept_key(request.get("sec-websocket-key").encode()) + b"\r\n\r\n")
    decoder = websocket.FrameDecoder(expects_masked=True)
    while data := await stream.read():
        for frame in decoder.feed(data):
            await stream.write(websocket.encode_frame(frame.opcode, frame.payload, fin=frame.fin))
    await stream.finish()
