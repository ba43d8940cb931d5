"""Networks that are cut: two hosts (network namespaces) with nodes on both, and the cable pulled."""

import json
import os
import re

import pytest

import namespaces
from clusters import seen
from peer.http1 import request, wait_until
from programs import SLOW

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
