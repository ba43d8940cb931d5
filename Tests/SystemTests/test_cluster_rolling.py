"""A cluster behind a load balancer that looks at /ready, under load, while its nodes are drained and started again one after the
other: no request fails. Agents and clients both go through the balancer, as they would in the field."""

import os
import signal
import threading
import time

import pytest

from clusters import Balancer, get, wait_all_active
from peer import http1
from peer.http1 import request, wait_until
from programs import SLOW
from test_cluster_membership import free_port
from test_reload import command


class Health:
    """Looks at every node's /ready, and has the balancers send connections to those that are."""

    def __init__(self, peers, nodes):
        self.nodes = dict(nodes)
        self.proxy, self.upstream = Balancer(peers, []), Balancer(peers, [])
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.look()
        self.thread.start()

    def look(self):
        ready = []
        for node in list(self.nodes.values()):
            try:
                if request(node.admin, target="/ready", host="admin", timeout=2).status == 200:
                    ready.append(node)
            except (OSError, http1.BadMessage, EOFError):
                pass
        self.proxy.targets = [node.proxy for node in ready]
        self.upstream.targets = [node.upstream for node in ready]

    def run(self):
        while not self.over.wait(0.1):
            self.look()

    def stop(self):
        self.over.set()
        self.thread.join()
        self.proxy.close()
        self.upstream.close()


class Clients:
    """Requests one after the other, each over a connection of its own."""

    def __init__(self, address, hosts, count=3):
        self.address, self.hosts = address, hosts
        self.done, self.failures = 0, []
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(index,), daemon=True) for index in range(count)]
        for thread in self.threads:
            thread.start()

    def run(self, index):
        turn = index
        while not self.over.is_set():
            turn += 1
            begin = time.monotonic()
            try:
                answer = request(self.address, host=self.hosts[turn % len(self.hosts)], timeout=30 * SLOW)
                if answer.status != 200:
                    self.failures.append((answer.status, answer.body, time.monotonic() - begin))
            except Exception as error:                                    # whatever it is, it is a failed request
                self.failures.append((repr(error), time.monotonic() - begin))
            self.done += 1
            self.over.wait(0.01)

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(60)
        return self.failures


@pytest.fixture
def field(clusters, peers, real_agent, service, endpoint):
    """Three nodes on ports that stay, their balancers, two agents, clients."""
    ports = {f"n{number}": [free_port() for _ in range(4)] for number in (1, 2, 3)}
    arguments = ["--shutdown-delay", "1s", "--proxy.access-log.disable", "--cluster.gossip.secret-keys", "the key of the cluster"]

    def start(id, others=()):
        own = ports[id]
        return clusters.node(id=id, ports=own[:3], gossip=f"127.0.0.1:{own[3]}", join=others, arguments=arguments)
    nodes = {"n1": start("n1")}
    nodes["n2"] = start("n2", [nodes["n1"]])
    nodes["n3"] = start("n3", [nodes["n1"]])
    wait_all_active(nodes.values())
    health = Health(peers, nodes)
    one = service()
    names = [f"{endpoint}-a", f"{endpoint}-b"]
    for name in names:
        real_agent(health.upstream.address, "http", name, f"127.0.0.1:{one.port}", "--access-log.disable")
    clients = Clients(health.proxy.address, [f"{name}.example.com" for name in names])
    wait_until(lambda: clients.done > 50, 20 * SLOW)

    class Field:
        pass
    field = Field()
    field.nodes, field.health, field.clients, field.start = nodes, health, clients, start
    yield field
    failures = clients.stop()
    health.stop()
    assert failures == [], f"{len(failures)} of {clients.done}: {failures[:3]}"


def progress(field, count=100):
    before = field.clients.done
    wait_until(lambda: field.clients.done > before + count, 30 * SLOW)
    assert field.clients.failures == []


def test_rolling_restart(field):
    for id in ("n1", "n2", "n3"):
        others = [node for name, node in field.nodes.items() if name != id]
        assert field.nodes[id].stop() == 0
        progress(field)
        field.nodes[id] = field.start(id, others)
        field.health.nodes[id] = field.nodes[id]
        wait_all_active(field.nodes.values(), 30)
        wait_until(lambda: get(field.nodes[id], "/ready").status == 200, 10 * SLOW)
        progress(field)


def test_drain_one_after_the_other(field):
    for node in field.nodes.values():
        assert command(node, "drain")[0] == 0
        wait_until(lambda: get(node, "/status/upstream/endpoints").body == b"{}", 30 * SLOW, lambda: get(node, "/status/upstream/endpoints").body)
        progress(field)
        assert command(node, "drain", "--off")[0] == 0
        wait_until(lambda: get(node, "/ready").status == 200, 10 * SLOW)
        progress(field)


def test_upgrade_of_all(field):
    for node in field.nodes.values():
        code, text = command(node, "upgrade")
        assert code == 0, text
        progress(field)
    wait_all_active(field.nodes.values())


def test_a_node_that_dies(field):
    """Only what it held is lost: from some seconds later on nothing fails."""
    victim = field.nodes["n2"]
    os.kill(victim.pid, signal.SIGKILL)
    victim.process.wait(10)
    wait_until(lambda: victim.proxy not in field.health.proxy.targets, 10 * SLOW)
    wait_until(lambda: all(get(field.nodes[id], "/status/cluster/nodes").body.count(b"unreachable") == 1 for id in ("n1", "n3")), 10 * SLOW)
    begin = time.monotonic()
    # Agents that it had find another one; then the count of failures stands still.
    wait_until(lambda: time.monotonic() - begin > 3, 10 * SLOW)
    count = len(field.clients.failures)
    before = field.clients.done
    wait_until(lambda: field.clients.done > before + 200, 30 * SLOW)
    assert len(field.clients.failures) == count, field.clients.failures[count:]
    field.clients.failures = []
