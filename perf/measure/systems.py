"""The systems that are measured against each other. Each leads from a port to the same service, through two hops but for direct.

A system has `port` (where the load connects to) and `roles`: name -> program, whose CPU time is accounted under that name. The
roles `server` and `agent` are what ratios compare: for a peer, the hop beside the client and the hop beside the service. `forward`
is a third process that the load of raw TCP goes through where a user would run it; it is shown, and never part of a comparison.
"""

from pathlib import Path

from .processes import Failure, Program, family, free_port

PEERS = Path(__file__).resolve().parents[1] / "peers"


class System:
    """`scheme`: what is spoken at the port."""

    def __init__(self, name, port, roles, scheme="http"):
        self.name, self.port, self.roles, self.scheme = name, port, roles, scheme
        for program in roles.values():
            program.find_members()

    def check_members(self):
        """Whoever is not accounted for would make a figure too small."""
        for role, program in self.roles.items():
            if family(program.pid) != program.members:
                raise Failure(f"{self.name}: the processes of its {role} changed while it was measured")

    def end(self):
        for program in reversed(list(self.roles.values())):
            program.end()


class Bench:
    """Where systems are made: the run's folder, the built programs, the service, and how many threads a server gets."""

    def __init__(self, folder, binaries, tools, threads):
        self.folder, self.binaries, self.tools, self.threads = Path(folder), Path(binaries), Path(tools), threads
        self.started = 0
        self.service = self.start("service", [self.tools / "service"])
        self.service_port = int(self.service.wait_for(r"^(\d+)\n", self.service.output_path).group(1))

    def start(self, name, command):
        self.started += 1
        return Program(self.folder, f"{self.started:03}-{name}", command)

    # ---- Ours ----

    def start_server(self, workers=None, flags=(), logs=False):
        """A server, without access log unless it `logs`: program, proxy port, upstream port."""
        server = self.start("piko-server", [
            self.binaries / "piko", "server", "--proxy.bind-addr", "127.0.0.1:0", "--upstream.bind-addr", "127.0.0.1:0",
            "--admin.bind-addr", "127.0.0.1:0", "--cluster.gossip.bind-addr", "127.0.0.1:0", "--server.workers", workers or self.threads, *([] if logs else ["--proxy.access-log.disable"]),
            "--server.control-socket", self.folder / f"control-{self.started}.sock", "--grace-period", "1s", *flags])
        line = server.wait_for(r'.*"server ready".*').group(0)
        ports = {}
        for kind in ("proxy", "upstream", "admin"):
            text = line.split(f'"{kind}_addr":"', 1)[1].split('"', 1)[0]
            ports[kind] = int(text.rpartition(":")[2])
        server.find_members()
        server.ports = ports
        return server, ports["proxy"], ports["upstream"]

    def start_agent(self, kind, endpoint, upstream_port, transport="mux"):
        # Without a wait: who measures start-up has its own.
        # As many connections to the service as the peers keep.
        flags = ["--access-log.disable", "--http-client.max-idle-conns", "1024"] if kind == "http" else []
        return self.start("piko-agent", [
            self.binaries / "piko-agent", "agent", kind, endpoint, f"127.0.0.1:{self.service_port}",
            "--connect.url", f"http://127.0.0.1:{upstream_port}", "--connect.transport", transport, "--grace-period", "1s", *flags])

    def piko(self, transport, kind=""):
        """`kind`: "forward" for raw TCP through it; "logged" with the full access log; "scraped", which scenarios do. Else plain."""
        forward = kind == "forward"
        server, proxy_port, upstream_port = self.start_server(logs=kind == "logged")
        agent = self.start_agent("tcp" if forward else "http", "perf", upstream_port, transport)
        agent.wait_for('"connected"')
        roles, port = {"server": server, "agent": agent}, proxy_port
        if forward:
            port = free_port()
            roles["forward"] = self.start("piko-forward", [
                self.binaries / "piko-agent", "forward", f"127.0.0.1:{port}", "perf", "--connect.url", f"http://127.0.0.1:{proxy_port}",
                "--connect.transport", transport])
            roles["forward"].wait_for('"listening"')
        return System(f"piko-{transport}-{kind}" if kind else f"piko-{transport}", port, roles)

    # ---- Peers ----

    def peer_hop(self, name, role, target, threads, **values):
        """One hop from the configuration in peers/. A port can be lost between its choice and its use: then another."""
        program = "haproxy" if name.startswith("haproxy") else "nginx"
        template = next(PEERS.glob(f"{name}.*"))
        for attempt in range(3):
            port = free_port()
            folder = self.folder / f"{name}-{role}-{attempt}"
            folder.mkdir(exist_ok=True, mode=0o777)
            folder.chmod(0o777)    # nginx's workers may run as somebody else
            text = template.read_text()
            for key, value in {"threads": threads, "port": port, "target": target, "folder": folder, **values}.items():
                text = text.replace("{%s}" % key, str(value))
            path = folder / template.name
            path.write_text(text)
            command = [find_program("haproxy"), "-db", "-f", path] if program == "haproxy" else [find_program("nginx"), "-e", "stderr", "-c", path]
            hop = self.start(f"{name}-{role}", command)
            try:
                hop.wait_port(port)
                # nginx listens before its workers are there.
                hop.wait_children(threads if program == "nginx" else 0)
                return hop, port
            except Failure:
                if attempt == 2 or hop.is_running():
                    raise
                hop.end()

    def peer(self, name):
        agent, agent_port = self.peer_hop(name, "agent", self.service_port, 1)
        server, server_port = self.peer_hop(name, "server", agent_port, self.threads)
        return System(name, server_port, {"server": server, "agent": agent})

    def system(self, name):
        if name == "direct":
            return System(name, self.service_port, {})
        if name.startswith("piko-"):
            transport, _, rest = name.removeprefix("piko-").partition("-")
            return self.piko(transport, rest)
        return self.peer(name)


def find_program(name):
    """Debian puts daemons where a user's PATH may not look."""
    for folder in ("/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"):
        if (path := Path(folder) / name).exists():
            return str(path)
    raise Failure(f"{name} is not installed")
