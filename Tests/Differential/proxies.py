"""The proxies of the differential grid, each in front of a recording service of its own: haproxy and nginx as Debian has them, with
nothing turned off that they check, and our server with our agent behind it.

The service reads strictly what comes and answers 200. What it can't read is recorded as it is: it reached the service.
"""

import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Tests" / "SystemTests"))

import programs  # noqa: E402
from peer import http1  # noqa: E402

HAPROXY = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")


class Recorder:
    """A service on loopback that keeps every request, in their order."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.seen = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _note(self, entry):
        with self.lock:
            self.seen.append(entry)

    def _serve(self, peer):
        source = Source(peer)
        try:
            while True:
                head = []
                try:
                    request = source.read_message(head)
                except http1.BadMessage as error:
                    self._note(("unreadable", str(error)[:200], source.raw[:400]))
                    return
                except EOFError:
                    if head:
                        self._note(("cut", head[0].method, head[0].target))
                    elif source.raw:
                        self._note(("unreadable", "cut head", source.raw[:400]))
                    return
                self._note(("request", request.method, request.target, request.body))
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + (b"" if request.method == "HEAD" else b"ok"))
                source.raw = b""
                if "close" in request.options():
                    return
        except OSError:
            pass
        finally:
            peer.close()

    def take(self):
        """What came since the last time."""
        with self.lock:
            taken, self.seen = self.seen, []
        return taken

    def close(self):
        self.listener.close()


class Source:
    """Reads messages from a socket, and keeps the bytes of the one at hand."""

    def __init__(self, peer):
        self.peer, self.buffer, self.raw = peer, b"", b""

    def _more(self):
        data = self.peer.recv(65536)
        if not data:
            raise EOFError
        self.buffer += data
        self.raw = (self.raw + data)[:4096]

    def _take(self, count):
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def read_message(self, head):
        machine = http1.parse_message(False, on_head=head.append)
        wish = next(machine)
        try:
            while True:
                kind, what = wish
                if kind == "until":
                    while what not in self.buffer:
                        self._more()
                    data = self._take(self.buffer.index(what) + len(what))
                else:
                    while len(self.buffer) < (what if kind == "exactly" else 1):
                        self._more()
                    data = self._take(what)
                wish = machine.send(data)
        except StopIteration as stop:
            return stop.value


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def wait_for_port(port):
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class Proxy:
    """A proxy that runs, and its service."""

    def __init__(self, name):
        self.name = name
        self.service = Recorder()
        self.started = []
        self.folder = tempfile.TemporaryDirectory(prefix="piko-grid-")

    def path(self, name):
        return Path(self.folder.name) / name

    def run(self, *arguments):
        program = programs.Program(arguments, name=self.name)
        self.started.append(program)
        return program

    def stop(self):
        for program in reversed(self.started):
            program.stop(signal.SIGTERM)
        self.service.close()
        self.folder.cleanup()


def haproxy():
    proxy = Proxy("haproxy")
    proxy.address = ("127.0.0.1", free_port())
    proxy.path("haproxy.cfg").write_text(f"""
global
    maxconn 256
defaults
    mode http
    timeout connect 2s
    timeout client 2s
    timeout server 2s
    timeout http-request 2s
frontend clients
    bind 127.0.0.1:{proxy.address[1]}
    default_backend service
backend service
    server one 127.0.0.1:{proxy.service.port}
""")
    proxy.run(HAPROXY, "-db", "-f", proxy.path("haproxy.cfg"))
    wait_for_port(proxy.address[1])
    return proxy


def nginx():
    proxy = Proxy("nginx")
    proxy.address = ("127.0.0.1", free_port())
    folders = "\n".join(f"{name}_temp_path {proxy.path(name)};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    proxy.path("nginx.conf").write_text(f"""
daemon off;
worker_processes 1;
error_log stderr error;
pid {proxy.path("pid")};
events {{ worker_connections 256; }}
http {{
    access_log off;
    {folders}
    client_header_timeout 2s;
    client_body_timeout 2s;
    large_client_header_buffers 4 32k;
    server {{
        listen 127.0.0.1:{proxy.address[1]};
        location / {{
            proxy_pass http://127.0.0.1:{proxy.service.port};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_request_buffering off;
        }}
    }}
}}
""")
    # Workers must be able to write there when the master is root.
    os.chmod(proxy.folder.name, 0o777)
    proxy.run(NGINX, "-p", proxy.folder.name, "-c", proxy.path("nginx.conf"))
    wait_for_port(proxy.address[1])
    return proxy


def piko(backend="auto", workers=2):
    proxy = Proxy("piko")
    node = programs.Node(backend, workers=workers, arguments=["--proxy.access-log.disable", "--proxy.reconnect-wait", "0"])
    proxy.started.append(node)
    proxy.address = node.proxy
    agent = proxy.run(programs.BIN / "piko", "agent", "http", "e", f"127.0.0.1:{proxy.service.port}", "--connect.url", node.upstream_url, "--access-log.disable")
    agent.wait_log("connected")
    return proxy
