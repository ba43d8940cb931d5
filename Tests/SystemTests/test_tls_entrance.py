"""Where TLS meets the other things at the entrance of a port: load balancers' headers in front of the handshake, access lists, limits,
tokens, what services are told about the way of a request, and key sets that are fetched over TLS."""

import http.server
import json
import os
import ssl
import tempfile
import threading

import pytest

from peer import agent as agents
from peer import http1
from peer.http1 import request, wait_until
from programs import SLOW, metric
from test_access import PROXIED, binary, client_of, four, recording, refusals, way
from test_auth import RSA, SECRET, bearer, jwk, token
from test_tls import SecureConnection, certificates, client_context, port_tls, pytestmark, secure_request  # noqa: F401
from test_reload import changed, configure

LINE = b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 443\r\n"


class AnnouncedConnection(http1.Connection):
    """TLS behind a load balancer's header. With `together` the header and what begins the handshake come in one piece."""

    def __init__(self, address, header, context, together, source="127.0.0.8"):
        super().__init__(address, timeout=10 * SLOW, source=source)
        if not together:
            self.send(header)
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
            return
        plain = self.socket
        coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = context.wrap_bio(coming, going, server_hostname="localhost")
        first = header
        while True:
            try:
                session.do_handshake()
                break
            except ssl.SSLWantReadError:
                plain.sendall(first + going.read())
                first = b""
                piece = plain.recv(65_536)
                if not piece:
                    raise ConnectionResetError("the end within the handshake")
                coming.write(piece)
        plain.sendall(first + going.read())
        self.socket = Session(plain, session, coming, going)


class Session:
    """As much of a socket as a connection needs."""

    def __init__(self, plain, session, coming, going):
        self.plain, self.session, self.coming, self.going = plain, session, coming, going

    def sendall(self, data):
        self.session.write(data)
        self.plain.sendall(self.going.read())

    def recv(self, count):
        while True:
            try:
                return self.session.read(count)
            except ssl.SSLWantReadError:
                piece = self.plain.recv(65_536)
                if not piece:
                    return b""
                self.coming.write(piece)

    def __getattr__(self, name):
        return getattr(self.plain, name)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("header", [LINE, binary(four("203.0.113.7"))], ids=["line", "binary"])
def test_tls_behind_a_load_balancers_header(new_node, certificates, tunnel, host, header, together):
    node = new_node(workers=3, config=PROXIED, arguments=port_tls(certificates, "proxy"))
    recorder = recording(tunnel, node)
    context = client_context(certificates)
    for index in range(4):
        with AnnouncedConnection(node.proxy, header, context, together) as client:
            for step in range(2):
                assert client.request(host=host, target=f"/{index}/{step}").status == 200
        assert way(recorder.requests[-1])["x-forwarded-for"] == ["203.0.113.7"]
        assert way(recorder.requests[-1])["x-forwarded-proto"] == ["https"]
        assert client_of(node, f"/{index}/1") == "203.0.113.7"
    # Others come without, and the lists judge the client before its handshake.
    with SecureConnection(node.proxy, context) as client:
        assert client.request(host=host).status == 200
    done = metric(node, "piko_tls_handshakes_total")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        AnnouncedConnection(node.proxy, LINE.replace(b"203.0.113.7", b"192.0.2.66"), context, together)
    assert refusals(node, "access") == 1 and metric(node, "piko_tls_handshakes_total") == done
    wait_until(lambda: metric(node, "piko_connections_open", port="proxy") == 0, 10 * SLOW, "no connection is left")


def test_a_header_within_tls_is_none(new_node, certificates, tunnel, host):
    node = new_node(config=PROXIED, arguments=port_tls(certificates, "proxy"))
    recording(tunnel, node)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        with SecureConnection(node.proxy, client_context(certificates)) as client:
            client.send(LINE)
            assert client.request(host=host).status == 400
            raise ConnectionError
    assert metric(node, "piko_tls_handshakes_total") == 1


@pytest.mark.parametrize("trusted, proto", [("none", ["https"]), ("", [])])
def test_services_are_told_of_tls(new_node, certificates, tunnel, host, trusted, proto):
    """At whatever worker the client is: the tunnel is at one of them, and the others relay."""
    node = new_node(workers=3, config=f"trusted_proxies: [{trusted}]\n", arguments=port_tls(certificates, "proxy"))
    recorder = recording(tunnel, node)
    context = client_context(certificates)
    for _ in range(9):
        with SecureConnection(node.proxy, context) as client:
            assert client.request(host=host).status == 200
        assert way(recorder.requests[-1])["x-forwarded-proto"] == proto


def test_services_of_other_nodes_are_told_of_tls(clusters, certificates, tunnel, endpoint, host):
    roots = ["--proxy.tls.client.root-cas", certificates / "authority.pem", "--trusted-proxies", "none"]
    first, second = clusters.start(2, arguments=[*port_tls(certificates, "proxy"), *roots])
    recorder = recording(tunnel, second)
    context = client_context(certificates)
    wait_until(lambda: secure_request(first.proxy, context, host=host).status == 200, 10 * SLOW, "a request through the other node")
    assert way(recorder.requests[-1])["x-forwarded-proto"] == ["https"]
    assert way(recorder.requests[-1])["x-forwarded-for"] == ["127.0.0.1"]


def test_lists_and_limits_come_before_tls(new_node, certificates, tunnel, host):
    config = "proxy:\n  access:\n    deny: [127.0.0.9]\n  limits:\n    max_connections_per_ip: 3\n"
    node = new_node(workers=3, config=config, arguments=port_tls(certificates, "proxy"))
    recording(tunnel, node)
    context = client_context(certificates)

    def connect(source="127.0.0.5"):
        client = http1.Connection(node.proxy, timeout=10 * SLOW, source=source)
        client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
        return client

    clients = [connect() for _ in range(3)]
    for client in clients:
        assert client.request(host=host).status == 200
    done = metric(node, "piko_tls_handshakes_total")
    for source in ("127.0.0.9", "127.0.0.5"):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            connect(source)
    assert refusals(node, "access") == 1 and refusals(node, "address") == 1
    assert metric(node, "piko_tls_handshakes_total") == done
    with connect("127.0.0.6") as client:
        assert client.request(host=host).status == 200
    # Those that end make room, be it within their handshake.
    for client in clients:
        client.close()

    def finds_room():
        try:
            with connect() as client:
                return client.request(host=host).status == 200
        except (ssl.SSLError, ConnectionError):
            return False
    wait_until(finds_room, 10 * SLOW, "room again")
    refused = refusals(node, "address")
    for _ in range(6):
        with http1.Connection(node.proxy, timeout=10 * SLOW, source="127.0.0.7") as client:
            client.send(b"\x16\x03\x01")
        wait_until(lambda: metric(node, "piko_connections_open", port="proxy") == 0, 10 * SLOW, "its end")
    assert refusals(node, "address") == refused
    configure(node, config + "  timeout: 20s\n")
    changed(node, "reload")
    wait_until(finds_room, 10 * SLOW, "room behind a reload")


def test_tokens_over_tls(new_node, certificates, program, backend, service, endpoint, host, tmp_path):
    """All ports with TLS and tokens, data connections and sessions, agent and forward."""
    ports = ("proxy", "upstream", "admin")
    keys = [word for port in ports for word in (f"--{port}.auth.hmac-secret-key", SECRET)]
    node = new_node(workers=2, arguments=[*port_tls(certificates, *ports), *keys])
    origin = service(agents.Recorder())
    secret = tmp_path / "token"
    secret.write_text(token(endpoints=[endpoint]))
    agent = program("agent", "http", endpoint, str(origin.port), "--connect.url", f"https://localhost:{node.upstream[1]}", "--io-backend", backend,
                    "--connect.tls.root-cas", certificates / "authority.pem", "--connect.token-file", secret)
    agent.wait_log("connected")
    context = client_context(certificates)
    with SecureConnection(node.proxy, context) as client:
        for _ in range(5):
            assert client.request(host=host, headers=bearer(token(endpoints=[endpoint]))).status == 200
            assert client.request(host=host).status == 401
    with SecureConnection(node.admin, context) as client:
        assert client.request(target="/status/upstream/endpoints", host="admin").status == 401
        assert client.request(target="/status/upstream/endpoints", host="admin", headers=bearer(token())).status == 200


class SecurePublisher:
    """An HTTPS server that publishes a key set."""

    def __init__(self, folder, *keys):
        body = json.dumps({"keys": list(keys)}).encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://localhost:{self.server.server_port}/keys.json?set=1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.parametrize("authority", ["authority", "stranger"])
def test_row_22_key_sets_over_https(new_node, certificates, host, authority):
    """From a server that the system trusts, and from nobody else."""
    publisher = SecurePublisher(certificates, jwk(RSA, kid="a"))
    # Whoever fetches is the workers' user, who can't enter the folder of the tests.
    trusted = tempfile.NamedTemporaryFile()
    trusted.write((certificates / f"{authority}.pem").read_bytes())
    trusted.flush()
    os.chmod(trusted.name, 0o644)
    try:
        node = new_node(arguments=["--proxy.auth.jwks.endpoint", publisher.url, "--proxy.auth.jwks.timeout", "5s"],
                        environment={"SSL_CERT_FILE": trusted.name})
        good = bearer(token(RSA, "RS256", headers={"kid": "a"}))
        if authority == "authority":
            assert request(node.proxy, headers=good, host=host).status == 502
        else:
            assert request(node.proxy, headers=good, host=host).status == 401
            assert "certificate" in node.logged("a key set can't be fetched")[0]["err"]
    finally:
        trusted.close()
        publisher.close()
