"""How the image's programs live in containers: under the seccomp profiles of container runtimes, with and without io_uring, as pid
1 without any capability, on a root file system that can't be written to."""

import os
import signal
import ssl
import stat
import subprocess
import threading
import time
from pathlib import Path

from engine import ROOT, SECCOMP, run, wait_until
from report import bad, expect, ok, skipped, step

PROXY, UPSTREAM, ADMIN = 8000, 8001, 8002
SWITCH = Path("/proc/sys/kernel/io_uring_disabled")
CONTROL = "/run/piko/server.sock"


def kernel_has_io_uring():
    return not (SWITCH.exists() and SWITCH.read_text().strip() == "2")


def status_of(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":", 1)[0]: line.split(":", 1)[1].split() for line in lines if ":" in line}


def processes_of(pid):
    """Every process of the same pid namespace, by its number here."""
    wanted, found = os.readlink(f"/proc/{pid}/ns/pid"), {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.readlink(f"/proc/{entry}/ns/pid") == wanted:
                    found[int(entry)] = status_of(entry)
            except OSError:
                continue
    return found


def check_confinement(name, pid):
    """What the kernel says of a container's processes."""
    processes = processes_of(pid)
    one = processes[pid]
    expect(one["NSpid"][-1] == "1", f"{name}: {one['Name'][0]} is pid 1 of its container, with {len(processes) - 1} other processes")
    names = {status["Name"][0] for status in processes.values()}
    wrong = [f"{number}: {status['Name'][0]}" for number, status in processes.items()
             if status["Uid"] != ["10001"] * 4 or any(int(status[kind][0], 16) for kind in ("CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb"))
             or status["NoNewPrivs"] != ["1"] or status["Seccomp"] != ["2"]]
    expect(not wrong, f"{name}: user 10001, no capability, no new privileges, a seccomp filter: {' '.join(sorted(names))}", " ".join(wrong))
    mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    top = next(words for words in mounts if words[4] == "/")
    expect("ro" in top[5].split(","), f"{name}: its root is mounted read-only")
    try:
        # Through the container's own mounts, with root's rights: what is read-only refuses everybody.
        Path(f"/proc/{pid}/root/usr/written").write_text("")
        bad(f"{name}: its root can be written to")
    except OSError as error:
        expect(error.errno == 30, f"{name}: even root of the machine can't write to it ({error.strerror})")


def tmpfs(engine, image, path):
    """Options for a tmpfs as Docker mounts it over a directory of the image: with the directory's mode, but empty and root's. podman would
    copy the owner, too."""
    mode = stat.S_IMODE((engine.folder / f"root-{image}" / path.lstrip("/")).stat().st_mode)
    return "--tmpfs", f"{path}:rw,noexec,nosuid,nodev,notmpcopyup,mode={mode:o}"


def changes(engine, container, mounts=("/run/piko", "/tmp")):
    """What a container has written to its own layer; mount points, and what the runtime puts there, are no writing."""
    own = {"/etc/mtab", "/run/.containerenv", "/run/secrets"} | {str(parent) for mount in mounts for parent in (Path(mount), *Path(mount).parents)}
    return [line for line in engine.run("podman", "diff", container.name).splitlines() if line and line.split()[-1] not in own | {"/etc", "/run"}]


def start_server(engine, host, image, profile, name, *words, options=()):
    server = engine.start(image, name, "server", "--log.level", "debug", "--cluster.gossip.bind-addr", "127.0.0.1:8003",
                          "--server.control-socket", CONTROL, *words, network=host.option,
                          options=("--security-opt", f"seccomp={profile}", *tmpfs(engine, image, "/run/piko"), *options))
    server.wait_line("server ready")
    return server


def start_service(engine, network, image, demo, profile, name, server, *words, options=()):
    """A demo service and an agent in front of it, each in a container with a network of its own. The endpoint has the name."""
    service_host, agent_host = network.host(f"{name}-service"), network.host(f"{name}-agent")
    security = ("--security-opt", f"seccomp={profile}")
    service = engine.start(demo, f"{name}-service", network=service_host.option, options=security)
    agent = engine.start(image, f"{name}-agent", "agent", "http", name, f"{service_host.address}:3000", "--connect.url", server, *words,
                         network=agent_host.option, options=(*security, *options))
    agent.wait_line("connected")
    return service, agent


def answered(network, host, endpoint, path="/hello"):
    status, body = network.outside.get((host.address, PROXY), path, {"x-piko-endpoint": endpoint}, timeout=30)
    return status == 200 and b"Hello from the demo service" in body


def check_orphans(server):
    """A process whose parent ends within the container belongs to pid 1, which reaps it."""
    pid = server.pid
    # Its output is nobody's, or what waits for its end would wait for the orphans.
    run("nsenter", "--target", pid, "--pid", "sh", "-c", "sleep 4 >/dev/null 2>&1 & sleep 5 >/dev/null 2>&1 & exit 0", stdin=subprocess.DEVNULL)
    adopted = [number for number, status in processes_of(pid).items() if status["Name"][0] == "sleep" and status["PPid"] == [str(pid)]]
    expect(len(adopted) == 2, "orphans are adopted by pid 1", f"{len(adopted)} of 2")
    wait_until(lambda: len(server.lines("reaped an orphan")) >= 2, 20, "orphans are reaped")
    zombies = [number for number, status in processes_of(pid).items() if status["State"][0] == "Z"]
    expect(not zombies, f"pid 1 has reaped {len(server.lines('reaped an orphan'))} orphans, and there is no zombie")


def check_crash(server):
    """A worker that is killed is replaced: pid 1 minds its children, too."""
    pid = server.pid
    victim = next(number for number, status in processes_of(pid).items() if status["Name"][0] == "piko-worker")
    before = len(server.lines("worker ready"))
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(server.lines("worker ready")) > before, 20, "a new worker")
    ok("a worker that is killed is reaped and replaced")


def check_end(engine, network, host, server, endpoint):
    """SIGTERM to pid 1, as `docker stop` sends it: what runs is finished, and the status is 0."""
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(answered(network, host, endpoint, "/slow/2000")))
    waiting.start()
    time.sleep(0.7)
    begin = time.monotonic()
    server.signal("TERM")
    status = server.wait_end(30)
    seconds = time.monotonic() - begin
    waiting.join()
    expect(status == 0 and seconds < 20, f"SIGTERM: pid 1 ended with status {status} after {seconds:.1f} s of its 20")
    expect(answers == [True], "a request that ran at SIGTERM was answered")
    text = server.log
    expect('"server ended"' in text and text.count('"worker ended"') >= 2, "the supervisor ended after its workers")


def check_profile(engine, network, image, demo, name, profile, backend, is_thorough):
    """A server, an agent and a service under one profile."""
    host = network.host(f"{name}-server")
    server = start_server(engine, host, image, profile, f"{name}-server", "--grace-period", "20s")
    said = server.wait_line("starting server")["io_backend"]
    if backend == "epoll":
        hint = server.lines("starting server")[0].get("hint", "")
        expect(said.startswith("epoll: io_uring_setup: ") and hint, f'{name}: the log says that it runs on epoll and why: "{said}"', said)
        ok(f'{name}: and the hint: "{hint}"')
    else:
        expect(said.startswith("io_uring"), f'{name}: the log says that it runs on io_uring: "{said}"', said)
    service, agent = start_service(engine, network, image, demo, profile, name, f"http://{host.address}:{UPSTREAM}")
    expect(answered(network, host, name), f"{name}: a request through server, agent and demo service was answered")
    loops = network.outside.get((host.address, ADMIN), "/debug/loops")[1].decode()
    expect(f'"backend":"{backend}' in loops.replace('": "', '":"'), f"{name}: the workers run on {backend}", loops[:300])
    expect(network.outside.status((host.address, ADMIN), "/ready") == 200, f"{name}: /ready says 200")
    if is_thorough:
        check_confinement(f"{name}: server", server.pid)
        check_confinement(f"{name}: agent", agent.pid)
        info = server.execute("piko", "server", "info")
        expect("ready" in info, f"{name}: piko server info answers in the container (docker exec, kubectl exec)")
        check_orphans(server)
        check_crash(server)
        expect(answered(network, host, name), f"{name}: requests go on after that")
        server.signal("HUP")
        server.wait_line("reloaded")
        expect(answered(network, host, name), f"{name}: SIGHUP to pid 1 (docker kill --signal HUP) reloads, and requests go on")
    check_end(engine, network, host, server, name)
    for container in (agent, service):
        container.signal("TERM")
    expect(agent.wait_end(30) == 0, f"{name}: SIGTERM ends the agent as pid 1 with status 0")
    service.wait_end(30)
    written = [line for container in (server, agent, service) for line in changes(engine, container)]
    expect(not written, f"{name}: nothing was written to the images' files", " ".join(written))
    for container in (server, agent, service):
        container.remove()


def check_nowhere(engine, network, image, profile):
    """Only /tmp to write to, or no place at all: the server has its control socket there, or does without."""
    host = network.host("temporary-server")
    server = engine.start(image, "temporary-server", "server", network=host.option,
                          options=("--security-opt", f"seccomp={profile}", *tmpfs(engine, image, "/tmp")))
    server.wait_line("server ready")
    expect("ready" in server.execute("piko", "server", "info"),
           "with /tmp alone a server has its control socket there, and piko server info finds it")
    server.remove()
    host = network.host("nowhere-server")
    server = engine.start(image, "nowhere-server", "server", network=host.option, options=("--security-opt", f"seccomp={profile}"))
    server.wait_line("server ready")
    expect("no control socket: " in server.log, "without any writable place a server runs, and its log says that it has no control socket")
    server.signal("TERM")
    expect(server.wait_end(30) == 0, "and it ends with status 0")
    server.remove()


def check_forced(engine, image, profile):
    done = subprocess.run(["podman", "run", "--rm", "--pull", "never", "--network", "none", "--read-only", "--security-opt",
                           f"seccomp={profile}", image, "server", "--io-backend", "io_uring"],
                          capture_output=True, text=True, env=engine.environment, timeout=60, check=False)
    expect(done.returncode == 1 and "io_uring" in done.stderr, "io_uring that is asked for and refused is an error at start, status 1")


def check_certificates(engine, network, image, demo, profile):
    """Agents trust who the image's bundle of authorities names: one of our own takes its place, and a server has a certificate of
    it."""
    folder = engine.folder / "certificates"
    folder.mkdir()
    host = network.host("tls-server")
    network.names["piko.example.com"] = [host.address]
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=piko.example.com",
        "-addext", "subjectAltName=DNS:piko.example.com", "-keyout", folder / "tls.key", "-out", folder / "tls.crt")
    os.chown(folder / "tls.key", 10001, 10001)
    server = start_server(engine, host, image, profile, "tls-server",
                          "--upstream.tls.cert", "/etc/piko/tls.crt", "--upstream.tls.key", "/etc/piko/tls.key",
                          options=("--volume", f"{folder}:/etc/piko:ro"))
    service, agent = start_service(engine, network, image, demo, profile, "tls", f"https://piko.example.com:{UPSTREAM}", options=(
        "--dns", network.address, "--volume", f"{folder / 'tls.crt'}:/etc/ssl/certs/ca-certificates.crt:ro"))
    expect(answered(network, host, "tls"), "an agent believes a server by the bundle of authorities in the image, found by its name through DNS")
    for container in (agent, service, server):
        container.remove()
    authority = ssl.create_default_context(cafile=str(engine.folder / f"root-{image}" / "etc/ssl/certs/ca-certificates.crt"))
    expect(authority.cert_store_stats()["x509_ca"] > 50, "OpenSSL reads the bundle that is in the image")


def check(engine, network, image, demo):
    step(f"life under seccomp profiles; {engine.run('podman', '--version').strip()}, {run('crun', '--version').splitlines()[0]}")
    without, within = engine.profile(False), engine.profile(True)
    denied = engine.profile(False, refusal="EPERM")
    check_profile(engine, network, image, demo, "refused", denied, "epoll", is_thorough=True)
    if "io_uring" in SECCOMP.read_text():
        skipped("podman's own profile as it ships: this version permits io_uring, so it was taken out")
        check_profile(engine, network, image, demo, "hidden", without, "epoll", is_thorough=False)
    else:
        check_profile(engine, network, image, demo, "podman", SECCOMP, "epoll", is_thorough=False)
    check_forced(engine, image, denied)
    if kernel_has_io_uring():
        check_profile(engine, network, image, demo, "permitted", within, "io_uring", is_thorough=True)
        check_profile(engine, network, image, demo, "chart", ROOT / "operations/helm/piko/files/seccomp-io-uring.json", "io_uring", is_thorough=False)
    else:
        skipped("io_uring: it is switched off on this machine (/proc/sys/kernel/io_uring_disabled)")
    check_nowhere(engine, network, image, denied)
    check_certificates(engine, network, image, demo, denied)
