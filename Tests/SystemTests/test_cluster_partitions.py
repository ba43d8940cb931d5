"""Networks that are cut: two hosts (network namespaces) with nodes on both, and the cable pulled."""

import contextlib
import json
import os
import re
import time

import pytest

import namespaces
from clusters import Load, endpoints, seen
from peer import agent as agents
from peer.background import Background
from peer.http1 import Connection, request, wait_until
from programs import SLOW, metric

REASON = namespaces.missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.fixture
def split(clusters):
    """Two nodes on each of two hosts, and the hosts."""
    with namespaces.hosts() as hosts:
        made = []

        def node(host, join):
            one = clusters.node(join=join, host=host.address, gossip=f"{host.address}:0", command=host.command,
                                arguments=["--cluster.gossip.secret-keys", "the key of the cluster", "--cluster.abort-if-join-fails=false"])
            one.where = host
            made.append(one)
            return one
        first = node(hosts[0], [])
        nodes = [first, node(hosts[1], [first])]
        nodes += [node(hosts[0], [nodes[1]]), node(hosts[1], [first])]
        yield nodes, hosts


def seen_there(node):
    with node.where.inside():
        return seen(node)


def wait_there(nodes, expected, timeout):
    for node in nodes:
        wait_until(lambda: seen_there(node) == expected, timeout * SLOW, lambda: f"{node.id} sees {seen_there(node)}\n{node.tail(20)}")


def cut(hosts, is_cut):
    """Loses everything between the hosts, without a word."""
    for host in hosts:
        host.run("iptables", "-D" if not is_cut else "-I", "INPUT", "-i", "cable", "-j", "DROP")


def everyone(nodes, **others):
    return {node.id: "active" for node in nodes} | others


def test_a_short_partition(split):
    nodes, hosts = split
    wait_there(nodes, everyone(nodes), 15)
    cut(hosts, True)
    wait_there([nodes[0], nodes[2]], everyone(nodes) | {"n2": "unreachable", "n4": "unreachable"}, 15)
    wait_there([nodes[1], nodes[3]], everyone(nodes) | {"n1": "unreachable", "n3": "unreachable"}, 15)
    cut(hosts, False)
    wait_there(nodes, everyone(nodes), 15)


def test_one_way_is_not_enough(split):
    """Packets get there and nothing comes back: each side finds the other unreachable, or neither does; afterwards all is well."""
    nodes, hosts = split
    wait_there(nodes, everyone(nodes), 15)
    hosts[0].run("iptables", "-I", "INPUT", "-i", "cable", "-j", "DROP")
    wait_there([nodes[0], nodes[2]], everyone(nodes) | {"n2": "unreachable", "n4": "unreachable"}, 15)
    hosts[0].run("iptables", "-D", "INPUT", "-i", "cable", "-j", "DROP")
    wait_there(nodes, everyone(nodes), 15)


@pytest.fixture
def agent_at(endpoint, transport):
    """A factory: an agent on a node's host, at that node."""
    loops, made = [], []

    def make(node, body, name=None):
        background, stack = Background(), contextlib.ExitStack()

        async def enter():
            stack.enter_context(node.where.inside())

        async def leave():
            stack.close()
        background.call(enter())
        loops.append((background, leave))
        agent = background.call(agents.Agent.connect(node.upstream, name or endpoint, agents.Recorder(body=body), transport=transport))
        made.append((background, agent))
        return agent
    yield make
    for background, agent in made:
        background.call(agent.close())
    for background, leave in loops:
        background.call(leave())
        background.stop()
    assert [agent.violations + agent.failures for _, agent in made] == [[]] * len(made)


def wait_known(node, endpoint, **listeners):
    def known():
        with node.where.inside():
            return {other: (endpoints(node, other) or {}).get(endpoint, 0) for other in listeners}
    wait_until(lambda: known() == listeners, 15 * SLOW, lambda: f"{node.id}: {known()}, not {listeners}")


@pytest.mark.parametrize("transport", ["direct"])
def test_both_sides_serve_what_they_have(split, agent_at, endpoint):
    """Under load: what has an agent on its side is served there without a failure while the network is cut, and what has one on each
    side from when the others are given up; afterwards each side reaches the other's."""
    nodes, hosts = split
    n1, n2, n3, n4 = nodes
    wait_there(nodes, everyone(nodes), 15)
    left, right, both = f"{endpoint}-left", f"{endpoint}-right", f"{endpoint}-both"
    agent_at(n1, b"left", left)
    agent_at(n2, b"right", right)
    agent_at(n1, b"left", both)
    agent_at(n2, b"right", both)
    for node in (n3, n4):
        wait_known(node, left, n1=1)
        wait_known(node, right, n2=1)
        wait_known(node, both, n1=1, n2=1)

    def load(node, name, method="POST"):
        return Load(node, f"{name}.example.com", method, b"a body" if method == "POST" else b"", count=1, inside=node.where.inside)
    own = [load(node, name) for node, name in ((n1, left), (n3, left), (n2, right), (n4, right))]
    shared = [load(n3, both, "GET"), load(n4, both, "GET")]
    try:
        for one in own + shared:
            one.more(10)
        cut(hosts, True)
        for one in own:
            one.more(20)
        wait_there([n1, n3], everyone(nodes) | {"n2": "unreachable", "n4": "unreachable"}, 15)
        wait_there([n2, n4], everyone(nodes) | {"n1": "unreachable", "n3": "unreachable"}, 15)
        for one in own + shared:
            one.more(20)
        for node, answer in ((n3, b"left"), (n4, b"right")):
            with node.where.inside(), Connection(node.proxy) as client:
                assert {client.request(host=f"{both}.example.com").body for _ in range(20)} == {answer}
        cut(hosts, False)
        wait_there(nodes, everyone(nodes), 15)
        for node, name, answer in ((n1, right, b"right"), (n3, right, b"right"), (n2, left, b"left"), (n4, left, b"left")):
            with node.where.inside(), Connection(node.proxy) as client:
                assert [client.request(host=f"{name}.example.com").body for _ in range(20)] == [answer] * 20
        for one in own + shared:
            one.more(10)
    finally:
        for one in own + shared:
            one.is_over = True
        for one in own + shared:
            one.stop()
    assert [one.failures[:3] for one in own + shared] == [[]] * 6


class Silent:
    """Asks n1 for an endpoint that n2, whose proxy port answers nothing while its gossip lives, and n3 have."""

    def __init__(self, clusters, hosts, agent_at, endpoint):
        nodes = []
        for host in (hosts[0], hosts[1], hosts[1]):
            nodes.append(clusters.node(join=nodes[:1], host=host.address, gossip=f"{host.address}:0", command=host.command,
                                       arguments=["--cluster.gossip.secret-keys", "the key of the cluster"]))
            nodes[-1].where = host
        self.node, n2, n3 = nodes
        hosts[1].run("iptables", "-I", "INPUT", "-i", "cable", "-p", "tcp", "--syn", "--dport", n2.proxy[1], "-j", "DROP")
        # By chance five in six requests are to go to the one that can't be reached.
        for _ in range(5):
            agent_at(n2, b"n2")
        agent_at(n3, b"n3")
        wait_known(self.node, endpoint, n2=5, n3=1)
        self.host = f"{endpoint}.example.com"

    def failed_dials(self):
        return metric(self.node, "piko_proxy_node_dial_failures_total")

    def took(self, client):
        """The time of a request, which n3 has answered."""
        begin = time.monotonic()
        answer = client.request("POST", host=self.host, body=b"a body")
        assert answer.status == 200 and answer.body == b"n3"
        return time.monotonic() - begin

    def first(self, client):
        """The time of the first request that was to go to n2."""
        for _ in range(100):
            longest = self.took(client)
            if self.failed_dials():
                return longest
        raise AssertionError("n2 was never chosen")


@pytest.fixture
def silent(clusters, agent_at, endpoint):
    with namespaces.hosts() as hosts:
        one = Silent(clusters, hosts, agent_at, endpoint)
        with one.node.where.inside():
            yield one


def test_defect_23_a_node_whose_proxy_port_answers_nothing(silent):
    """Nobody gives the node up: a request that is to go there goes to the other one within the time of a dial, 5 s, and those
    after it go there at once, for the second in which the first is avoided."""
    with Connection(silent.node.proxy, timeout=20 * SLOW) as client:
        longest = silent.first(client)
        assert 4 < longest < 5 + 1.5 * SLOW, longest
        avoided, later = time.monotonic() + 0.5, []
        while time.monotonic() < avoided:
            later.append(silent.took(client))
        assert len(later) >= 5 and max(later) < 0.5 * SLOW, later
    assert silent.failed_dials() == 1
    assert seen(silent.node) == {"n1": "active", "n2": "active", "n3": "active"}
    assert metric(silent.node, "piko_gossip_unreachable_total") == 0


@pytest.mark.parametrize("transport", ["direct"])
def test_defect_23_it_costs_no_second_wait(silent):
    """Once it was found that it answers nothing, no client waits for it again while another node has the endpoint."""
    with Connection(silent.node.proxy, timeout=20 * SLOW) as client:
        silent.first(client)
        end = time.monotonic() + 2
        client.socket.settimeout(1.5 * SLOW)
        while time.monotonic() < end:
            silent.took(client)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_defect_14_a_partition_of_90_seconds(split, endpoint):
    """Longer than it takes to forget a node: afterwards all find each other again, by themselves."""
    nodes, hosts = split
    wait_there(nodes, everyone(nodes), 15)
    cut(hosts, True)
    wait_there([nodes[0], nodes[2]], {"n1": "active", "n3": "active"}, 90)
    wait_there([nodes[1], nodes[3]], {"n2": "active", "n4": "active"}, 30)
    cut(hosts, False)
    wait_there(nodes, everyone(nodes), 60)
    for node in nodes:
        with node.where.inside():
            text = request(node.admin, target="/status/cluster/nodes", host="admin").body
        assert len(json.loads(text)) == 4
        assert not [line for line in node.logged(level="error") if not re.search("cluster.join", line["msg"])]
    assert os.geteuid() == 0 and endpoint
