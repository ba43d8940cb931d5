"""`piko server diagnose` and `piko agent diagnose`: what they find, what they advise, and that they leave nothing behind."""

import json
import os
import resource
import socket
import subprocess

import pytest

from peer import agent as agents
from peer.http1 import request, wait_until
from programs import BIN, ENVIRONMENT, SLOW, Node, become
from test_auth import SECRET, token
from test_connect_proxy import CREDENTIALS, NAME, NO_ENVIRONMENT, PASSWORD, connect_proxy  # noqa: F401
from test_tls import certificates, port_tls  # noqa: F401


class Diagnosis:
    def __init__(self, *words, environment=None, **options):
        self.run = subprocess.run([BIN / "piko", *map(str, words), "--output", "json"], capture_output=True, text=True, timeout=60 * SLOW,
                                  stdin=subprocess.DEVNULL, env={**ENVIRONMENT, **NO_ENVIRONMENT, **(environment or {})}, **options)
        assert self.run.returncode in (0, 1) and not self.run.stderr, self.run.stderr
        document = json.loads(self.run.stdout)
        self.rows = {row["check"]: row for row in document["checks"]}
        assert document["ok"] == (self.run.returncode == 0) == all(row["result"] != "fail" for row in self.rows.values())
        for row in self.rows.values():
            assert row["result"] in ("ok", "note", "warn", "fail", "skipped") and row["found"], row

    def __getitem__(self, name):
        return self.rows[name]

    def results(self, *names):
        return [self.rows[name]["result"] for name in names]

    def assert_fails(self, name, words, hint):
        row = self.rows[name]
        assert row["result"] == "fail" and words in row["found"] and hint in row.get("hint", ""), row
        assert self.run.returncode == 1


def agent(node, endpoint, address, *flags, kind="http", **options):
    url = node if isinstance(node, str) else node.upstream_url
    return Diagnosis("agent", "diagnose", kind, endpoint, address, "--connect.url", url, *flags, **options)


def closed_port():
    """A port that nobody listens on; the socket keeps it."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    return holder, holder.getsockname()[1]


@pytest.fixture(scope="module")
def plain():
    node = Node(workers=1)
    yield node
    assert node.stop() == 0


@pytest.fixture(scope="module")
def guarded(certificates):  # noqa: F811
    """With TLS and tokens at the upstream port."""
    node = Node(workers=1, arguments=[*port_tls(certificates, "upstream"), "--upstream.auth.hmac-secret-key", SECRET])
    yield node
    assert node.stop() == 0


# ---- The agent ----

@pytest.mark.parametrize("transport, found", [("auto", "direct: at most"), ("mux", "mux: connect.transport")])
def test_agent_and_all_is_well(plain, service, endpoint, transport, found):
    recorder = agents.Recorder()
    result = agent(plain, endpoint, service(recorder).port, "--connect.transport", transport)
    assert result.run.returncode == 0, result.run.stdout
    names = ["configuration", "proxy", "DNS", "TCP", f"{endpoint}: upgrade", f"{endpoint}: transport", f"{endpoint}: session",
             f"{endpoint}: service HTTP", "clock"]
    assert result.results(*names) == ["ok"] * len(names), result.run.stdout
    assert result[f"{endpoint}: transport"]["found"].startswith(found) and result["clock"]["found"] == "as the server's"
    assert "status 200" in result[f"{endpoint}: service HTTP"]["found"]
    for name in ("DNS", "TCP", f"{endpoint}: upgrade", f"{endpoint}: session"):
        assert result[name]["time_ms"] >= 0
    wait_until(lambda: endpoint.encode() not in request(plain.admin, target="/status/upstream/endpoints", host="admin").body, 10 * SLOW,
               "the endpoint is free again")
    assert [seen.method for seen in recorder.requests] == ["HEAD"], "no other request reached the service"


def test_agent_at_the_wrong_port(plain, service, endpoint):
    port = service().port
    url = "http://{}:{}".format
    result = agent(url(*plain.admin), endpoint, port)
    result.assert_fails(f"{endpoint}: upgrade", "status 404", "8001")
    assert result.results(f"{endpoint}: transport", f"{endpoint}: service HTTP") == ["skipped", "ok"]
    agent(url(*plain.proxy), endpoint, port).assert_fails(f"{endpoint}: upgrade", "status 400", "8000")


def test_agent_without_a_way(endpoint):
    """A name that there is not, and ports that nobody listens on."""
    holder, port = closed_port()
    with holder:
        result = agent(f"http://{NAME}:8001", endpoint, port)
        assert result["DNS"]["result"] == "fail" and result["DNS"]["hint"]
        assert result.results("TCP", f"{endpoint}: upgrade") == ["skipped", "skipped"]
        result.assert_fails(f"{endpoint}: service", "Connection refused", "nothing listens there")
        refused = agent(f"http://127.0.0.1:{port}", endpoint, port, kind="tcp")
        refused.assert_fails("TCP", f"127.0.0.1:{port}: connect: Connection refused", "nothing listens there")


def test_agent_and_certificates(guarded, certificates, service, endpoint, connect_proxy):  # noqa: F811
    port, url = service().port, f"https://localhost:{guarded.upstream[1]}"
    stranger = agent(url, endpoint, port)
    stranger.assert_fails("TLS", "the server's certificate: ", "root_cas")
    assert "CN = server for localhost" in stranger["TLS"]["found"] and "signed by CN = authority" in stranger["TLS"]["found"]
    trusting = ["--connect.tls.root-cas", certificates / "authority.pem"]
    good = agent(url, endpoint, port, *trusting, "--connect.token", token(endpoints=[endpoint]))
    assert good.run.returncode == 0 and "TLSv1.3" in good["TLS"]["found"], good.run.stdout
    # Ten days are not long.
    assert good["TLS"]["result"] == "warn" and "9 days" in good["TLS"]["found"]
    # The same through a proxy, with a name that the certificate has not.
    proxy = connect_proxy(credentials=CREDENTIALS)
    other = agent(f"https://{NAME}:{guarded.upstream[1]}", endpoint, port, *trusting,
                  "--connect.proxy-url", proxy.url("us%20er:p%2540ss%3Aw%2Frd"))
    assert other.results("proxy", "CONNECT") == ["ok", "ok"]
    other.assert_fails("TLS", f"the server's certificate is not for {NAME}", "a name that is in the certificate")
    assert PASSWORD not in other.run.stdout
    refused = agent(f"https://{NAME}:{guarded.upstream[1]}", endpoint, port, *trusting, environment={"https_proxy": proxy.url()})
    assert "https_proxy" in refused["proxy"]["found"]
    assert refused["CONNECT"]["result"] == "fail" and "status 407" in refused["CONNECT"]["found"] and refused["TLS"]["result"] == "skipped"


def test_agent_and_tokens(guarded, certificates, service, endpoint):  # noqa: F811
    flags = ["--connect.tls.root-cas", certificates / "authority.pem", "--connect.token"]
    for text, row, words, answer in [
        (token(seconds=-100), "token", "expired", "expired token"),
        (token(endpoints=["another"]), "token endpoints", f"not {endpoint}", "endpoint not permitted"),
    ]:
        result = agent(f"https://localhost:{guarded.upstream[1]}", endpoint, service().port, *flags, text)
        result.assert_fails(row, words, "token")
        result.assert_fails(f"{endpoint}: upgrade", f"status 401: {answer}", "token")
        assert result["clock"]["result"] == "ok" and text not in result.run.stdout


def test_agent_diagnosis_of_a_file(plain, service, endpoint, tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text(f"connect: {{url: \"{plain.upstream_url}\"}}\nlisteners:\n" + "".join(
        f"  - {{endpoint_id: {endpoint}-{kind}, addr: \"{service().port}\", protocol: {kind}}}\n" for kind in ("http", "tcp")))
    result = Diagnosis("agent", "diagnose", "--config.path", path)
    assert result.run.returncode == 0, result.run.stdout
    assert result.results(f"{endpoint}-http: session", f"{endpoint}-tcp: session", f"{endpoint}-tcp: service") == ["ok"] * 3
    quiet = Diagnosis("agent", "diagnose", "--config.path", path, "--no-register")
    assert quiet.run.returncode == 0 and quiet[f"{endpoint}-http: upgrade"]["result"] == "skipped"
    path.write_text("listeners: [{endpoint_id: x}]\n")
    Diagnosis("agent", "diagnose", "--config.path", path).assert_fails("configuration", "addr", "")
    table = subprocess.run([BIN / "piko", "agent", "diagnose", "--config.path", path], capture_output=True, text=True, timeout=20 * SLOW)
    assert table.returncode == 1 and table.stdout.startswith("fail     configuration  config: ") and "1 failed" in table.stdout
    wrong = subprocess.run([BIN / "piko", "agent", "diagnose", "--output", "xml"], capture_output=True, text=True, timeout=20 * SLOW)
    assert wrong.returncode == 2 and "neither table nor json" in wrong.stderr


# ---- The server ----

def server_flags(proxy=0):
    return [*(word for name, port in (("proxy", proxy), ("upstream", 0), ("admin", 0), ("cluster.gossip", 0))
              for word in (f"--{name}.bind-addr", f"127.0.0.1:{port}"))]


def test_server_and_all_is_well():
    result = Diagnosis("server", "diagnose", *server_flags(), "--server.workers", 1)
    assert result.run.returncode == 0, result.run.stdout
    assert {"kernel", "programs", "io_uring", "io backend", "descriptors", "locked memory", "pipes", "backlog", "local ports", "socket memory",
            "UDP buffers", "cgroup memory", "processors", "proxy.bind_addr", "cluster.gossip.bind_addr (UDP)", "workers' user",
            "clock"} <= result.rows.keys()
    assert result["kernel"]["found"] == f"Linux {os.uname().release}"


def test_server_that_could_not_run(certificates):  # noqa: F811
    """A port in use, few descriptors, a certificate whose time is over, and no such user."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result = Diagnosis(
            "server", "diagnose", *server_flags(listener.getsockname()[1]), *port_tls(certificates, "proxy", name="expired"),
            "--server.user", "nobody-of-that-name", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)))
    result.assert_fails("proxy.bind_addr", f"in use by process {os.getpid()} (", "choose another address")
    result.assert_fails("descriptors", "128 for each process", "LimitNOFILE")
    result.assert_fails("proxy.tls", "expired", "renew it")
    result.assert_fails("workers' user", "there is no such user", "server.user")
    assert result["upstream.bind_addr"]["result"] == "ok"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_a_server_whose_files_nobody_may_see():
    """As in a container: the ports' owner is of the same user, who may not look into it. It answers at its socket."""
    node = Node(workers=1, user=65534)
    try:
        ports = {"proxy": node.proxy[1], "upstream": node.upstream[1], "admin": node.admin[1], "cluster.gossip": node.gossip[1]}
        flags = [word for name, port in ports.items() for word in (f"--{name}.bind-addr", f"127.0.0.1:{port}")]
        result = Diagnosis("server", "diagnose", *flags, "--server.control-socket", node.control_socket, preexec_fn=lambda: become(65534))
        for name in ("proxy.bind_addr", "upstream.bind_addr", "admin.bind_addr", "cluster.gossip.bind_addr", "cluster.gossip.bind_addr (UDP)"):
            assert result[name]["result"] == "note" and str(node.control_socket) in result[name]["found"], result[name]
    finally:
        assert node.stop() == 0


def test_errors_at_start_have_the_same_hints(plain, endpoint, program):
    second = program("server", "--proxy.bind-addr", f"127.0.0.1:{plain.proxy[1]}", "--server.control-socket", f"/tmp/none-{os.getpid()}")
    second.expected_errors.append("cannot start")
    assert "ss -ltnp" in second.wait_log("^cannot start$")["hint"]
    assert second.wait() == 1
    lost = program("agent", "http", endpoint, 1, "--connect.url", "http://{}:{}".format(*plain.admin))
    lost.expected_errors.append("connect failed")
    assert "8001" in lost.wait_log("^connect failed$")["hint"]
