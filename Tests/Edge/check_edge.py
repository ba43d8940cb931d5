"""The one-file agent on a device of a test's own: see script/check-edge.

    check_edge.py AGENT      with PIKO_BIN, the folder of the other programs
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "SystemTests"))

import namespaces                                                       # noqa: E402
from conftest import Service                                            # noqa: E402
from peer import agent as agents                                        # noqa: E402
from peer.background import Background                                  # noqa: E402
from peer.http1 import request                                          # noqa: E402
from programs import BIN, Node, Program                                 # noqa: E402
from test_edge import future_certificate                                # noqa: E402

NOBODY = 65534
# Kilobytes. What an idle agent takes is measured in perf/README.md; these are bounds that a mistake would break.
RESIDENT_MAX, OWN_MAX = 12_288, 2_048
failures = []


def check(holds, what, detail=""):
    print(f"{'ok' if holds else 'WRONG'}: {what}{'' if holds or not detail else ': ' + str(detail)}", flush=True)
    if not holds:
        failures.append(what)


def look_at_the_file(agent):
    headers = subprocess.run(["readelf", "-lW", agent], check=True, capture_output=True, text=True).stdout
    dynamic = subprocess.run(["readelf", "-dW", agent], check=True, capture_output=True, text=True).stdout
    check("INTERP" not in headers and "NEEDED" not in dynamic, "it needs no shared library and no loader")
    sections = subprocess.run(["readelf", "-SW", agent], check=True, capture_output=True, text=True).stdout
    check(".symtab" not in sections, f"it is stripped: {os.path.getsize(agent) / 1e6:.1f} MB")


def make_root(folder, agent):
    """Nothing but the agent, its files, /proc and a place for the resolver's; read-only from here on."""
    root = Path(folder) / "root"
    for name in ("proc", "etc/ssl/certs"):
        (root / name).mkdir(parents=True)
    shutil.copy(agent, root / "piko-agent")
    (root / "etc/resolv.conf").write_text("")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "agent.yaml").write_text("listeners:\n  - endpoint_id: device\n    addr: 127.0.0.1:SERVICE\n")
    return root


def seal(root):
    subprocess.run(["mount", "--bind", root, root], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro,nosuid,nodev", root], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)


def memory(pid):
    """(resident, of its own) in kilobytes."""
    lines = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return tuple(int(lines[name].split()[0]) for name in ("Rss", "Anonymous"))


async def in_namespace(host, service):
    with host.inside():
        return await service.start()


def tls_from_the_system(root, server, device, backend, service, folder):
    """An https URL and no root_cas: the authorities are found where the device's system has them."""
    pem = Path(folder) / "server.pem"
    node = Node(workers=1, host=server.address, command=server.command, arguments=["--upstream.tls.cert", pem, "--upstream.tls.key", pem])
    program = Program(device.command(
        "env", "-u", "SSL_CERT_FILE", "-u", "SSL_CERT_DIR", "chroot", f"--userspec={NOBODY}:{NOBODY}", root, "/piko-agent", "agent", "http", "secure",
        service.port, "--connect.url", f"https://piko.test:{node.upstream[1]}", "--io-backend", backend), name="piko-agent")
    program.wait_log("^connected$")
    check(True, f"{backend}: connects with TLS, to an authority that the device's system trusts")
    check(program.stop() == 0 and node.stop() == 0, f"{backend}: both end with 0")


def live_on_a_device(folder, agent, backend, peers):
    root = make_root(Path(folder) / backend, agent)
    with namespaces.hosts() as (server, device):
        service = peers.call(in_namespace(device, Service(agents.Recorder(body=b"from the device"))))
        path = root / "agent.yaml"
        path.write_text(path.read_text().replace("SERVICE", str(service.port)))
        os.chmod(path, 0o644)
        future_certificate(root.parent)()
        shutil.copy(root.parent / "authority.pem", root / "etc/ssl/certs/ca-certificates.crt")
        with open(root / "etc/hosts", "a") as hosts:
            hosts.write(f"{server.address} piko.test\n")
        node = Node(workers=1, host=server.address, command=server.command)
        seal(root)
        device.run("ip", "link", "set", "cable", "down")
        program = Program(device.command(
            "chroot", f"--userspec={NOBODY}:{NOBODY}", root, "/piko-agent", "agent", "start", "--config.path", "/agent.yaml", "--connect.url",
            f"http://{server.address}:{node.upstream[1]}", "--io-backend", backend), name="piko-agent")
        line = program.wait_log("connect failed")
        check("Network is unreachable" in line["err"], f"{backend}: starts without a network, and says so", line)
        device.run("ip", "link", "set", "cable", "up")
        program.wait_log("^connected$", timeout=40)
        check(True, f"{backend}: connects when the network is there")
        with server.inside():
            answers = [request(node.proxy, host="device.example.com").body for _ in range(50)]
        check(answers == [b"from the device"] * 50, f"{backend}: requests reach the device's service", answers[:2])
        resident, own = memory(program.pid)
        check(resident < RESIDENT_MAX and own < OWN_MAX, f"{backend}: takes {resident / 1024:.1f} MB, of which {own / 1024:.1f} MB are its own")
        counts = dict(line.split(": ") for line in Path(f"/proc/{program.pid}/io").read_text().splitlines())
        facts = dict(line.split(":", 1) for line in Path(f"/proc/{program.pid}/status").read_text().splitlines())
        check(counts["write_bytes"] == "0", f"{backend}: has written nothing to a disk", counts)
        check(facts["Uid"].split() == [str(NOBODY)] * 4 and int(facts["CapEff"], 16) == 0, f"{backend}: runs as a user who may do nothing", facts["Uid"])
        missing = Program(device.command("chroot", f"--userspec={NOBODY}:{NOBODY}", root, "/piko-agent", "agent", "http", "other", service.port,
                                         "--connect.url", "http://piko.invalid:8001"), name="piko-agent")
        line = missing.wait_log("connect failed")
        check("lookup piko.invalid" in line["err"], f"{backend}: looks names up by itself ({line['err']})")
        tls_from_the_system(root, server, device, backend, service, root.parent)
        check(missing.stop() == 0 and program.stop() == 0, f"{backend}: ends with 0 at SIGTERM")
        check(node.stop() == 0, f"{backend}: the server too")
        peers.call(service.stop())


def clock_that_is_not_set(folder, peers):
    """With faketime, which is loaded into a program: so here it is the agent that uses shared libraries."""
    folder = Path(folder)
    begin = future_certificate(folder)
    begin()
    pem = folder / "server.pem"
    node = Node(workers=1, arguments=["--upstream.tls.cert", pem, "--upstream.tls.key", pem])
    service = peers.call(Service(agents.Recorder()).start())
    clock = folder / "clock"
    clock.write_text("@1970-01-01 00:00:10\n")
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    program = Program(
        [BIN / "piko-agent", "agent", "http", "device", service.port, "--connect.url", f"https://localhost:{node.upstream[1]}",
         "--connect.tls.root-cas", folder / "authority.pem"], name="piko-agent",
        environment={"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"})
    line = program.wait_log("connect failed")
    check("certificate is not yet valid (this machine's clock says 1970-01-01T" in line["err"] and "NTP" in line["hint"],
          f"a clock that is not set is told: {line['err']}", line)
    clock.write_text("+0\n")
    program.wait_log("^connected$", timeout=40)
    check(True, "it connects once the time is set")
    check(program.stop() == 0 and node.stop() == 0, "both end with 0")
    peers.call(service.stop())


def main():
    agent = sys.argv[1]
    reason = namespaces.missing()
    if reason:
        sys.exit(f"script/check-edge: {reason}")
    peers = Background()
    look_at_the_file(agent)
    with tempfile.TemporaryDirectory(prefix="piko-edge-") as folder:
        os.chmod(folder, 0o755)
        try:
            for backend in ("io_uring", "epoll"):
                live_on_a_device(folder, agent, backend, peers)
            clock_that_is_not_set(folder, peers)
        finally:
            for program in list(Program.living):
                program.kill()
            for backend in ("io_uring", "epoll"):
                for mount in ("proc", ""):
                    subprocess.run(["umount", "-l", f"{folder}/{backend}/root/{mount}"], stderr=subprocess.DEVNULL)
    peers.stop()
    if failures:
        sys.exit(f"script/check-edge: {len(failures)} wrong: {'; '.join(failures)}")
    print("script/check-edge: all is well")


main()
