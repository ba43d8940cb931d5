"""docker-compose.yaml: as a text, and as a cluster that runs. Docker Compose itself reads it and speaks to podman, which serves
Docker's API; what is Docker's alone (its daemon, its network) is not tried. haproxy and Prometheus are Debian's, under the
names of the images that the file has."""

import json
import os
import re
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

from engine import ROOT, Failure, base_images, run, wait_until
from network import Host
from report import expect, ok, skipped, step

FILE = ROOT / "docker-compose.yaml"
TOOLS = Path(sys.executable).parent
KEY = "PIKO_GOSSIP_KEY"
# Images that are made here: Debian's package of that name, and what the official image says of itself.
STAND_INS = {
    "haproxy": 'USER haproxy\nENTRYPOINT ["haproxy"]\nCMD ["-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]\n',
    "prometheus": 'USER nobody\nWORKDIR /prometheus\nENTRYPOINT ["prometheus"]\n',
}
LEFT_OUT = "grafana"
# The name of a file with variables follows; it stands for the .env beside the compose file, which is somebody's own.
COMPOSE = (TOOLS / "docker-compose", "-f", FILE, "--env-file")


def read():
    """The file as Docker Compose understands it."""
    return json.loads(run(*COMPOSE, os.devnull, "config", "--format", "json", env=os.environ | {KEY: "a key of sixteen bytes"}))


def check():
    run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", FILE)
    ok("docker-compose.yaml is as the compose specification's schema wants it")
    services = read()["services"]
    ok(f"docker compose config ({run(TOOLS / 'docker-compose', 'version', '--short').strip()}) reads it: {' '.join(services)}")
    done = subprocess.run([*COMPOSE, os.devnull, "config", "--quiet"], capture_output=True, text=True, check=False,
                          env={name: value for name, value in os.environ.items() if name != KEY})
    expect(done.returncode != 0 and KEY in done.stderr, "without a key for gossip it says which variable is missing")
    for name, service in services.items():
        loose = [what for what, held in {
            "read_only": service.get("read_only"), "cap_drop": service.get("cap_drop") == ["ALL"] and not service.get("cap_add"),
            "no-new-privileges": "no-new-privileges:true" in service.get("security_opt", []), "privileged": not service.get("privileged"),
            "mem_limit": service.get("mem_limit"), "cpus": service.get("cpus"), "pids_limit": service.get("pids_limit"),
            "a pinned image": ":" in service["image"].rsplit("/", 1)[-1] and not service["image"].endswith(":latest"),
            "ports on loopback": all(port.get("host_ip") == "127.0.0.1" for port in service.get("ports", [])),
            "a tmpfs for every user": all("mode=1777" in one for one in service.get("tmpfs", [])),
            "no network of the host": service.get("network_mode") is None}.items() if not held]
        missing = [volume["source"] for volume in service.get("volumes", []) if volume["type"] == "bind" and not Path(volume["source"]).exists()]
        open_mounts = [volume["target"] for volume in service.get("volumes", []) if not volume.get("read_only")]
        if loose or missing or open_mounts:
            expect(False, f"service {name} is confined, and what it mounts is there", " ".join([*loose, *missing, *open_mounts]))
    ok("every service: read-only, no capabilities, no new privileges, limits of memory, processors and processes, ports on loopback, "
       "files mounted read-only")


class Machine:
    """A network namespace that plays the machine on which somebody types docker compose."""

    def __init__(self, engine):
        self.engine = engine
        run("ip", "netns", "add", "machine")
        run("ip", "netns", "exec", "machine", "ip", "link", "set", "lo", "up")
        self.host = Host("machine", "127.0.0.1")
        self.socket = engine.folder / "docker.sock"
        with open(engine.folder / "service.log", "w") as log:
            self.service = subprocess.Popen(
                ["nsenter", "--net=/run/netns/machine", "podman", "system", "service", "--time", "0", f"unix://{self.socket}"],
                env=engine.environment, stdout=log, stderr=subprocess.STDOUT)
        wait_until(self.socket.exists, 30, "podman serves Docker's API")
        # By the command that the file's head has for it.
        [make_key] = re.findall(r"^# +(\(umask .*>\.env\))", FILE.read_text(), re.M)
        run("bash", "-euc", make_key, cwd=engine.folder)
        mode = stat.S_IMODE((engine.folder / ".env").stat().st_mode)
        expect(mode == 0o600, f"the nodes' key is made by: {make_key}", f"mode {mode:o}")
        self.environment = {name: value for name, value in engine.environment.items() if name != KEY} | {"DOCKER_HOST": f"unix://{self.socket}"}

    def compose(self, *words):
        return run("nsenter", "--net=/run/netns/machine", *COMPOSE, self.engine.folder / ".env", *words, env=self.environment, cwd=ROOT)

    def get(self, port, path, headers=None):
        return self.host.get(("127.0.0.1", port), path, headers)

    def end(self):
        self.service.terminate()
        self.service.wait()


def make_stand_ins(engine, services):
    for name, text in STAND_INS.items():
        debian, install = base_images()["DEBIAN_IMAGE"], f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {name}"
        engine.build_text(services[name]["image"], f"FROM {debian}\nRUN {install}\n{text}", {})
        skipped(f"{services[name]['image']} itself: there is no registry; Debian's {name} has its name")
    skipped(f"the service {LEFT_OUT}: Debian has no package of it; its files were looked at by the checks of texts")


class Requests:
    """Requests through haproxy, one after the other, until it is told to end."""

    def __init__(self, machine):
        self.machine, self.answers, self.going = machine, [], True
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while self.going:
            try:
                status, body = self.machine.get(8000, "/hello", {"x-piko-endpoint": "demo"})
                self.answers.append("" if status == 200 else f"{time.strftime('%H:%M:%S')} {status} {body[:200]}")
            except OSError as error:
                self.answers.append(f"{time.strftime('%H:%M:%S')} {error}")
            time.sleep(0.02)

    def end(self):
        self.going = False
        self.thread.join()
        return self.answers


def cluster(machine, node):
    """How many nodes a node sees, and in which states."""
    nodes = json.loads(machine.compose("exec", "-T", node, "piko", "server", "status", "cluster", "nodes", "--output", "json"))
    nodes = nodes["nodes"] if isinstance(nodes, dict) else nodes
    return sorted(one["status"] for one in nodes)


def up(machine, path):
    """The states of Prometheus' targets, by their addresses."""
    targets = json.loads(machine.get(9090, path)[1])["data"]["activeTargets"]
    return {one["labels"]["instance"]: one["health"] for one in targets}


def try_demo(engine, image, demo):
    step("docker compose up")
    services = read()["services"]
    engine.run("podman", "tag", image, services["node-1"]["image"])
    engine.run("podman", "tag", demo, services["demo-service"]["image"])
    make_stand_ins(engine, services)
    prometheus = services["prometheus"]
    mounts = [word for volume in prometheus["volumes"] for word in ("--volume", f"{volume['source']}:{volume['target']}:ro")]
    engine.run("podman", "run", "--rm", "--pull", "never", "--network", "none", "--entrypoint", "promtool", *mounts, prometheus["image"],
               "check", "config", "/etc/prometheus/prometheus.yaml")
    ok("promtool is content with docs/examples/compose/prometheus.yaml and the alerts beside it")
    machine = Machine(engine)
    wanted = [name for name in services if name != LEFT_OUT]
    try:
        machine.compose("up", "--no-build", "--detach", *wanted)
        ok(f"docker compose up: {' '.join(wanted)}")
        wait_until(lambda: machine.host.status(("127.0.0.1", 8002), "/ready") == 200, 60, "node-1 is ready")
        wait_until(lambda: cluster(machine, "node-2") == ["active"] * 3, 60, "three nodes in the cluster", lambda: str(cluster(machine, "node-2")))
        ok("the three nodes are one cluster (piko server status cluster nodes, by docker compose exec)")

        def asked():
            try:
                return machine.get(8000, "/hello", {"x-piko-endpoint": "demo"})
            except OSError:
                return None, b""
        status, body = wait_until(lambda: (answer := asked())[0] == 200 and answer, 60, "a request through haproxy",
                                  lambda: machine.compose("logs", "--tail", "5"))
        expect(b"Hello from the demo service" in body,
               "a request is answered: haproxy, a node, the agent (which came through haproxy), the demo service")
        path = "/api/v1/targets?state=active"
        wait_until(lambda: sorted(up(machine, path).values()) == ["up"] * 4, 60, "Prometheus reads the three nodes and the agent",
                   lambda: str(up(machine, path)))
        rules = json.loads(machine.get(9090, "/api/v1/rules")[1])["data"]["groups"]
        expect(rules, f"Prometheus reads all four targets, and has {sum(len(group['rules']) for group in rules)} rules of monitoring/alerts.yaml")
        status, page = machine.get(8002, "/ui/")
        expect(status == 200 and b"<html" in page.lower(), "the page of the admin port is at port 8002, /ui", f"{status} {page[:100]}")
        requests = Requests(machine)
        time.sleep(1)
        begin = time.monotonic()
        # Not "restart": podman's imitation of Docker's API kills a container at once where the request names no time.
        machine.compose("stop", "--timeout", "30", "node-2")
        took = time.monotonic() - begin
        wait_until(lambda: cluster(machine, "node-1").count("active") == 2, 60, "two nodes", lambda: str(cluster(machine, "node-1")))
        machine.compose("start", "node-2")
        wait_until(lambda: cluster(machine, "node-1") == ["active"] * 3, 60, "three nodes again", lambda: str(cluster(machine, "node-1")))
        time.sleep(1)
        answers = requests.end()
        failed = [one for one in answers if one]
        expect(len(answers) > 50 and not failed,
               f"docker compose stop node-2 ({took:.1f} s), docker compose start node-2: of {len(answers)} requests meanwhile none failed",
               "\n".join([*failed[:5], machine.compose("logs", "--no-color", "--timestamps", "--tail", "20")[:4000]]))
        machine.compose("down", "--timeout", "30")
        ok("docker compose down")
    except Failure as failure:
        expect(False, "the demo runs", f"{failure}\n{(engine.folder / 'service.log').read_text()[-1500:]}")
    finally:
        machine.end()
