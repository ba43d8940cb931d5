"""The `docker run` commands of docs/containers.md, by podman, with every flag that they have: names of images, folders and addresses are
exchanged, and the tmpfs is mounted as Docker mounts it. What podman takes and can't do without the machine's cgroups (--memory,
--pids-limit) is told as not checked."""

import re
import shlex

import life
from engine import ROOT, Container, run
from network import Host
from report import expect, ok, skipped, step

DOCUMENT = ROOT / "docs/containers.md"
NAMED = "registry.example.com/piko:0.1.0"
CONFIG = "grace_period: 20s\nserver: {workers: 2}\n"
LIMITS = ("--memory", "--pids-limit")


def commands():
    """The commands that start a container in the background, by the container's name."""
    text = DOCUMENT.read_text().replace("\\\n", " ")
    found = {}
    for line in re.findall(r"^docker run --detach .*$", text, re.M):
        words = shlex.split(line)
        found[words[words.index("--name") + 1]] = words[1:]
    return found


class Machine:
    """A network namespace that plays the machine on which somebody types the commands."""

    def __init__(self, engine, image):
        self.engine, self.image = engine, image
        run("ip", "netns", "add", "documented")
        run("ip", "netns", "exec", "documented", "ip", "link", "set", "lo", "up")
        self.host = Host("documented", "127.0.0.1")

    def podman(self, *words):
        return self.engine.run("nsenter", "--net=/run/netns/documented", "podman", *words)

    def start(self, words, exchanged):
        """Runs a command of the document."""
        given = []
        for word in words[1:]:
            if given[-1:] == ["--tmpfs"]:
                given[-1:] = life.tmpfs(self.engine, self.image, word)
            else:
                given.append(exchanged.get(word, word))
        name = words[words.index("--name") + 1]
        self.podman(words[0], "--pull", "never", *given)
        return Container(self.engine, name)


def check_kept(container, words):
    """podman has taken what it does not show by itself."""
    flags = " ".join(one for one in words[:words.index(NAMED)] if one.startswith("--") and one not in LIMITS)
    about = container.inspect()
    host, config = about["HostConfig"], about["Config"]
    stop = int(words[words.index("--stop-timeout") + 1])
    expect(config.get("StopTimeout") == stop and host["RestartPolicy"]["Name"] == "unless-stopped" and host["ReadonlyRootfs"],
           f"{container.name}: runs by the document's command, with {flags}",
           f"{config.get('StopTimeout')} {host['RestartPolicy']} {host['ReadonlyRootfs']}")


def check(engine, image, demo):
    step("docs/containers.md: docker run, by podman")
    found = commands()
    machine = Machine(engine, image)
    folder = engine.folder / "etc-piko"
    folder.mkdir()
    (folder / "server.yaml").write_text(CONFIG)
    server = machine.start(found["piko"], {NAMED: image, "/etc/piko:/etc/piko:ro": f"{folder}:/etc/piko:ro"})
    server.wait_line("server ready")
    check_kept(server, found["piko"])
    expect("no control socket" not in server.log and "ready" in server.execute("piko", "server", "info"),
           "a server with Docker's tmpfs over /run/piko has its control socket there; docker exec piko piko server info")
    ports = {port: machine.host.status(("127.0.0.1", port), path) for port, path in ((8000, "/"), (8001, "/"), (8002, "/ready"))}
    expect(all(ports.values()) and ports[8002] == 200, "the ports that --publish names answer at the machine", str(ports))
    machine.podman("network", "create", "NETWORK")
    machine.podman("network", "connect", "NETWORK", "piko")
    machine.podman("run", "--detach", "--pull", "never", "--name", "my-service", "--network", "NETWORK", "--read-only", "--cap-drop", "ALL", demo)
    agent = machine.start(found["piko-agent"], {NAMED: image, "https://piko.example.com:8001": "http://piko:8001"})
    agent.wait_line("connected")
    check_kept(agent, found["piko-agent"])
    status, body = machine.host.get(("127.0.0.1", 8000), "/hello", {"x-piko-endpoint": "my-endpoint"})
    expect(status == 200 and b"Hello from the demo service" in body, "a request at the published port reaches the service by the agent", f"{status}")
    server.signal("HUP")
    server.wait_line("reloaded")
    ok("docker kill --signal HUP piko: the server reads its configuration again")
    machine.podman("stop", "piko-agent")
    machine.podman("stop", "piko")
    codes = {container.name: container.inspect()["State"]["ExitCode"] for container in (server, agent)}
    expect(set(codes.values()) == {0}, "docker stop: both end by themselves, with status 0", str(codes))
    expect(not server.inspect()["State"]["Running"], "and --restart unless-stopped does not start what was stopped")
    machine.podman("rm", "--force", "--time", "0", "piko", "piko-agent", "my-service")
    skipped(f"{' and '.join(LIMITS)}: podman is given them, but limits need the machine's cgroups")
