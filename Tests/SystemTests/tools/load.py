"""Load on a node from one process: HTTP clients that keep their connection, that open one for each request and that are idle in
between, WebSockets and raw TCP streams that echo. Every answer is checked to the byte.

    load.py --proxy HOST:PORT --http ENDPOINT,… [--plain ENDPOINT,…] [--tcp ENDPOINT,…] [--kept N] [--fresh N] [--idle N]
            [--websockets N] [--streams N] [--stream-bytes B] [--pause SECONDS] [--bodies B,…]

Several endpoints get their clients in turn; those of --plain get requests only, no WebSockets. Reads lines from stdin: "phase
NAME" begins another phase, "stop" (or the end) ends the load once all running streams and requests are over. Then it prints
one JSON object: for each phase requests, failures, seconds and latencies, and of all what failed first and when (by the
machine's monotonic clock). A connection that a server closes between two requests without having said so is a failure. A
WebSocket or stream that failed is followed by another.
"""

import argparse
import asyncio
import base64
import json
import os
import random
import sys
import time

PATTERN = bytes(range(256)) * 257


class Failure(Exception):
    pass


class Load:
    def __init__(self, options):
        self.options = options
        host, _, port = options.proxy.rpartition(":")
        self.address = (host, int(port))
        self.phases = []
        self.failures = []
        self.failed_at = []
        self.stopping = asyncio.Event()
        self.connected = 0
        self.bytes = 0
        self.streams_done = 0
        self.begin("start")

    def begin(self, name):
        now = time.monotonic()
        if self.phases:
            self.phases[-1]["seconds"] = now - self.phases[-1]["since"]
        self.phases.append({"name": name, "since": now, "latencies": [], "failures": 0})

    def done(self, started):
        self.phases[-1]["latencies"].append(time.monotonic() - started)

    def failed(self, kind, error):
        self.phases[-1]["failures"] += 1
        if len(self.failed_at) < 20_000:
            self.failed_at.append([time.monotonic(), f"{kind}: {type(error).__name__}: {error}"])
        if len(self.failures) < 30:
            self.failures.append(f"{time.monotonic() - self.phases[0]['since']:.3f} {kind}: {type(error).__name__}: {error}")

    async def open(self):
        return await asyncio.open_connection(*self.address, limit=1 << 20)

    # ---- HTTP ----

    async def exchange(self, reader, writer, endpoint, body):
        method = "POST" if body else "GET"
        target = "/echo" if body else "/small"
        writer.write((f"{method} {target} HTTP/1.1\r\nHost: {endpoint}.example.com\r\n"
                      + (f"Content-Length: {len(body)}\r\n" if body else "") + "\r\n").encode() + body)
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        except asyncio.IncompleteReadError as error:
            raise Failure(f"closed after {len(error.partial)} bytes of an answer") from None
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        if fields.get("transfer-encoding") == "chunked":
            data = b""
            while True:
                size = int((await asyncio.wait_for(reader.readuntil(b"\r\n"), 30)).strip(), 16)
                piece = await asyncio.wait_for(reader.readexactly(size + 2), 30)
                if size == 0:
                    break
                data += piece[:-2]
        else:
            data = await asyncio.wait_for(reader.readexactly(int(fields["content-length"])), 30)
        if status != 200:
            raise Failure(f"status {status}: {data[:100]!r}")
        if body and data != body:
            raise Failure(f"{len(data)} bytes of an echo of {len(body)} differ")
        return fields.get("connection", "").lower() != "close"

    async def http_client(self, endpoint, kind, keeps, pause):
        writer = None
        while not self.stopping.is_set():
            body = random.randbytes(random.choice(self.options.bodies)) if kind != "fresh" else b""
            started = time.monotonic()
            try:
                if writer is None:
                    reader, writer = await self.open()
                keeps_open = await self.exchange(reader, writer, endpoint, body)
                self.done(started)
                if not keeps_open or not keeps:
                    writer.close()
                    writer = None
            except (Failure, OSError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
                self.failed(f"{kind} {endpoint}", error)
                if writer is not None:
                    writer.close()
                writer = None
                await asyncio.sleep(0.02)
            if pause and not await self.idle(random.uniform(pause / 2, pause), reader if writer is not None else None):
                self.failed(f"{kind} {endpoint}", Failure("closed between two requests"))
                writer.close()
                writer = None
        if writer is not None:
            writer.close()

    async def idle(self, seconds, reader):
        """False as soon as the connection ends meanwhile."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self.stopping.is_set():
            try:
                await asyncio.wait_for(self.stopping.wait(), min(left, 0.2))
            except asyncio.TimeoutError:
                pass
            if reader is not None and (reader.at_eof() or reader.exception()):
                return False
        return True

    # ---- Upgrades ----

    async def upgrade(self, target, host, protocol, extra=""):
        reader, writer = await self.open()
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n{extra}\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        if not head.startswith(b"HTTP/1.1 101"):
            writer.close()
            raise Failure(f"upgrade: {head[:12]!r} {await asyncio.wait_for(reader.read(200), 30)!r}")
        return reader, writer

    async def websocket(self, endpoint):
        while not self.stopping.is_set():
            if not await self.echo_messages(endpoint):
                await asyncio.sleep(0.1)

    async def echo_messages(self, endpoint):
        """One WebSocket, to the end of the load; False when it failed."""
        key = base64.b64encode(os.urandom(16)).decode()
        try:
            reader, writer = await self.upgrade(
                "/ws", f"{endpoint}.example.com", "websocket", f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n")
        except (Failure, OSError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
            self.failed(f"websocket {endpoint}", error)
            return False
        self.connected += 1
        try:
            while not self.stopping.is_set():
                payload = random.randbytes(random.randint(1, 120))
                mask = os.urandom(4)
                masked = bytes(byte ^ mask[index & 3] for index, byte in enumerate(payload))
                writer.write(bytes([0x82, 0x80 | len(payload)]) + mask + masked)
                echoed, is_final, opcode = b"", False, 2
                while not is_final:
                    head = await asyncio.wait_for(reader.readexactly(2), 30)
                    if head[0] & 0x7F != opcode or head[1] > 125:
                        raise Failure(f"a frame {head!r}")
                    is_final, opcode = head[0] & 0x80 != 0, 0
                    echoed += await asyncio.wait_for(reader.readexactly(head[1]), 30)
                if echoed != payload:
                    raise Failure("an echo differs")
                if not await self.idle(random.uniform(0.5, 1.5), reader):
                    raise Failure("closed between two messages")
            return True
        except (Failure, OSError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
            self.failed(f"websocket {endpoint}", error)
            return False
        finally:
            writer.close()

    async def stream(self, endpoint):
        while not self.stopping.is_set():
            try:
                reader, writer = await self.upgrade(f"/_piko/v1/tcp/{endpoint}", "localhost", "piko-raw/1")
            except (Failure, OSError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
                self.failed(f"stream {endpoint}", error)
                await asyncio.sleep(0.1)
                continue
            total, offset = self.options.stream_bytes, random.randrange(251)
            rotated = PATTERN[offset:] + PATTERN[:offset]

            async def send():
                sent = 0
                while sent < total:
                    piece = rotated[: min(len(rotated), total - sent)]
                    writer.write(piece)
                    await writer.drain()
                    sent += len(piece)
                writer.write_eof()

            sender = asyncio.create_task(send())
            got = 0
            try:
                while True:
                    data = await asyncio.wait_for(reader.read(1 << 18), 60)
                    if not data:
                        break
                    start = got % len(rotated)
                    double = rotated + rotated
                    checked = 0
                    while checked < len(data):
                        step = min(len(data) - checked, len(rotated))
                        begin = (start + checked) % len(rotated)
                        if data[checked:checked + step] != double[begin:begin + step]:
                            raise Failure(f"bytes differ after {got + checked}")
                        checked += step
                    got += len(data)
                    self.bytes += len(data)
                await sender
                if got != total:
                    raise Failure(f"{got} of {total} bytes came back")
                self.streams_done += 1
            except (Failure, OSError, asyncio.TimeoutError) as error:
                sender.cancel()
                self.failed(f"stream {endpoint}", error)
            finally:
                writer.close()

    # ---- All of it ----

    async def commands(self):
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while True:
            words = (await reader.readline()).decode().split()
            if not words or words[0] == "stop":
                self.stopping.set()
                return
            if words[0] == "phase":
                self.begin(words[1])

    async def run(self):
        options = self.options
        tasks = [asyncio.create_task(self.commands())]
        plain = options.http + options.plain

        def clients(count, endpoints, make):
            return [asyncio.create_task(make(endpoints[index % len(endpoints)])) for index in range(count)]
        tasks += clients(options.kept, plain, lambda endpoint: self.http_client(endpoint, "kept", True, options.pause))
        tasks += clients(options.fresh, plain, lambda endpoint: self.http_client(endpoint, "fresh", False, options.pause))
        tasks += clients(options.idle, plain, lambda endpoint: self.http_client(endpoint, "idle", True, 4))
        tasks += clients(options.streams, options.tcp, self.stream)
        for index in range(options.websockets):
            tasks.append(asyncio.create_task(self.websocket(options.http[index % len(options.http)])))
            if index % 20 == 19:
                await asyncio.sleep(0.02)
        print("running", flush=True)
        await asyncio.gather(*tasks)
        self.begin("end")
        report = {"failures": sum(phase["failures"] for phase in self.phases), "first": self.failures,
                  "failed_at": self.failed_at, "bytes": self.bytes,
                  "websockets": self.connected, "streams": self.streams_done, "phases": {}}
        for phase in self.phases[:-1]:
            latencies = sorted(phase["latencies"])

            def at(share):
                return latencies[min(len(latencies) - 1, int(len(latencies) * share))] * 1000 if latencies else 0
            report["phases"][phase["name"]] = {
                "requests": len(latencies), "failures": phase["failures"], "seconds": round(phase["seconds"], 2),
                "p50_ms": round(at(0.5), 2), "p99_ms": round(at(0.99), 2), "max_ms": round(at(1), 2)}
        print(json.dumps(report), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--proxy")
    for name in ["http", "plain", "tcp"]:
        parser.add_argument(f"--{name}", type=lambda text: text.split(","), default=[])
    for name in ["kept", "fresh", "idle", "websockets", "streams"]:
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--stream-bytes", type=int, default=1 << 20)
    parser.add_argument("--pause", type=float, default=0)
    parser.add_argument("--bodies", type=lambda text: [int(word) for word in text.split(",")], default=[0, 0, 100, 3_000, 70_000])
    asyncio.run(Load(parser.parse_args()).run())


main()
