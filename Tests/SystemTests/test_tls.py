"""TLS on the ports, from agents and forward to the server, to services, between nodes; with Python's ssl as the other end.

Certificates are made by the openssl command once for all tests. Row numbers are those of docs/security.md.
"""

import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest

from peer import agent as agents
from peer import http1
from peer.http1 import request, wait_until
from programs import BIN, SLOW, command_of, resident_bytes
from test_reload import changed, wait_for_generations

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")


def run_openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make_authority(folder, name):
    run_openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key",
                "-out", f"{name}.pem", "-days", "30", "-subj", f"/CN={name}")


def make_certificate(folder, name, names, authority="authority", days=10):
    """NAME.pem and NAME.key."""
    run_openssl(folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key", "-out",
                f"{name}.csr", "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}")
    run_openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial",
                "-days", str(days), "-copy_extensions", "copy", "-out", f"{name}.pem")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    make_authority(folder, "authority")
    make_authority(folder, "stranger")
    make_certificate(folder, "server", "DNS:localhost,DNS:*.example.com,IP:127.0.0.1")
    make_certificate(folder, "other", "DNS:other.test")
    make_certificate(folder, "expired", "DNS:localhost,IP:127.0.0.1", days=-1)
    make_certificate(folder, "client", "DNS:client")
    make_certificate(folder, "strange", "DNS:localhost,IP:127.0.0.1", authority="stranger")
    return folder


def port_tls(folder, *ports, name="server", **more):
    """The flags for TLS on the ports."""
    flags = []
    for port in ports:
        flags += [f"--{port}.tls.cert", folder / f"{name}.pem", f"--{port}.tls.key", folder / f"{name}.key"]
        for key, value in more.items():
            flags += [f"--{port}.tls.{key.replace('_', '-')}", value]
    return flags


def client_context(folder, certificate=None, authority="authority"):
    context = ssl.create_default_context(cafile=folder / f"{authority}.pem")
    if certificate:
        context.load_cert_chain(folder / f"{certificate}.pem", folder / f"{certificate}.key")
    return context


class SecureConnection(http1.Connection):
    """The same over TLS; an end without a close_notify raises."""

    def __init__(self, address, context, host="localhost", timeout=10.0, session=None):
        super().__init__(address, timeout)
        self.socket = context.wrap_socket(self.socket, server_hostname=host, suppress_ragged_eofs=False, session=session)


def secure_request(address, context, *arguments, host_name="localhost", **options):
    with SecureConnection(address, context, host_name) as connection:
        return connection.request(*arguments, **options)


def test_all_ports(new_node, certificates, program, backend, service):
    """Client, agent and people with TLS; what comes without is told so."""
    node = new_node(arguments=port_tls(certificates, "proxy", "upstream", "admin"))
    context = client_context(certificates)
    recorder = agents.Recorder()
    origin = service(recorder)
    agent = program("agent", "http", "e1", str(origin.port), "--connect.url", f"https://localhost:{node.upstream[1]}",
                    "--connect.tls.root-cas", certificates / "authority.pem", "--io-backend", backend)
    agent.wait_log("connected")
    for _ in range(20):
        answer = secure_request(node.proxy, context, body=b"x" * 100_000, method="POST")
        assert answer.status == 200 and answer.body == b"hello", answer
    with SecureConnection(node.proxy, context) as connection:
        assert connection.socket.selected_alpn_protocol() is None
        for _ in range(20):
            assert connection.request().status == 200
    assert secure_request(node.admin, context, target="/ready", host="admin").status == 200
    endpoints = json.loads(secure_request(node.admin, context, target="/status/upstream/endpoints", host="admin").body)
    assert endpoints == {"e1": 1}
    plain = request(node.proxy)
    assert plain.status == 400 and b"HTTPS" in plain.body


def test_large_bodies(new_node, certificates, tunnel, endpoint, host):
    node = new_node(arguments=port_tls(certificates, "proxy"))
    recorder = agents.Recorder(body=bytes(range(256)) * 40_000)
    tunnel(node, recorder)
    context = client_context(certificates)
    with SecureConnection(node.proxy, context) as connection:
        for size in (0, 1, 70_000, 5_000_000):
            answer = connection.request("POST", body=b"y" * size, host=host)
            assert answer.status == 200 and len(answer.body) == 256 * 40_000


@pytest.mark.parametrize("versions", [("TLSv1_2", "TLSv1_2"), ("TLSv1_3", "TLSv1_3")])
def test_versions_and_resumption_over_workers(new_node, certificates, versions):
    """Row 45. A ticket of one worker is good at each."""
    node = new_node(workers=3, arguments=port_tls(certificates, "admin"))
    context = client_context(certificates)
    context.minimum_version, context.maximum_version = (getattr(ssl.TLSVersion, version) for version in versions)
    session, reused = None, 0
    for _ in range(12):
        with SecureConnection(node.admin, context, session=session) as connection:
            assert connection.request(target="/health", host="admin").status == 200
            reused += connection.socket.session_reused
            session = connection.socket.session
    assert reused == 11


def test_who_uses_a_ticket_gets_the_next(new_node, certificates):
    """TLS 1.3, where a ticket is good for one connection."""
    node = new_node(arguments=port_tls(certificates, "admin"))
    context = client_context(certificates)
    session, seen = None, set()
    for round in range(5):
        with SecureConnection(node.admin, context, session=session) as connection:
            assert connection.request(target="/health", host="admin").status == 200
            assert connection.socket.version() == "TLSv1.3" and connection.socket.session_reused == (round > 0)
            session = connection.socket.session
            seen.add(session.id)
    assert len(seen) == 5


def test_order_of_ciphers(new_node, certificates):
    """Row 45. Ours counts, but a client that wants ChaCha20 most gets it."""
    node = new_node(arguments=port_tls(certificates, "proxy"))
    aes_128, aes_256, chacha = (f"ECDHE-ECDSA-{name}" for name in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"))
    for offered, chosen in (([aes_256, aes_128, chacha], aes_128), ([aes_256, chacha], aes_256), ([chacha, aes_128], chacha)):
        context = client_context(certificates)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(":".join(offered))
        with SecureConnection(node.proxy, context) as connection:
            assert connection.socket.cipher()[0] == chosen


def test_old_versions_are_refused(new_node, certificates):
    """Row 45."""
    node = new_node(arguments=port_tls(certificates, "proxy"))
    for version in ("TLSv1", "TLSv1_1"):
        context = client_context(certificates)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            SecureConnection(node.proxy, context)


def test_certificate_by_name(new_node, certificates):
    pair = f"{certificates / 'other.pem'}:{certificates / 'other.key'}"
    node = new_node(arguments=port_tls(certificates, "proxy", certs=pair))
    context = client_context(certificates)
    for name, subject in (("localhost", "server"), ("a.example.com", "server"), ("other.test", "other")):
        with SecureConnection(node.proxy, context, name) as connection:
            assert connection.socket.getpeercert()["subject"] == ((("commonName", subject),),)
    with pytest.raises(ssl.SSLCertVerificationError):
        SecureConnection(node.proxy, context, "nobody.test")


def test_client_certificates(new_node, certificates):
    """Row 45. Only who has a certificate of the authority gets an answer."""
    node = new_node(arguments=port_tls(certificates, "proxy", "admin", client_cas=certificates / "authority.pem"))
    assert secure_request(node.admin, client_context(certificates, "client"), target="/health", host="admin").status == 200
    for certificate in (None, "strange"):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            secure_request(node.admin, client_context(certificates, certificate), target="/health", host="admin")


def test_clients_reach_tunnels_of_other_workers(new_node, certificates, tunnel, endpoint, host):
    """A client with TLS can't move to the worker of its tunnel: its requests go there over a socket pair."""
    node = new_node(workers=3, arguments=port_tls(certificates, "proxy"))
    tunnel(node, agents.Recorder())
    context = client_context(certificates)
    for _ in range(12):
        with SecureConnection(node.proxy, context) as connection:
            for _ in range(3):
                assert connection.request(host=host).status == 200


def test_forward(new_node, certificates, program, backend, service):
    """Raw TCP through forward and agent, both with TLS to the server."""
    node = new_node(workers=2, arguments=port_tls(certificates, "proxy", "upstream"))
    origin = service(agents.echo)
    roots = ["--connect.tls.root-cas", certificates / "authority.pem", "--io-backend", backend]
    agent = program("agent", "tcp", "e2", str(origin.port), "--connect.url", f"https://localhost:{node.upstream[1]}", *roots)
    agent.wait_log("connected")
    forward = program("forward", "tcp", "127.0.0.1:0", "e2", "--connect.url", f"https://localhost:{node.proxy[1]}", *roots)
    host, _, port = forward.wait_log("listening")["addr"].rpartition(":")
    data = bytes(range(256)) * 8_000
    for _ in range(6):
        with socket.create_connection((host, int(port)), 10) as client:
            sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
            sender.start()
            got = b""
            while piece := client.recv(1 << 20):
                got += piece
            sender.join()
            assert got == data


@pytest.mark.parametrize("name, flags, reason", [
    ("unknown authority", [], "unable to get local issuer certificate|self-signed certificate"),
    ("other host", ["--connect.tls.root-cas", "authority.pem"], "not for other.invalid|lookup"),
])
def test_agent_refuses_servers(new_node, certificates, program, backend, name, flags, reason):
    node = new_node(arguments=port_tls(certificates, "upstream"))
    flags = [certificates / flag if flag.endswith(".pem") else flag for flag in flags]
    target = "127.0.0.1" if not flags else "127.0.0.2"
    agent = program("agent", "http", "e3", "1", "--connect.url", f"https://{target}:{node.upstream[1]}", *flags, "--io-backend", backend)
    line = agent.wait_log("connect")
    wait_until(lambda: agent.logged("connect"), 5, "an attempt")
    assert "err" in line and not agent.logged("^connected")


def test_agent_with_a_certificate_and_without_verification(new_node, certificates, program, backend):
    node = new_node(arguments=port_tls(certificates, "upstream", name="strange", client_cas=certificates / "authority.pem"))
    url = ["--connect.url", f"https://127.0.0.1:{node.upstream[1]}", "--connect.tls.insecure-skip-verify", "--io-backend", backend]
    refused = program("agent", "http", "e4", "1", *url)
    assert "certificate required" in json.dumps(refused.wait_log("failed|lost|retry|connect"))
    agent = program("agent", "http", "e4", "1", *url, "--connect.tls.cert", certificates / "client.pem", "--connect.tls.key",
                    certificates / "client.key")
    agent.wait_log("^connected")


def test_secure_service(new_node, certificates, real_agent, endpoint, host, backend):
    """An agent in front of an https service."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(raw):
        try:
            with context.wrap_socket(raw, server_side=True) as client:
                data = b""
                while True:
                    while b"\r\n\r\n" not in data:
                        piece = client.recv(65_536)
                        if not piece:
                            return
                        data += piece
                    data = data.split(b"\r\n\r\n", 1)[1]
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")
        except OSError:
            pass

    def accept():
        while True:
            try:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
            except OSError:
                return
    threading.Thread(target=accept, daemon=True).start()
    node = new_node()
    port = listener.getsockname()[1]
    good = real_agent(node.upstream, "http", endpoint, f"https://127.0.0.1:{port}", "--tls.root-cas", certificates / "authority.pem")
    for _ in range(5):
        assert request(node.proxy, host=host).body == b"secret"
    bad = real_agent(node.upstream, "http", endpoint + "x", f"https://127.0.0.1:{port}")
    assert request(node.proxy, host=f"{endpoint}x.example.com").status == 502
    assert "issuer" in bad.wait_log("service unreachable")["err"]
    listener.close()
    del good


def test_certificates_change_under_load(new_node, certificates, tmp_path, tunnel, endpoint, host):
    """Row 45. New files, then a reload: no request fails, connections go on, new ones get the new certificate."""
    folder = tmp_path
    for name in ("server", "other"):
        for kind in ("pem", "key"):
            shutil.copy(certificates / f"{name}.{kind}", folder / f"{name}.{kind}")
    node = new_node(arguments=port_tls(folder, "proxy"))
    tunnel(node, agents.Recorder())
    context = client_context(certificates)
    unchecked = client_context(certificates)
    unchecked.check_hostname = False

    def subject():
        with SecureConnection(node.proxy, unchecked) as connection:
            return connection.socket.getpeercert()["subject"][0][0][1]

    assert subject() == "server"
    stop, failures, served = threading.Event(), [], [0]

    def load(keep):
        connection = None
        while not stop.is_set():
            try:
                if connection is None:
                    connection = SecureConnection(node.proxy, unchecked)
                answer = connection.request(host=host)
                served[0] += 1
                assert answer.status == 200
                if not keep or answer.get("connection") == "close":
                    connection.close()
                    connection = None
            except Exception as error:
                failures.append(repr(error))
                connection = None
    threads = [threading.Thread(target=load, args=(keep,)) for keep in (True, True, False)]
    for thread in threads:
        thread.start()
    with SecureConnection(node.proxy, unchecked) as old:
        assert old.request(host=host).status == 200
        for kind in ("key", "pem"):
            os.replace(shutil.copy(certificates / f"other.{kind}", folder / "next"), folder / f"server.{kind}")
        wait_until(lambda: subject() == "other", 20 * SLOW, "the other certificate")
        assert old.request(host=host).status == 200
        # A reload: the connection says that it is to be closed with its next response.
        for kind in ("key", "pem"):
            os.replace(shutil.copy(certificates / f"server.{kind}", folder / "next"), folder / f"server.{kind}")
        mark = node.mark()
        subprocess.run([BIN / "piko", "server", "reload", "--server.control-socket", node.control_socket], check=True, capture_output=True)
        node.wait_log("reloaded", after=mark)
        assert subject() == "server"
        answer = old.request(host=host)
        assert answer.status == 200 and answer.get("connection") == "close", answer
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures and served[0] > 20, (failures[:5], served)


def test_sessions_stay_at_a_retiring_worker(new_node, certificates, real_agent, service, endpoint, host):
    """An agent's session over TLS can't leave its worker, so what the new workers relay is served there; it ends with the session."""
    node = new_node(workers=3, arguments=port_tls(certificates, "upstream"))
    secure = f"https://localhost:{node.upstream[1]}"
    agent = real_agent(secure, "http", endpoint, service(agents.Recorder()).port, "--connect.tls.root-cas", certificates / "authority.pem")
    with http1.Connection(node.proxy) as kept:
        assert kept.request(host=host).status == 200
        changed(node, "reload")
        for _ in range(20):
            assert request(node.proxy, host=host).status == 200
        assert kept.request(host=host).status == 200
    agent.stop()
    wait_for_generations(node, 1)


def test_a_key_that_does_not_fit_changes_nothing(new_node, certificates, tmp_path):
    for kind in ("pem", "key"):
        shutil.copy(certificates / f"server.{kind}", tmp_path / f"server.{kind}")
    node = new_node(arguments=port_tls(tmp_path, "admin"))
    mark = node.mark()
    shutil.copy(certificates / "other.key", tmp_path / "server.key")
    line = node.wait_log("changed certificates can't be used", after=mark)
    assert line["err"] == f"admin.tls.key: {tmp_path / 'server.key'}: the key does not fit the certificate"
    assert secure_request(node.admin, client_context(certificates), target="/health", host="admin").status == 200
    node.expected_errors.append("not reloaded")
    answer = subprocess.run([BIN / "piko", "server", "reload", "--server.control-socket", node.control_socket], capture_output=True)
    assert answer.returncode != 0 and b"does not fit" in answer.stdout + answer.stderr


@pytest.mark.parametrize("flags, text", [
    (["--proxy.tls.cert", "server.pem"], "config: proxy.tls: cert is set, and key is not"),
    (["--proxy.tls.cert", "missing.pem", "--proxy.tls.key", "server.key"], "config: proxy.tls.cert: open FOLDER/missing.pem: No such file or directory"),
    (["--proxy.tls.cert", "server.key", "--proxy.tls.key", "server.key"], "config: proxy.tls.cert: FOLDER/server.key: no certificate in it"),
    (["--proxy.tls.cert", "server.pem", "--proxy.tls.key", "other.key"], "config: proxy.tls.key: FOLDER/other.key: the key does not fit the certificate"),
    (["--admin.tls.client-cas", "authority.pem"], "config: admin.tls.client_cas: needs cert and key"),
    (["--upstream.tls.cert", "server.pem", "--upstream.tls.key", "server.key", "--upstream.tls.client-cas", "server.key"],
     "config: upstream.tls.client_cas: FOLDER/server.key: no certificate in it"),
])
def test_what_is_wrong_with_files(certificates, flags, text):
    """The server and its check say the same."""
    flags = [str(certificates / flag) if not flag.startswith("--") else flag for flag in flags]
    wanted = text.replace("FOLDER", str(certificates))
    for words in (["server"], ["server", "check"]):
        done = subprocess.run([BIN / "piko", *words, *flags], capture_output=True, timeout=20)
        assert done.returncode == 1 and wanted in (done.stderr + done.stdout).decode(), (words, done)


def test_handshakes_that_stall_and_floods_hold_nobody_up(new_node, certificates, tunnel, endpoint, host):
    """Sockets that say nothing are dropped in time, and hundreds of handshakes at once leave others served."""
    node = new_node(workers=1, arguments=[*port_tls(certificates, "proxy"), "--proxy.http.read-header-timeout", "2s"])
    tunnel(node, agents.Recorder())
    context = client_context(certificates)
    with SecureConnection(node.proxy, context) as connection:
        assert connection.request(host=host).status == 200
        silent = [socket.create_connection(node.proxy) for _ in range(50)]
        stop = threading.Event()

        def flood():
            while not stop.is_set():
                SecureConnection(node.proxy, context).close()
        threads = [threading.Thread(target=flood) for _ in range(4)]
        for thread in threads:
            thread.start()
        times = []
        for _ in range(100):
            started = time.monotonic()
            assert connection.request(host=host).status == 200
            times.append(time.monotonic() - started)
        stop.set()
        for thread in threads:
            thread.join()
        assert sorted(times)[90] < 0.5 * SLOW
        for one in silent:
            one.settimeout(10 * SLOW)
            assert one.recv(1) == b""
            one.close()


def test_idle_connections_take_little(new_node, certificates):
    """An idle connection holds no buffers of records."""
    node = new_node(workers=1, arguments=port_tls(certificates, "proxy"))
    context = client_context(certificates)
    (worker,) = node.workers()

    def opened(count):
        connections = [SecureConnection(node.proxy, context) for _ in range(count)]
        for connection in connections:
            assert connection.request(host="nobody.example.com").status == 502
        time.sleep(1.5)     # buffers of requests are given back after a moment
        return connections
    before = opened(20)
    base = resident_bytes(worker)
    more = opened(300)
    each = (resident_bytes(worker) - base) / 300
    assert each < 48 * 1024, each
    for connection in before + more:
        connection.close()


def test_between_nodes(clusters, certificates, tunnel, endpoint, host):
    """Requests that another node serves go to it with TLS; a node with another authority's certificate is not believed."""
    flags = [*port_tls(certificates, "proxy"), "--proxy.tls.client.root-cas", certificates / "authority.pem"]
    nodes = clusters.start(2, arguments=flags)
    tunnel(nodes[0], agents.Recorder())
    context = client_context(certificates)
    wait_until(lambda: secure_request(nodes[1].proxy, context, host=host).status == 200, 10 * SLOW, "a request through the other node")
    for _ in range(10):
        assert secure_request(nodes[1].proxy, context, host=host, method="POST", body=b"z" * 50_000).status == 200


def test_status_over_tls(new_node, certificates):
    node = new_node(arguments=port_tls(certificates, "admin"))
    line = [BIN / "piko", "server", "status", "upstream", "endpoints", "--server.url", f"https://localhost:{node.admin[1]}"]
    done = subprocess.run([*line, "--server.tls.root-cas", certificates / "authority.pem"], capture_output=True, timeout=20)
    assert done.returncode == 0, done
    done = subprocess.run(line, capture_output=True, timeout=20)
    assert done.returncode == 1 and b"the server's certificate: " in done.stderr, done


def test_keys_are_not_in_logs_nor_in_command_lines(new_node, certificates):
    node = new_node(arguments=[*port_tls(certificates, "proxy"), "--log.level", "debug"])
    secret = (certificates / "server.key").read_text().splitlines()[1]
    assert secret not in node.log
    for pid in node.processes():
        assert secret not in command_of(pid)
