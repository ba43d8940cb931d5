"""Yamux (hashicorp's public specification), version 0, both roles, for asyncio, over any carrier of bytes.

A carrier has `async read() -> bytes` (b"" at the end), `async write(bytes)`, `async finish()`, `abort()`.

Besides speaking it the session judges the other side: more data than the window allowed, ids of the wrong parity or
reused, data after FIN, frames for streams that were never opened, wrong lengths, all of it lands in `violations`.
Knobs let a test misbehave: `updates` decides when window updates are sent, `answers_pings`, and `send_frame` sends anything.
"""

import asyncio
import collections
import struct

DATA, WINDOW_UPDATE, PING, GO_AWAY = 0, 1, 2, 3
SYN, ACK, FIN, RST = 1, 2, 4, 8
INITIAL_WINDOW = 262144
HEADER = struct.Struct("!BBHII")
GO_AWAY_NORMAL, GO_AWAY_PROTOCOL_ERROR, GO_AWAY_INTERNAL_ERROR = 0, 1, 2


class StreamReset(ConnectionError):
    """The other side (or the end of the session) reset the stream."""


class SessionClosed(ConnectionError):
    """The session is over."""


def header(kind, flags, stream, length, version=0):
    return HEADER.pack(version, kind, flags, stream, length)


class Stream:
    """One stream. `read()` gives b"" at the peer's FIN and raises StreamReset after a reset."""

    def __init__(self, session, number, opened_here):
        self.session, self.number, self.opened_here = session, number, opened_here
        self.send_window = INITIAL_WINDOW
        self.receive_window = INITIAL_WINDOW     # what the peer may still send
        self.unreported = 0                      # consumed and not yet given back by a window update
        self.chunks = collections.deque()
        self.acknowledged = not opened_here
        self.acknowledged_event = asyncio.Event()
        self.peer_finished = self.finished = self.was_reset = False
        self.changed = asyncio.Event()
        self.can_send = asyncio.Event()
        self.can_send.set()
        self.bytes_in = self.bytes_out = 0
        self.pushed_back = b""

    def _wake(self):
        self.changed.set()
        self.can_send.set()
        self.acknowledged_event.set()

    async def read(self, most=1 << 30):
        """Whatever is there, at most `most` bytes; b"" at the end."""
        if self.pushed_back:
            data, self.pushed_back = self.pushed_back[:most], self.pushed_back[most:]
            return data
        while not self.chunks:
            if self.was_reset:
                raise StreamReset(f"stream {self.number}")
            if self.peer_finished:
                return b""
            self.changed.clear()
            await self.changed.wait()
        chunk = self.chunks.popleft()
        if len(chunk) > most:
            self.chunks.appendleft(chunk[most:])
            chunk = chunk[:most]
        self.unreported += len(chunk)
        if not self.peer_finished and not self.was_reset and not self.session.ended:
            await self.session.updates(self)
        return chunk

    async def read_exactly(self, count):
        data = bytearray()
        while len(data) < count:
            piece = await self.read(count - len(data))
            if not piece:
                raise EOFError(f"stream ended after {len(data)} of {count} bytes")
            data += piece
        return bytes(data)

    async def read_to_end(self):
        data = bytearray()
        while piece := await self.read():
            data += piece
        return bytes(data)

    async def read_until(self, mark):
        """Up to and with `mark`."""
        data = b""
        while mark not in data:
            piece = await self.read()
            if not piece:
                raise EOFError(f"stream ended before {mark!r}: {data[:200]!r}")
            data += piece
        end = data.index(mark) + len(mark)
        self.pushed_back = data[end:] + self.pushed_back
        return data[:end]

    async def give_window(self, amount):
        """A window update, whatever the books say."""
        self.receive_window += amount
        await self.session.send_frame(WINDOW_UPDATE, self.session.take_flags(self), self.number, amount)

    async def write(self, data, frame_bytes_max=65536):
        view = memoryview(data)
        while len(view):
            while self.send_window == 0 and not self.was_reset and not self.session.ended:
                self.can_send.clear()
                await self.can_send.wait()
            if self.was_reset:
                raise StreamReset(f"stream {self.number}")
            if self.session.ended:
                raise SessionClosed()
            count = min(len(view), self.send_window, frame_bytes_max)
            self.send_window -= count
            self.bytes_out += count
            await self.session.send_frame(DATA, self.session.take_flags(self), self.number, count, bytes(view[:count]))
            view = view[count:]

    async def finish(self):
        if not self.finished and not self.was_reset and not self.session.ended:
            self.finished = True
            await self.session.send_frame(WINDOW_UPDATE, FIN | self.session.take_flags(self), self.number, 0)
            self.session.forget_if_done(self)

    async def reset(self):
        if not self.was_reset and not self.session.ended:
            self.was_reset = True
            self._wake()
            await self.session.send_frame(WINDOW_UPDATE, RST, self.number, 0)
            self.session.forget(self)


async def update_at_half(stream):
    """As the Go side does it: one update when at least half of the window is used."""
    if stream.unreported >= INITIAL_WINDOW // 2:
        amount, stream.unreported = stream.unreported, 0
        await stream.give_window(amount)


async def update_at_once(stream):
    """Many tiny updates: one for each piece that was read."""
    amount, stream.unreported = stream.unreported, 0
    await stream.give_window(amount)


async def update_never(stream):
    """A reader that never gives anything back."""


class Session:
    """One session. Run `run()` as a task; `accept()` gives the streams that the other side opens."""

    def __init__(self, carrier, is_client, updates=update_at_half, answers_pings=True, acknowledges=True, eager_ack=True):
        self.carrier, self.is_client = carrier, is_client
        self.updates, self.answers_pings = updates, answers_pings
        self.acknowledges, self.eager_ack = acknowledges, eager_ack
        self.streams = {}
        self.forgotten = {}              # id -> why: late frames for them are legal
        self.next_number = 1 if is_client else 2
        self.last_accepted = 0
        self.accepted = asyncio.Queue()
        self.violations = []
        self.pings_received = []
        self.pongs = {}
        self.go_away_received = None
        self.go_away_sent = None
        self.go_away_event = asyncio.Event()
        self.ended = False
        self.end_event = asyncio.Event()
        self.failure = None
        self.buffer = bytearray()
        self.frames_in = collections.Counter()
        self.write_lock = asyncio.Lock()
        self.task = None
        self.accepted_total = 0
        self.syn_ack_pending = set()

    # ---- Sending ----

    async def send_raw(self, data):
        async with self.write_lock:
            await self.carrier.write(data)

    async def send_frame(self, kind, flags, stream, length, payload=b"", version=0):
        await self.send_raw(header(kind, flags, stream, length, version) + payload)

    def take_flags(self, stream):
        if stream.number in self.syn_ack_pending:
            self.syn_ack_pending.discard(stream.number)
            return SYN if stream.opened_here else ACK
        return 0

    async def open(self, lazy_syn=False):
        """Opens a stream: a window update with SYN. `lazy_syn`: the SYN travels on the first frame instead, which is
        legal too ("data may follow the SYN at once", or carry it)."""
        stream = Stream(self, self.next_number, True)
        self.next_number += 2
        self.streams[stream.number] = stream
        if lazy_syn:
            self.syn_ack_pending.add(stream.number)
        else:
            await self.send_frame(WINDOW_UPDATE, SYN, stream.number, 0)
        return stream

    async def accept(self):
        stream = await self.accepted.get()
        if stream is None:
            self.accepted.put_nowait(None)
            raise SessionClosed()
        return stream

    async def ping(self, value=0x1234):
        """Sends a ping and waits for its answer."""
        event = self.pongs.setdefault(value, asyncio.Event())
        await self.send_frame(PING, SYN, 0, value)
        await event.wait()

    async def go_away(self, code=GO_AWAY_NORMAL):
        self.go_away_sent = code
        await self.send_frame(GO_AWAY, 0, 0, code)

    # ---- Receiving ----

    def start(self):
        self.task = asyncio.create_task(self.run())
        return self

    async def run(self):
        try:
            while data := await self.carrier.read():
                self.buffer += data
                await self._parse()
        except asyncio.CancelledError:
            raise
        except Exception as error:           # kept for the test to look at; the streams end below
            self.failure = error
        finally:
            self._end()

    def _end(self):
        self.ended = True
        for stream in list(self.streams.values()):
            if not (stream.peer_finished and stream.finished):
                stream.was_reset = True
            stream._wake()
        self.accepted.put_nowait(None)
        self.end_event.set()
        self.go_away_event.set()
        for event in self.pongs.values():
            event.set()

    async def close(self):
        await self.carrier.finish()

    def abort(self):
        self.carrier.abort()

    def violation(self, text):
        self.violations.append(text)

    async def _parse(self):
        while len(self.buffer) >= 12:
            version, kind, flags, number, length = HEADER.unpack_from(self.buffer)
            if version != 0 or kind > GO_AWAY or flags & ~0xF:
                self.violation(f"bad header version={version} type={kind} flags={flags:#x}")
                raise SessionClosed()
            payload = b""
            if kind == DATA:
                if len(self.buffer) < 12 + length:
                    return
                payload = bytes(self.buffer[12:12 + length])
                del self.buffer[:12 + length]
            else:
                del self.buffer[:12]
            self.frames_in[kind] += 1
            if kind == PING:
                await self._on_ping(flags, number, length)
            elif kind == GO_AWAY:
                if number != 0 or flags != 0 or length > 2:
                    self.violation(f"go away with stream={number} flags={flags} code={length}")
                self.go_away_received = length
                self.go_away_event.set()
            else:
                await self._on_stream_frame(kind, flags, number, length, payload)

    async def _on_ping(self, flags, number, value):
        if number != 0 or flags not in (SYN, ACK):
            self.violation(f"ping with stream={number} flags={flags}")
        if flags & SYN:
            self.pings_received.append(value)
            if self.answers_pings:
                await self.send_frame(PING, ACK, 0, value)
        elif value in self.pongs:
            self.pongs[value].set()
        else:
            self.violation(f"answer to a ping never sent: {value}")

    async def _on_stream_frame(self, kind, flags, number, length, payload):
        if number == 0:
            self.violation("stream frame with id 0")
            raise SessionClosed()
        if flags & SYN:
            await self._on_syn(number)
        stream = self.streams.get(number)
        if stream is None:
            if number not in self.forgotten:
                self.violation(f"frame for stream {number}, which was never opened")
            elif self.forgotten[number] == "both finished" and not flags & RST and (kind == DATA and length or flags & FIN):
                self.violation(f"data or FIN after both ends of stream {number} were finished")
            return
        if flags & ACK:
            if stream.acknowledged:
                self.violation(f"second ACK for stream {number}")
            stream.acknowledged = True
            stream.acknowledged_event.set()
        if kind == DATA and length:
            if stream.peer_finished:
                self.violation(f"data after FIN on stream {number}")
            if length > stream.receive_window:
                self.violation(f"{length} bytes on stream {number}, window was {stream.receive_window}")
            stream.receive_window -= length
            stream.bytes_in += length
            stream.chunks.append(payload)
            stream.changed.set()
        elif kind == WINDOW_UPDATE and length:
            stream.send_window += length
            if stream.send_window > 0xFFFFFFFF:
                self.violation(f"window of stream {number} grew over 2^32")
            stream.can_send.set()
        if flags & FIN:
            if stream.peer_finished:
                self.violation(f"second FIN on stream {number}")
            stream.peer_finished = True
            stream._wake()
            self.forget_if_done(stream)
        if flags & RST:
            stream.was_reset = True
            stream._wake()
            self.forget(stream)

    async def _on_syn(self, number):
        theirs = 0 if self.is_client else 1
        if number % 2 != theirs:
            self.violation(f"stream {number} has the parity of this side")
            raise SessionClosed()
        if number <= self.last_accepted:
            self.violation(f"stream {number} after {self.last_accepted}: ids must grow")
        if self.go_away_sent is not None and self.go_away_sent_seen:
            self.violation(f"stream {number} opened after go-away")
        self.last_accepted = max(self.last_accepted, number)
        stream = Stream(self, number, False)
        self.streams[number] = stream
        self.accepted_total += 1
        if self.acknowledges:
            if self.eager_ack:
                await self.send_frame(WINDOW_UPDATE, ACK, number, 0)
            else:
                self.syn_ack_pending.add(number)
        self.accepted.put_nowait(stream)

    # A stream may cross a go-away on the wire; a test that knows it was seen (a ping answered after it) sets this.
    go_away_sent_seen = False

    def forget(self, stream, why="reset"):
        if self.streams.pop(stream.number, None) is not None:
            self.forgotten[stream.number] = why

    def forget_if_done(self, stream):
        if stream.finished and stream.peer_finished:
            self.forget(stream, "both finished")
