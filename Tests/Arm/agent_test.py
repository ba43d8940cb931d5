"""An agent that was built for another processor, run by an emulator, in front of real services, at a real server of this machine: requests,
large bodies, a TCP tunnel, plain and over TLS, on both transports, and its end by SIGTERM.

    agent_test.py BIN AGENT...

BIN is the folder of this machine's programs, AGENT... the command of the agent under test (emulator, its options, program). Ports come
from the kernel. Needs nothing but Python and openssl. Status 1 and the logs when something does not hold.
"""
import hashlib
import http.client
import http.server
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PATIENCE = 180      # an emulator on a busy machine is slow
BODY_BYTES = 4 << 20
TCP_BYTES = 4 << 20


class Service(http.server.BaseHTTPRequestHandler):
    """Answers with the hash of what it got, and a body of known bytes."""
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        length = int(self.headers.get("content-length", 0))
        digest = hashlib.sha256(self.rfile.read(length)).hexdigest()
        body = bytes(range(256)) * 4096 if self.path == "/large" else digest.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-digest", digest)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


class Echo(socketserver.BaseRequestHandler):
    """Gives back what it gets, then ends."""

    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Program:
    """A process whose log lines are objects."""

    def __init__(self, folder, name, command):
        self.name, self.path = name, folder / f"{name}.log"
        with self.path.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def lines(self):
        found = []
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                found.append({"msg": line})
        return found

    def wait_line(self, message, count=1):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            matching = [line for line in self.lines() if line.get("msg") == message]
            if len(matching) >= count:
                return matching[-1]
            assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}"
            time.sleep(0.1)
        raise AssertionError(f"{self.name} did not say {message!r}")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def address_of(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def ask(proxy, method, path, body=None):
    connection = http.client.HTTPConnection(*address_of(proxy), timeout=PATIENCE)
    connection.request(method, path, body, {"x-piko-endpoint": "web"})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), content


def check_requests(proxy):
    for number in range(20):
        wanted = hashlib.sha256(str(number).encode()).hexdigest()
        assert ask(proxy, "POST", f"/{number}", str(number).encode())[::2] == (200, wanted.encode())
    body = os.urandom(BODY_BYTES)
    status, headers, content = ask(proxy, "POST", "/large", body)
    assert status == 200 and headers["x-digest"] == hashlib.sha256(body).hexdigest() and content == bytes(range(256)) * 4096


def check_tunnel(port):
    sent = os.urandom(TCP_BYTES)
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        def send():
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
        sender = threading.Thread(target=send)
        sender.start()
        got = bytearray()
        while data := client.recv(65536):
            got += data
        sender.join()
    assert bytes(got) == sent


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(handler, server):
    service = server(("127.0.0.1", 0), handler)
    service.daemon_threads = True
    threading.Thread(target=service.serve_forever, daemon=True).start()
    return service.server_address[1]


def run(folder, binaries, agent, with_tls, transport):
    running = []

    def start(name, command):
        running.append(Program(folder, name, [str(word) for word in command]))
        return running[-1]

    try:
        options = ["--upstream.tls.cert", folder / "site.pem", "--upstream.tls.key", folder / "site.key"] if with_tls else []
        server = start("server", [binaries / "piko", "server", "--proxy.bind-addr", "127.0.0.1:0", "--upstream.bind-addr", "127.0.0.1:0",
                                  "--admin.bind-addr", "127.0.0.1:0", "--cluster.gossip.bind-addr", "127.0.0.1:0",
                                  "--server.control-socket", folder / "control.sock", *options])
        ready = server.wait_line("server ready")
        where = ("https://localhost:" if with_tls else "http://localhost:") + ready["upstream_addr"].rsplit(":", 1)[1]
        web = serve(Service, http.server.ThreadingHTTPServer)
        echo = serve(Echo, socketserver.ThreadingTCPServer)
        trust = ["--connect.tls.root-cas", folder / "site.pem"] if with_tls else []
        (folder / "agent.yaml").write_text(
            f"connect:\n  url: {where}\nlisteners:\n  - endpoint_id: web\n    addr: {web}\n"
            f"  - endpoint_id: echo\n    addr: {echo}\n    protocol: tcp\n")
        tested = start("agent", [*agent, "agent", "start", "--config.path", folder / "agent.yaml", "--connect.transport", transport, *trust])
        tested.wait_line("connected")
        wait_endpoints(ready["admin_addr"])
        port = free_port()
        forward = start("forward", [binaries / "piko", "forward", port, "echo", "--connect.url", f"http://{ready['proxy_addr']}"])
        wait_port(port, forward)
        check_requests(ready["proxy_addr"])
        check_tunnel(port)
        assert tested.stop() == 0, "the agent did not end well"
        faults = [line for line in tested.lines() if line.get("level") in ("error", "fatal")]
        assert not faults, faults
    except BaseException:
        for program in running:
            print(f"--- {program.name}", *program.path.read_text(errors="replace").splitlines()[-20:], sep="\n", file=sys.stderr)
        raise
    finally:
        for program in reversed(running):
            program.stop()


def wait_endpoints(admin):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        connection = http.client.HTTPConnection(*address_of(admin), timeout=PATIENCE)
        connection.request("GET", "/status/upstream/endpoints")
        known = connection.getresponse().read()
        connection.close()
        if b'"web"' in known and b'"echo"' in known:
            return
        time.sleep(0.2)
    raise AssertionError("the server does not know both endpoints")


def wait_port(port, program):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and program.process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("forward does not listen")


def main():
    binaries, agent = Path(sys.argv[1]).resolve(), sys.argv[2:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                        "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", folder / "site.key", "-out",
                        folder / "site.pem"], check=True, capture_output=True)
        for with_tls in (False, True):
            for transport in ("direct", "mux"):
                started = time.monotonic()
                run(folder, binaries, agent, with_tls, transport)
                print(f"holds: the agent, {transport}, {'TLS' if with_tls else 'plain'} ({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
