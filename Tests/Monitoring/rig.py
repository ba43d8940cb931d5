"""A cluster of two nodes with an agent, and enough traffic that every metric that appears only with traffic is there.

Everything is on loopback with ports from the kernel, and ends with us.
"""

import http.client
import json
import re
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Tests" / "SystemTests"))
from peer.http1 import wait_until  # noqa: E402
from programs import BIN, Node, Program  # noqa: E402

AGENT = """
connect:
  url: {url}
server:
  enabled: true
  bind_addr: 127.0.0.1:0
listeners:
  - {{endpoint_id: web, addr: "{service}"}}
  - {{endpoint_id: gone, addr: "127.0.0.1:9"}}
  - {{endpoint_id: raw, addr: "{service}", protocol: tcp}}
"""


def get(url, headers=None, data=None):
    """(status, body); answers that are errors too."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}, data=data), timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def url(address):
    return f"http://{address[0]}:{address[1]}"


class Rig:
    """What runs: `nodes`, `agent`; `scrapes()` are their metrics."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.programs = []

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for program in reversed(self.programs):
            program.kill()

    def program(self, program):
        self.programs.append(program)
        return program

    def start(self):
        first = self.program(Node(arguments=["--cluster.node-id", "one"]))
        second = self.program(Node(arguments=["--cluster.node-id", "two", "--cluster.join", f"{first.gossip[0]}:{first.gossip[1]}"]))
        self.nodes = [first, second]
        for node in self.nodes:
            wait_until(lambda: [one["status"] for one in self.document(node, "/status/cluster/nodes")] == ["active"] * 2, what="a cluster of two")
        service = self.program(Program([BIN / "piko-demo-service", "--listen", "127.0.0.1:0"], name="service"))
        self.service = wait_until(lambda: re.findall(r"127\.0\.0\.1:\d+", service.output), what="the service's port")[0]
        self.agents = [self.program(self.agent(node, index)) for index, node in enumerate(self.nodes[:1])]
        wait_until(lambda: len(self.agents[0].logged("connected")) == 3, what=lambda: f"the agent connected: {self.agents[0].tail()}")
        wait_until(lambda: self.document(second, "/status/cluster/nodes/one")["endpoints"].keys() >= {"web", "gone", "raw"}, what="gossip of endpoints")
        self.forward = self.program(Program([BIN / "piko", "forward", "127.0.0.1:0", "raw", "--connect.url", url(second.proxy)], name="forward"))
        self.traffic()

    def agent(self, node, index):
        path = self.folder / f"agent-{index}.yaml"
        path.write_text(AGENT.format(url=node.upstream_url, service=self.service))
        return Program([BIN / "piko", "agent", "start", "--config.path", path], name="agent")

    def traffic(self):
        """Answers of every kind, on both nodes; one of them reaches the agent over the other."""
        for node in self.nodes:
            for target, headers, data, expected in [
                    ("/", {"x-piko-endpoint": "web"}, None, 200), ("/bytes/100000", {"x-piko-endpoint": "web"}, None, 200),
                    ("/echo", {"x-piko-endpoint": "web"}, b"x" * 2000, 200), ("/", {"x-piko-endpoint": "nobody"}, None, 502),
                    ("/", {"x-piko-endpoint": "gone"}, None, 502), ("/", {}, None, 400)]:
                status, body = get(url(node.proxy) + target, headers, data)
                assert status == expected, f"{target} with {headers}: {status}, not {expected}: {body[:300]}"
        host, port = re.findall(r"(127\.0\.0\.1):(\d+)", self.forward.wait_log("listening")["addr"])[0]
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.request("GET", "/bytes/300000")
        assert len(connection.getresponse().read()) == 300_000
        connection.close()
        with socket.create_connection(self.nodes[0].gossip) as stranger:      # what belongs to nobody is dropped, and counted
            stranger.sendall(b"no gossip")

    @property
    def agent_metrics(self):
        """Where the agent's metrics are."""
        return self.agents[0].wait_log("^listening$", subsystem="server")["addr"]

    @staticmethod
    def document(node, path):
        status, body = get(url(node.admin) + path)
        assert status == 200, f"{path}: {status}"
        return json.loads(body)

    def scrapes(self):
        """{what: text}: of each node and of the agent."""
        texts = {f"server {node.arguments[node.arguments.index('--cluster.node-id') + 1]}": get(url(node.admin) + "/metrics") for node in self.nodes}
        texts["agent"] = get(f"http://{self.agent_metrics}/metrics")
        for what, (status, _) in texts.items():
            assert status == 200, f"{what}: /metrics: {status}"
        return {what: body.decode() for what, (_, body) in texts.items()}
