"""Reload and upgrade: the configuration and the program change under load, and no client and no agent notices."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from peer import agent as agents
from peer import http1
from peer.http1 import request, response, wait_until
from programs import BIN, SLOW, SOAK, Program, address_of, descriptors, is_alive, metric, resident_bytes, scaled

HERE = Path(__file__).parent


def command(node, *words, timeout=60):
    """`piko server …` for a node: (exit status, what it printed)."""
    done = subprocess.run([BIN / "piko", "server", *map(str, words), "--server.control-socket", node.control_socket],
                          capture_output=True, text=True, timeout=timeout * SLOW)
    return done.returncode, done.stdout + done.stderr


def changed(node, name):
    """`piko server reload` or `upgrade`, which must succeed."""
    status, text = command(node, name)
    assert status == 0, text
    return text


def configure(node, text):
    (Path(node.folder.name) / "server.yaml").write_text(text)


def generations(node):
    status, text = command(node, "workers")
    assert status == 0, text
    return [int(line.split(":")[1]) for line in text.splitlines() if "generation:" in line]


def wait_for_generations(node, count, timeout=20):
    wait_until(lambda: len(set(generations(node))) == count, timeout * SLOW, what=lambda: f"{count} generations alone: {command(node, 'workers')[1]}")


class Load:
    """tools/load.py on a node."""

    def __init__(self, node, http, tcp=None, **counts):
        words = [sys.executable, HERE / "tools" / "load.py", "--proxy", f"{node.proxy[0]}:{node.proxy[1]}", "--http", http]
        if tcp:
            words += ["--tcp", tcp]
        for name, value in counts.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "running\n"

    def phase(self, name):
        self.process.stdin.write(f"phase {name}\n")
        self.process.stdin.flush()

    def stop(self, timeout=120):
        out, _ = self.process.communicate("stop\n", timeout=timeout * SLOW)
        return json.loads(out)


@pytest.fixture
def demo(program, backend):
    """The demo service: (HTTP port, port of the TCP echo)."""
    one = Program([BIN / "piko-demo-service", "--listen", "127.0.0.1:0", "--tcp-echo", "127.0.0.1:0"], name="demo service")
    try:
        def ports():
            found = [int(word.rsplit(":", 1)[1].rstrip("/,.")) for word in (one.output + " " + one.log).replace("\n", " ").split()
                     if "127.0.0.1:" in word and word.rsplit(":", 1)[1].rstrip("/,.").isdigit()]
            return found[:2] if len(found) >= 2 else None
        yield wait_until(ports, what="the demo service's ports")
    finally:
        one.stop()


# ---- Under load ----


KINDS = {"reload": ["reload"] * 4, "upgrade": ["upgrade"] * 4}
if SOAK:
    KINDS = {"reload and upgrade": ["reload", "reload", "upgrade"] * 10}


@pytest.mark.timeout(scaled(1800, 120) * SLOW)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_fails_under_load(new_node, real_agent, tunnel, demo, endpoint, kind):
    """Every generation has WebSockets and streams to carry to the end; agents of ours and one that is not share the load."""
    node = new_node(arguments=["--proxy.access-log.disable", "--reload.max-generations", "40"])
    own = [real_agent(node.upstream, "http", endpoint, demo[0], "--access-log.disable"),
           real_agent(node.upstream, "tcp", f"{endpoint}-tcp", demo[1], "--access-log.disable")]
    other = tunnel(node, agents.demo, name=f"{endpoint}-other")

    def resident():
        return sum(resident_bytes(pid) for pid in [*node.processes(), *(one.pid for one in own)])
    before = sum(node.descriptor_counts().values())
    resident_before = resident()
    load = Load(node, f"{endpoint},{endpoint},{endpoint},{endpoint}-other", f"{endpoint}-tcp", kept=scaled(64, 8), fresh=scaled(16, 2),
                idle=scaled(50, 8), websockets=scaled(500, 20), streams=scaled(10, 2), stream_bytes=scaled(1 << 30, 8 << 20))
    load.phase("changes")
    for change in KINDS[kind]:
        changed(node, change)
    load.phase("after")
    report = load.stop(timeout=scaled(1800, 120))
    print({name: report[name] for name in ["failures", "bytes", "websockets", "streams", "phases"]})
    assert report["failures"] == 0, report["first"]
    assert report["phases"]["changes"]["requests"] > 10 and report["websockets"] > 0 and report["streams"] > 0
    assert not other.session.ended and all(not one.logged("connection to server lost") for one in own)
    wait_for_generations(node, 1)
    assert len(node.workers()) == 2
    # The agents' data connections may wait a while yet.
    wait_until(lambda: sum(node.descriptor_counts().values()) <= before + 8 + metric(node, "piko_direct_connections"),
               15 * SLOW, what=lambda: f"{before} descriptors as before: {[sorted(descriptors(pid).values()) for pid in node.processes()]}")
    assert resident() < resident_before * 1.5 + (32 << 20)
    assert metric(node, "piko_control_errors_total") == 0
    assert metric(node, "piko_worker_restarts_total") == 0


def test_an_independent_agent_sees_no_close(new_node, tunnel, peers, host):
    """A session of a public agent, which would exit if its connection closed: in the middle of requests, over reloads and
    upgrades, it is the same connection."""
    node = new_node(arguments=["--proxy.access-log.disable"])
    gate = threading.Event()

    async def slow(stream):
        while True:
            try:
                message = await http1.read_message(stream)
            except EOFError:
                return
            body = b"x" * 100_000
            await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:50_000])
            if message.target == "/slow":
                import asyncio
                while not gate.is_set():
                    await asyncio.sleep(0.01)
            await stream.write(body[50_000:])

    agent = tunnel(node, slow)
    client = http1.Connection(node.proxy, timeout=60)
    client.send(f"GET /slow HTTP/1.1\r\nHost: {host}\r\n\r\n")
    client.read_until(b"\r\n\r\n")
    assert client.read_exactly(50_000) == b"x" * 50_000
    kept = http1.Connection(node.proxy)
    for kind in ["reload", "upgrade", "reload"]:
        assert kept.request(host=host).body == b"x" * 100_000
        changed(node, kind)
        assert kept.request(host=host).body == b"x" * 100_000
        assert request(node.proxy, host=host).status == 200
    gate.set()
    assert client.read_exactly(50_000) == b"x" * 50_000
    # The client's connection is good for more: it moved on to the workers of now.
    client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
    assert client.read_response().status == 200
    assert agent.socket.is_open if hasattr(agent.socket, "is_open") else True
    wait_for_generations(node, 1)


def test_idle_clients_are_answered(new_node, real_agent, service, endpoint, host):
    node = new_node()
    real_agent(node.upstream, "http", endpoint, service().port)
    clients = [http1.Connection(node.proxy) for _ in range(10)]
    for kind in ["reload", "reload", "upgrade", "reload"]:
        for client in clients:
            assert client.request(host=host).status == 200
        changed(node, kind)
    for client in clients:
        assert client.request(host=host).status == 200
    # A head that came in part moves along.
    clients[0].send("GET / HTTP/1.1\r\nHo")
    changed(node, "reload")
    clients[0].send(f"st: {host}\r\n\r\n")
    assert clients[0].read_response().status == 200
    wait_for_generations(node, 1)


def test_killed_workers_take_only_their_own(new_node, real_agent, demo, endpoint):
    node = new_node(arguments=["--proxy.access-log.disable"])
    real_agent(node.upstream, "http", endpoint, demo[0], "--access-log.disable")
    before = node.descriptor_counts()
    load = Load(node, endpoint, kept=4, fresh=4)
    load.phase("kills")
    last = 0
    deadline = time.monotonic() + scaled(60, 3)
    while time.monotonic() < deadline:
        workers = node.workers()
        if workers:
            last = time.monotonic()
            os.kill(random.choice(workers), signal.SIGKILL)
        time.sleep(0.2)      # the pace of the kills, not a wait for anything
    def answers():
        try:
            return all(request(node.proxy, host=f"{endpoint}.example.com").status == 200 for _ in range(20))
        except (OSError, EOFError):
            return False
    if SOAK:
        time.sleep(max(0, last + 1 - time.monotonic()))      # what may fail has failed by then
    else:
        # How long that takes is judged in script/soak, on a machine that does nothing else.
        wait_until(answers, 30 * SLOW, what="answers again")
    load.phase("after")
    wait_until(lambda: len(node.workers()) == 2 and "ready: true" in command(node, "info")[1], what="both workers again")
    wait_until(answers, 20 * SLOW, what="answers")
    report = load.stop()
    assert report["phases"]["after"]["failures"] == 0, report["first"]
    assert report["phases"]["kills"]["requests"] > 0
    print(report["phases"])
    node.assert_descriptors_return_to(before, more=8 + int(metric(node, "piko_direct_connections")))


# ---- What a reload changes ----


def test_reload_takes_the_new_configuration(new_node, tunnel, host):
    node = new_node(config="proxy: {timeout: 30s}\nlog: {level: info}\n")

    async def silent(stream):
        await http1.read_message(stream)
        await stream.read(1)
    tunnel(node, silent)
    configure(node, "proxy: {timeout: 300ms}\nlog: {level: debug}\nserver: {workers: 2}\n")
    text = changed(node, "reload")
    assert "proxy.timeout" in text and "log.level" in text
    assert request(node.proxy, host=host).status == 504
    mark = node.mark()
    configure(node, "proxy: {timeout: 200ms, bind_addr: '127.0.0.1:9'}\nserver: {control_socket: /nowhere}\n")
    text = changed(node, "reload")
    assert "proxy.bind_addr: fixed by --proxy.bind-addr" in text and "server.control_socket: fixed by" in text
    node.wait_log("reloaded", after=mark)


def test_hangup_reloads(new_node, host):
    node = new_node(config="proxy: {timeout: 30s}\n")
    configure(node, "proxy: {timeout: 10s}\n")
    node.send_signal(signal.SIGHUP)
    assert node.wait_log("reloaded")["changed"] == ["proxy.timeout"]
    mark = node.mark()
    configure(node, "proxy: {timeout: x}\n")
    node.expected_errors.append("not reloaded")
    node.send_signal(signal.SIGHUP)
    assert "proxy.timeout" in node.wait_log("not reloaded", after=mark)["err"]
    assert request(node.proxy, host=host).status == 502


def test_number_of_workers_changes(new_node, real_agent, service, endpoint, host):
    config = "server: {{workers: {}}}\n"
    node = new_node(config=config.format(2), workers=2)
    # The flag of the fixture wins; a node without it is what an operator has.
    folder = Path(node.folder.name)
    (folder / "own.yaml").write_text("server: {workers: 1}\n")
    own = Program([BIN / "piko", "server", "--config.path", folder / "own.yaml", "--server.control-socket", folder / "own.sock",
                   "--proxy.bind-addr", "127.0.0.1:0", "--upstream.bind-addr", "127.0.0.1:0", "--admin.bind-addr", "127.0.0.1:0",
                   "--cluster.gossip.bind-addr", "127.0.0.1:0"],
                  name="own server")
    own.control_socket = folder / "own.sock"
    try:
        ready = own.wait_log("server ready")
        real_agent(address_of(ready["upstream_addr"]), "http", endpoint, service().port)
        for workers in [3, 1]:
            (folder / "own.yaml").write_text(f"server: {{workers: {workers}}}\n")
            changed(own, "reload")
            wait_until(lambda: len(generations(own)) == workers, 20 * SLOW, what=f"{workers} workers")
            assert request(address_of(ready["proxy_addr"]), host=host).status == 200
        (folder / "own.yaml").write_text("server: {workers: 900}\n")
        own.expected_errors.append("not reloaded")
        status, text = command(own, "reload")
        assert status == 1 and "generation" in text, text
        assert request(address_of(ready["proxy_addr"]), host=host).status == 200
        wait_until(lambda: len(generations(own)) == 1, 20 * SLOW, what="the workers of before alone")
    finally:
        assert own.stop() == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_listeners_change(new_node, real_agent, service, endpoint, host):
    node = new_node()
    folder = Path(node.folder.name)
    first, second = free_port(), free_port()

    def write(proxy):
        (folder / "own.yaml").write_text(f"proxy: {{bind_addr: '{proxy}'}}\n")
    write(f"127.0.0.1:{first}")
    own = Program([BIN / "piko", "server", "--config.path", folder / "own.yaml", "--server.control-socket", folder / "own.sock",
                   "--upstream.bind-addr", "127.0.0.1:0", "--admin.bind-addr", "127.0.0.1:0", "--cluster.gossip.bind-addr", "127.0.0.1:0"], name="own server")
    own.control_socket = folder / "own.sock"
    try:
        ready = own.wait_log("server ready")
        real_agent(address_of(ready["upstream_addr"]), "http", endpoint, service().port)
        kept = http1.Connection(("127.0.0.1", first))
        assert kept.request(host=host).status == 200
        write(f"127.0.0.1:{second}")
        assert "proxy.bind_addr" in changed(own, "reload")
        assert request(("127.0.0.1", second), host=host).status == 200
        assert kept.request(host=host).status == 200       # who was there stays

        def is_refused():
            try:
                socket.create_connection(("127.0.0.1", first), timeout=5).close()
                return False
            except ConnectionRefusedError:
                return True
        wait_until(is_refused, what="the old port is closed")
        # From one address to all, on the same port.
        write(f":{second}")
        changed(own, "reload")
        assert request(("127.0.0.1", second), host=host).status == 200
        write(f"127.0.0.1:{second}")
        changed(own, "reload")
        assert request(("127.0.0.1", second), host=host).status == 200
        # A name, which is looked up while the node serves.
        write(f"localhost:{second}")
        changed(own, "reload")
        assert request(("127.0.0.1", second), host=host).status == 200
        own.expected_errors.append("not reloaded")
        write(f"nowhere.invalid:{second}")
        status, text = command(own, "reload")
        assert status == 1 and "proxy.bind_addr: cannot listen on" in text, text
        # A port that somebody else has.
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            own.expected_errors.append("not reloaded")
            write(f"127.0.0.1:{taken.getsockname()[1]}")
            status, text = command(own, "reload")
            assert status == 1 and "proxy.bind_addr: cannot listen on" in text, text
        assert request(("127.0.0.1", second), host=host).status == 200
    finally:
        assert own.stop() == 0


def test_a_port_goes_to_another_address(new_node, real_agent, service, endpoint, host):
    """Whoever comes in the middle of it is served by the old socket or by the new one, and reset by none."""
    folder = Path(new_node().folder.name)
    port = free_port()

    def write(address):
        (folder / "own.yaml").write_text(f"proxy: {{bind_addr: '{address}:{port}'}}\n")
    write("127.0.0.1")
    own = Program([BIN / "piko", "server", "--config.path", folder / "own.yaml", "--server.control-socket", folder / "own.sock",
                   "--upstream.bind-addr", "127.0.0.1:0", "--admin.bind-addr", "127.0.0.1:0", "--cluster.gossip.bind-addr", "127.0.0.1:0"],
                  name="own server")
    own.control_socket = folder / "own.sock"
    stop, faults, served = threading.Event(), [], []

    def come():
        while not stop.is_set():
            try:
                answer = request(("127.0.0.1", port), host=host, headers=[("Connection", "close")])
                served.append(answer.status)
            except OSError as error:
                faults.append(error)
    clients = [threading.Thread(target=come) for _ in range(4)]
    try:
        real_agent(address_of(own.wait_log("server ready")["upstream_addr"]), "http", endpoint, service().port)
        for client in clients:
            client.start()
        for address in ["", "127.0.0.1", "localhost", "127.0.0.1", "", "127.0.0.1"]:
            write(address)
            changed(own, "reload")
            before = len(served)
            wait_until(lambda: faults or len(served) > before + 40, 20, "clients are served")
    finally:
        stop.set()
        for client in clients:
            client.join()
        assert own.stop() == 0
    assert not faults and set(served) == {200}, (faults, set(served))


# ---- What fails changes nothing ----


def test_wrong_configuration(new_node, real_agent, service, endpoint, host):
    node = new_node(config="proxy: {timeout: 30s}\n")
    real_agent(node.upstream, "http", endpoint, service().port)
    node.expected_errors.append("not reloaded")
    kept = http1.Connection(node.proxy)
    assert kept.request(host=host).status == 200
    workers = sorted(node.workers())
    for text, reason in [("proxy: {timeout: soon}\n", "proxy.timeout"), ("nonsense: 1\n", "nonsense"), ("proxy: [\n", "server.yaml")]:
        configure(node, text)
        status, said = command(node, "reload")
        assert status == 1 and reason in said, said
    (Path(node.folder.name) / "server.yaml").unlink()
    status, said = command(node, "reload")
    assert status == 1 and "No such file" in said, said
    assert kept.request(host=host).status == 200
    assert sorted(node.workers()) == workers


def compiled(path, source):
    """A small program in C, in place of one of ours."""
    compiler = shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    path.unlink(missing_ok=True)
    subprocess.run([compiler, "-x", "c", "-o", path, "-"], input="#include <unistd.h>\n#include <sys/stat.h>\n" + source, text=True, check=True)


def broken_programs(folder, kind):
    """A folder of programs that can't take over."""
    folder.mkdir()
    for name in ["piko", "piko-supervisor", "piko-worker"]:
        shutil.copy(BIN / name, folder / name)
    supervisor, worker = folder / "piko-supervisor", folder / "piko-worker"
    if kind == "missing":
        supervisor.unlink()
    elif kind == "not executable":
        supervisor.chmod(0o644)
    elif kind == "other format":
        supervisor.write_bytes(b"\x7fELFnothing of use")
    elif kind == "ends":
        compiled(supervisor, "int main(void) { return 3; }")
    elif kind == "hangs":
        compiled(supervisor, "int main(void) { for (;;) pause(); }")
    elif kind == "no worker":
        worker.unlink()
    elif kind == "worker ends":
        compiled(worker, "int main(void) { return 4; }")
    return folder / "piko"


@pytest.mark.parametrize("kind, reason", [
    ("missing", "No such file"), ("not executable", "Permission denied"), ("other format", "Exec format error"),
    ("ends", "exit code 3"), ("hangs", "took more than"), ("no worker", "No such file"), ("worker ends", "worker"),
])
def test_programs_that_cannot_take_over(new_node, real_agent, service, endpoint, host, tmp_path, kind, reason, transport):
    if kind == "hangs" and transport == "direct":
        pytest.skip("takes its time; once is enough")
    node = new_node()
    real_agent(node.upstream, "http", endpoint, service().port)
    node.expected_errors.append("not upgraded")
    kept = http1.Connection(node.proxy)
    assert kept.request(host=host).status == 200
    workers = sorted(node.workers())
    status, said = command(node, "upgrade", "--binary", broken_programs(tmp_path / "new", kind))
    assert status == 1 and reason in said, said
    assert kept.request(host=host).status == 200
    assert sorted(node.workers()) == workers
    # It is still able to.
    changed(node, "upgrade")
    assert kept.request(host=host).status == 200


def test_goes_back_when_the_take_over_fails(new_node, real_agent, service, endpoint, host, tmp_path):
    """The rehearsal went well, and then the new workers do not come up: the program before is executed again."""
    node = new_node()
    real_agent(node.upstream, "http", endpoint, service().port)
    node.expected_errors += ["not upgraded", "not reloaded"]
    folder = tmp_path / "new"
    folder.mkdir()
    for name in ["piko", "piko-supervisor"]:
        shutil.copy(BIN / name, folder / name)
    # The first start is the rehearsal's; every other one fails.
    compiled(folder / "piko-worker", f'''int main(int count, char **words) {{
        (void)count;
        if (mkdir("{folder}/tried", 0700) == 0) execv("{BIN}/piko-worker", words);
        return 5;
    }}''')
    kept = http1.Connection(node.proxy)
    assert kept.request(host=host).status == 200
    status, said = command(node, "upgrade", "--binary", folder / "piko")
    assert status == 1 and "exit code 5" in said, said
    assert kept.request(host=host).status == 200
    assert os.readlink(f"/proc/{node.pid}/exe") == str((BIN / "piko-supervisor").resolve())
    changed(node, "upgrade")
    assert kept.request(host=host).status == 200


def test_upgrade_keeps_the_process_and_its_counters(new_node, real_agent, service, endpoint, host, tmp_path):
    node = new_node()
    real_agent(node.upstream, "http", endpoint, service().port)
    for _ in range(5):
        assert request(node.proxy, host=host).status == 200
    before = metric(node, "piko_proxy_requests_total")
    folder = tmp_path / "new"
    folder.mkdir()
    for name in ["piko", "piko-supervisor", "piko-worker"]:
        shutil.copy(BIN / name, folder / name)
    status, said = command(node, "upgrade", "--binary", folder / "piko")
    assert status == 0, said
    assert os.readlink(f"/proc/{node.pid}/exe") == str((folder / "piko-supervisor").resolve())
    assert is_alive(node.pid)
    for _ in range(5):
        assert request(node.proxy, host=host).status == 200
    assert metric(node, "piko_proxy_requests_total") == before + 5
    # SIGUSR2 goes over to what stands where it runs from now.
    mark = node.mark()
    node.send_signal(signal.SIGUSR2)
    node.wait_log("upgraded", after=mark)
    assert request(node.proxy, host=host).status == 200


def test_upgrades_leave_no_descriptors(new_node, endpoint):
    node = new_node()
    changed(node, "upgrade")
    wait_for_generations(node, 1)

    def held():
        return sorted(name.split(":")[0] for name in descriptors(node.pid).values())
    before = held()
    for _ in range(3):
        changed(node, "upgrade")
    wait_for_generations(node, 1)
    wait_until(lambda: held() == before, 10 * SLOW, lambda: f"{before}, has {held()}")


# ---- Drain ----


def test_drain_and_back(new_node, real_agent, service, endpoint, host):
    node = new_node()
    agent = real_agent(node.upstream, "http", endpoint, service().port)
    assert request(node.admin, target="/ready", host="x").status == 200
    assert "ready: false" in changed(node, "drain")
    wait_until(lambda: request(node.admin, target="/ready", host="x").status == 503, what="not ready")
    # Who is there is served, although it was asked to leave and finds no other server; who comes is sent elsewhere.
    agent.wait_log("server asks to connect elsewhere")
    agent.wait_log("connect failed")
    assert request(node.proxy, host=host).status == 200
    answer = request(node.upstream, target=f"/piko/v1/upstream/{endpoint}-new", host="x", headers=[
        ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")])
    assert answer.status == 503
    changed(node, "upgrade")
    wait_until(lambda: request(node.admin, target="/ready", host="x").status == 503, what="still not ready")
    status, said = command(node, "drain", "--off")
    assert status == 0 and "ready: true" in said, said
    wait_until(lambda: request(node.admin, target="/ready", host="x").status == 200, what="ready")
    mark = agent.mark()
    agent.wait_log("connected", after=mark)
    assert request(node.proxy, host=host).status == 200


def test_shutdown_delay(new_node, real_agent, service, endpoint, host):
    node = new_node(arguments=["--shutdown-delay", "1s", "--grace-period", "10s"])
    real_agent(node.upstream, "http", endpoint, service().port)
    node.send_signal(signal.SIGTERM)
    wait_until(lambda: request(node.admin, target="/ready", host="x").status == 503, what="not ready")
    assert request(node.proxy, host=host).status == 200
    assert node.wait(20) == 0


def test_old_generations_are_cut_at_their_time(new_node, real_agent, demo, endpoint):
    """reload.drain_timeout: a stream of an old generation is ended, with the worker that carries it."""
    node = new_node(arguments=["--reload.drain-timeout", "1s"])
    real_agent(node.upstream, "tcp", endpoint, demo[1])
    client = http1.Connection(node.proxy, timeout=60)
    client.send(f"GET /_piko/v1/tcp/{endpoint} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: piko-raw/1\r\n\r\nhello")
    client.read_until(b"\r\n\r\n")
    assert client.read_exactly(5) == b"hello"
    changed(node, "reload")
    client.send("again")
    assert client.read_exactly(5) == b"again"
    wait_for_generations(node, 1, timeout=30)
    assert client.ends(within=10)


def test_told_to_end_in_the_middle_of_an_upgrade(new_node, real_agent, service, endpoint, host, transport):
    """At whatever moment SIGTERM comes, it is heard: by the old program or by the new one."""
    if transport == "direct":
        pytest.skip("the same for both transports")
    for step in range(12):
        node = new_node()
        node.expected_errors += ["not upgraded", "not reloaded", "cannot take over"]
        waiting = subprocess.Popen([BIN / "piko", "server", "upgrade", "--server.control-socket", node.control_socket],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        node.wait_log("upgrading")
        time.sleep(step * 0.006)      # another moment each time, not a wait for anything
        node.send_signal(signal.SIGTERM)
        assert node.wait(30 * SLOW) == 0, node.tail()
        waiting.wait(30 * SLOW)
