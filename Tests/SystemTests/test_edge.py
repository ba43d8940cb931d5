"""An agent on a device that nobody can walk to: several servers, two at once; a spoiled file, a wrong one; no network, no time, no
disk to write to."""

import asyncio
import datetime
import os
import signal

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import namespaces
from agent_life import Load, Notifications, agent_file, listeners, mirror  # noqa: F401
from peer import agent as agents
from peer.http1 import request, wait_until
from programs import BIN, SLOW, Node, Program


@pytest.fixture(autouse=True)
def once(request):
    """These are about what lies above the transport and the loop."""
    values = getattr(request.node, "callspec", None) and request.node.callspec.params or {}
    if values.get("transport") == "mux":
        pytest.skip("the same for both transports")


def url(address):
    return f"http://{address[0]}:{address[1]}"


def connect(*addresses, redundancy=1):
    return "connect:\n  urls: [" + ", ".join(map(url, addresses)) + f"]\n  redundancy: {redundancy}\n"


def test_two_servers_at_once(python_server, peers, agent_file, service, endpoint):  # noqa: F811
    """Each listener has a tunnel at both; when one server is gone the other's stays, and the lost one comes back."""
    one, other = python_server(), python_server()
    agent = agent_file(None, connect(one.upstream_address, other.upstream_address, redundancy=2) + listeners((endpoint, service().port)))
    kept, lost = (peers.call(server.tunnel(endpoint)) for server in (one, other))
    peers.loop.call_soon_threadsafe(lost.socket.abort)
    agent.wait_line("connection to server lost")
    for server in (one, other):
        peers.call(server.tunnel(endpoint, but=lost))
        assert request(server.proxy_address, host=f"{endpoint}.x.y", headers=[("Connection", "close")]).status == 200
    assert one.tunnels[endpoint] == [kept] and not kept.session.ended


def test_the_next_server(python_server, peers, agent_file, service, endpoint):  # noqa: F811
    """One tunnel, three servers: it finds the one that takes it, and goes elsewhere when that one asks for it."""
    servers = [python_server() for _ in range(3)]
    for server in servers[:2]:
        server.refusals = [(503, "No", b"{}")] * 1000
    agent = agent_file(None, connect(*(server.upstream_address for server in servers)) + listeners((endpoint, service().port)))
    first = peers.call(servers[2].tunnel(endpoint))
    servers[0].refusals.clear()
    servers[2].refusals = [(503, "No", b"{}")] * 1000
    peers.call(first.session.go_away())
    peers.call(servers[0].tunnel(endpoint), 30 * SLOW)
    # Make before break: the first one is told only then.
    peers.call(asyncio.wait_for(first.session.go_away_event.wait(), 20 * SLOW))
    assert request(servers[0].proxy_address, host=f"{endpoint}.x.y", headers=[("Connection", "close")]).status == 200
    assert not agent.logged("^connection to server lost$")


def test_a_node_that_dies_under_load(clusters, agent_file, service, endpoint):  # noqa: F811
    """With a tunnel at each of two nodes, the other node's clients don't notice that one is killed."""
    dying, staying = clusters.start(2)
    agent = agent_file(None, connect(dying.upstream, staying.upstream, redundancy=2) + listeners((endpoint, service(agents.Recorder(mirror)).port)))
    wait_until(lambda: len(agent.logged("^connected$")) == 2, 20 * SLOW, agent.tail)
    with Load(staying.proxy, [f"{endpoint}.x.y"], clients=4) as load:
        dying.kill()
        agent.wait_line("connection to server lost")
        load.more(300)


WRONG = [
    ("connect:\n  urls: [ftp://a]\n", 'connect.urls: "ftp://a" is not an http or https URL'),
    ("connect:\n  urls: [http://a, http://a:80/]\n", "connect.urls: names http://a twice"),
    ("connect:\n  urls: [http://a]\n  redundancy: 2\n", "connect.redundancy: is 2, but connect.urls has 1"),
    ("connect:\n  redundancy: 2\n", "connect.redundancy: is 2, but connect.url is one server"),
    ("connect:\n  url: http://c\n  urls: [http://a, http://b]\n", "connect.url: is none of connect.urls"),
    ("connect:\n  redundancy: 9\n", "is not between 1 and 8"),
]


@pytest.mark.parametrize("text, words", WRONG, ids=[words for _, words in WRONG])
def test_wrong_servers(program, tmp_path, text, words):
    path = tmp_path / "agent.yaml"
    path.write_text(text + listeners(("e", 1)))
    agent = program("agent", "start", "--config.path", path)
    assert agent.wait(10 * SLOW) == 1
    assert words in agent.tail()


# MARK: The configuration

def test_starts_with_the_last_good_one(python_server, peers, agent_file, service, tmp_path, endpoint):  # noqa: F811
    copy = tmp_path / "last-good.yaml"
    server = python_server()
    good = f"connect:\n  url: {url(server.upstream_address)}\n" + listeners((endpoint, service().port))
    manager = Notifications(tmp_path / "notify")
    agent = agent_file(None, good, "--config.last-good-path", copy)
    tunnel = peers.call(server.tunnel(endpoint))
    agent.wait_line("kept a copy of the configuration", path=str(copy))
    assert copy.read_text() == good and copy.stat().st_mode & 0o777 == 0o600
    written = copy.stat()
    agent.reload()
    assert agent.stop() == 0
    # Spoiled: half of it was written when the power failed.
    agent = agent_file(None, good[: len(good) // 2] + "\t", "--config.last-good-path", copy, environment={"NOTIFY_SOCKET": manager.name})
    peers.call(server.tunnel(endpoint, but=tunnel))
    line = agent.wait_line("can't be used; starting with the last good one", path=str(copy))
    assert line["level"] == "error" and "agent1.yaml:" in line["err"]
    manager.wait(READY="1", STATUS="1 of 1 listeners connected; the configuration is the last good one")
    assert (copy.stat().st_mtime_ns, copy.stat().st_ino) == (written.st_mtime_ns, written.st_ino), "it was written without need"
    # Mended: it counts again, and the copy follows.
    agent.reload(good + "grace_period: 5s\n")
    wait_until(lambda: copy.read_text().endswith("grace_period: 5s\n"), 20 * SLOW, agent.tail)
    assert agent.stop() == 0
    # Neither can be used: it says both.
    copy.write_text("")
    agent = agent_file(None, "\t", "--config.last-good-path", copy)
    assert agent.wait(10 * SLOW) == 1
    assert "agent2.yaml:" in agent.tail() and "last good" in agent.tail()
    manager.close()


def test_no_copy_of_what_does_not_connect(agent_file, service, tmp_path, endpoint):  # noqa: F811
    copy = tmp_path / "last-good.yaml"
    agent = agent_file(("127.0.0.1", 1), listeners((endpoint, service().port)), "--config.last-good-path", copy)
    agent.wait_line("connect failed")
    agent.reload()
    assert not copy.exists()


def test_goes_back_when_a_reload_leads_nowhere(python_server, peers, agent_file, service, endpoint):  # noqa: F811
    server = python_server()
    port = service().port

    def text(address, name):
        return f"connect:\n  url: {url(address)}\n  timeout: 500ms\n" + listeners((name, port), reload="\n  revert_after: 1s")
    agent = agent_file(None, text(server.upstream_address, endpoint))
    first = peers.call(server.tunnel(endpoint))
    agent.reload(text(("127.0.0.1", 1), endpoint))
    agent.wait_line("going back to the configuration before", reason="no listener connected with what the file says")
    peers.call(server.tunnel(endpoint, but=first), 30 * SLOW)
    assert request(server.proxy_address, host=f"{endpoint}.x.y", headers=[("Connection", "close")]).status == 200
    # One that connects stays.
    mark = agent.mark()
    agent.reload(text(server.upstream_address, f"{endpoint}-2"))
    peers.call(server.tunnel(f"{endpoint}-2"))
    agent.wait_line("listener ended", after=mark)
    assert not agent.logged("going back", after=mark)


SECRET = "0123456789abcdef" * 4


def token(valid):
    return jwt.encode({"piko": {"endpoints": ["*"]}}, SECRET if valid else "x" * 64, algorithm="HS256")


def test_a_wrong_token_is_taken_back(new_node, agent_file, service, tmp_path, endpoint):  # noqa: F811
    """What a token is worth only a new tunnel shows: the agent makes some, keeps those that it has meanwhile, and goes back."""
    node = new_node(arguments=["--upstream.auth.hmac-secret-key", SECRET])
    copy = tmp_path / "last-good.yaml"
    port = service(agents.Recorder(mirror)).port

    def text(valid):
        return (f"connect:\n  url: {url(node.upstream)}\n  timeout: 1s\n  token: {token(valid)}\n" +
                listeners((endpoint, port), reload="\n  revert_after: 3s"))
    agent = agent_file(None, text(True), "--config.last-good-path", copy)
    agent.wait_line("kept a copy")
    with Load(node.proxy, [f"{endpoint}.x.y"], clients=2) as load:
        mark = agent.mark()
        agent.reload(text(False))
        agent.wait_line("connect failed", after=mark)
        # Another process would not know what to go back to.
        agent.signal(signal.SIGUSR2)
        assert "not reached a server yet" in agent.wait_line("^upgrade failed", after=mark)["err"]
        agent.wait_line("going back to the configuration before", after=mark)
        agent.wait_line("^connected$", after=mark)
        load.more(100)
    assert copy.read_text() == text(True)
    node.expected_errors = ["."]


def test_reloads_of_many_listeners_cut_nothing(node, agent_file, service, endpoint):  # noqa: F811
    """All are replaced, and all of the old ones stay until then."""
    port = service(agents.Recorder(mirror)).port
    rows = [(f"{endpoint}-{number}", port) for number in range(100)]
    agent = agent_file(None, f"connect:\n  url: {url(node.upstream)}\n" + listeners(*rows), transport_flag=False)
    wait_until(lambda: len(agent.logged("^connected$")) == 100, 40 * SLOW, "100 tunnels")
    with Load(node.proxy, [f"{endpoint}-{number}.x.y" for number in range(0, 100, 7)], clients=4) as load:
        agent.reload(f"connect:\n  url: {url(node.upstream)}\n  transport: mux\n" + listeners(*rows, grace_period="5s"))
        wait_until(lambda: len(agent.logged("^listener ended$")) == 100, 40 * SLOW, "the end of 100 tunnels")
        load.more(100)


def test_a_start_that_leads_nowhere(python_server, peers, agent_file, service, tmp_path, endpoint):  # noqa: F811
    """The file names another server than the last good one, and nobody is there: the two take turns until one connects."""
    server = python_server()
    copy = tmp_path / "last-good.yaml"
    port = service().port

    def text(address):
        return f"connect:\n  url: {url(address)}\n  timeout: 500ms\n" + listeners((endpoint, port), reload="\n  revert_after: 1s")
    copy.write_text(text(server.upstream_address))
    manager = Notifications(tmp_path / "notify")
    agent = agent_file(None, text(("127.0.0.1", 1)), "--config.last-good-path", copy, environment={"NOTIFY_SOCKET": manager.name})
    peers.call(server.tunnel(endpoint), 30 * SLOW)
    manager.wait(STATUS="1 of 1 listeners connected; the configuration is the last good one")
    assert copy.read_text() == text(server.upstream_address)
    agent.reload(text(server.upstream_address) + "grace_period: 4s\n")
    wait_until(lambda: copy.read_text().endswith("4s\n"), 20 * SLOW, agent.tail)
    manager.close()


# MARK: The device

def test_no_network_at_boot(backend, service, endpoint):
    """It starts without any network, and connects when there is one."""
    reason = namespaces.missing()
    if reason:
        pytest.skip(reason)
    with namespaces.hosts() as (server, device):
        node = Node(backend, workers=1, host=server.address, command=server.command)
        device.run("ip", "link", "set", "cable", "down")
        agent = Program(device.command(BIN / "piko-agent", "agent", "http", endpoint, 1, "--connect.url",
                                       f"http://{server.address}:{node.upstream[1]}", "--io-backend", backend), name="piko agent")
        line = agent.wait_log("connect failed")
        assert "Network is unreachable" in line["err"] and "route" in line["hint"], line
        device.run("ip", "link", "set", "cable", "up")
        agent.wait_log("^connected$")
        assert agent.stop() == 0
        assert node.stop() == 0


def future_certificate(folder):
    """authority.pem, and server.pem and .key whose time has not begun."""
    now = datetime.datetime.now(datetime.timezone.utc)

    def make(name, begins, issuer=None, issuer_key=None):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(issuer or subject).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(begins).not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(issuer is None, None), True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.DNSName("piko.test")]), False)
            .sign(issuer_key or key, hashes.SHA256()))
        return subject, key, certificate.public_bytes(serialization.Encoding.PEM)

    def write(name, key, pem):
        (folder / f"{name}.new").write_bytes(pem + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        os.rename(folder / f"{name}.new", folder / f"{name}.pem")
    yesterday = now - datetime.timedelta(days=1)
    authority, authority_key, pem = make("authority", yesterday)
    (folder / "authority.pem").write_bytes(pem)
    _, key, pem = make("server", now + datetime.timedelta(days=2), authority, authority_key)
    write("server", key, pem)

    def begin():
        _, key, pem = make("server", yesterday, authority, authority_key)
        write("server", key, pem)
    return begin


def test_clock_that_is_not_set(new_node, program, backend, service, endpoint, tmp_path):
    """To a device that thinks it is 1970 no certificate is valid yet. It says so, and connects once the time is right (here the server
    gets another certificate: the clock of this machine is not ours to set)."""
    begin = future_certificate(tmp_path)
    pem = tmp_path / "server.pem"
    node = new_node(arguments=["--upstream.tls.cert", pem, "--upstream.tls.key", pem])
    agent = program("agent", "http", endpoint, service().port, "--connect.url", f"https://localhost:{node.upstream[1]}",
                    "--connect.tls.root-cas", tmp_path / "authority.pem", "--io-backend", backend)
    line = agent.wait_log("connect failed")
    year = datetime.datetime.now(datetime.timezone.utc).year
    assert f"certificate is not yet valid (this machine's clock says {year}-" in line["err"] and "NTP" in line["hint"], line
    assert line["level"] == "warn" and line["backoff"], "it is tried again"
    begin()
    agent.wait_log("^connected$")


def test_writes_nothing(node, agent_file, service, endpoint):  # noqa: F811
    """Flash wears out: with its log on a pipe an agent causes no write to any disk, over requests, reloads and reconnects."""
    agent = agent_file(node.upstream, listeners((endpoint, service().port)))
    agent.wait_log("^connected$")
    for _ in range(3):
        agent.reload()
        assert request(node.proxy, host=f"{endpoint}.x.y").status == 200
    counts = dict(line.split(": ") for line in open(f"/proc/{agent.pid}/io").read().splitlines())
    assert counts["write_bytes"] == "0", counts
    for number in set(os.listdir(f"/proc/{agent.pid}/fd")) - {"1"}:      # standard output, which the test gave it
        target = os.readlink(f"/proc/{agent.pid}/fd/{number}")
        assert not target.startswith("/") or target.startswith("/dev/"), f"it has {target} open"
