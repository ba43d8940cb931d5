"""Many tunnels from one process: each listens on an endpoint of its own, PREFIX0 … PREFIX<N-1>, idles, and answers every
request with the name of its endpoint. One thread, one selector, no more than some 2 KiB a tunnel.

    python3 idle_tunnels.py HOST PORT PREFIX COUNT

Prints "open N" when all are registered; a line on stdin (or its end) makes it close them all with go-away and exit 0.
"""

import os
import resource
import selectors
import socket
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from peer import websocket, yamux  # noqa: E402

MASK = b"\x11\x22\x33\x44"


class Tunnel:
    __slots__ = ("socket", "name", "upgraded", "buffer", "decoder", "frames", "requests")

    def __init__(self, address, name):
        self.name, self.upgraded, self.buffer, self.frames, self.requests = name, False, b"", bytearray(), {}
        self.decoder = websocket.FrameDecoder(expects_masked=False)
        self.socket = socket.create_connection(address, timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(f"GET /piko/v1/upstream/{name} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
        self.socket.setblocking(False)

    def send(self, data):
        # Answers are far smaller than a socket's buffer.
        self.socket.sendall(websocket.encode_frame(websocket.BINARY, data, mask=MASK))

    def readable(self):
        """True: the upgrade is done now. Raises at the end."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return False
        if not data:
            raise EOFError(f"{self.name}: the server closed the tunnel")
        if not self.upgraded:
            self.buffer += data
            if b"\r\n\r\n" not in self.buffer:
                return False
            head, data = self.buffer.split(b"\r\n\r\n", 1)
            if not head.startswith(b"HTTP/1.1 101 "):
                raise EOFError(f"{self.name}: {head[:100]!r}")
            self.upgraded, self.buffer = True, b""
            self.take(data)
            return True
        self.take(data)
        return False

    def take(self, data):
        for frame in self.decoder.feed(data):
            if frame.opcode == websocket.PING:
                self.socket.sendall(websocket.encode_frame(websocket.PONG, frame.payload, mask=MASK))
            elif frame.opcode == websocket.CLOSE:
                raise EOFError(f"{self.name}: closed with {frame.payload!r}")
            else:
                self.frames += frame.payload
        while len(self.frames) >= 12:
            _, kind, flags, number, length = yamux.HEADER.unpack_from(self.frames)
            size = 12 + (length if kind == yamux.DATA else 0)
            if len(self.frames) < size:
                return
            payload = bytes(self.frames[12:size])
            del self.frames[:size]
            if kind == yamux.PING and flags & yamux.SYN:
                self.send(yamux.header(yamux.PING, yamux.ACK, 0, length))
            if kind in (yamux.DATA, yamux.WINDOW_UPDATE):
                if flags & yamux.SYN:
                    self.requests[number] = b""
                    self.send(yamux.header(yamux.WINDOW_UPDATE, yamux.ACK, number, 0))
                if payload and number in self.requests:
                    self.requests[number] += payload
                    while b"\r\n\r\n" in self.requests[number]:
                        _, self.requests[number] = self.requests[number].split(b"\r\n\r\n", 1)
                        body = self.name.encode()
                        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                        self.send(yamux.header(yamux.DATA, 0, number, len(answer)) + answer)
                if flags & yamux.FIN:
                    self.send(yamux.header(yamux.WINDOW_UPDATE, yamux.FIN, number, 0))
                if flags & (yamux.FIN | yamux.RST):
                    self.requests.pop(number, None)


def main():
    host, port, prefix, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 100)), hard))
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ, None)
    tunnels, pending, is_open = [], set(), 0
    while True:
        while len(tunnels) < count and len(pending) < 64:
            tunnel = Tunnel((host, port), f"{prefix}{len(tunnels)}")
            tunnels.append(tunnel)
            pending.add(tunnel)
            selector.register(tunnel.socket, selectors.EVENT_READ, tunnel)
        for key, _ in selector.select():
            if key.data is None:
                for tunnel in tunnels:
                    tunnel.send(yamux.header(yamux.GO_AWAY, 0, 0, 0))
                    tunnel.socket.setblocking(True)
                    tunnel.socket.sendall(websocket.encode_frame(websocket.CLOSE, struct.pack("!H", 1000), mask=MASK))
                    tunnel.socket.close()
                os._exit(0)
            if key.data.readable():
                pending.discard(key.data)
                is_open += 1
                if is_open == count:
                    print("open", count, flush=True)


if __name__ == "__main__":
    main()
