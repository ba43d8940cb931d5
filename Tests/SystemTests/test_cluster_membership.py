"""Nodes that form a cluster: joining, leaving, dying, coming back; and what each says of the others."""

import os
import re
import signal
import socket
import subprocess
import time

import pytest

from clusters import Balancer, counter, endpoints, get, seen, status, wait_all_active, wait_seen
from peer.http1 import request, wait_until
from programs import BIN, SLOW, Program, descriptors
from test_reload import command


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_three_nodes_join_by_address(clusters):
    nodes = clusters.start(3)
    for node in nodes:
        for one in status(node, "cluster/nodes"):
            other = next(other for other in nodes if other.id == one["id"])
            assert one["proxy_addr"] == f"127.0.0.1:{other.proxy[1]}" and one["admin_addr"] == f"127.0.0.1:{other.admin[1]}"
            assert one["endpoints"] == 0 and one["upstreams"] == 0


def test_join_by_a_list_of_which_some_are_dead(clusters):
    first = clusters.node()
    second = clusters.node(join=[f"127.0.0.1:{free_port()}", first, f"127.0.0.1:{free_port()}"])
    wait_all_active([first, second])


def test_join_by_name(clusters):
    """A name that stands for IPv6 and IPv4 addresses, of which one answers."""
    first = clusters.node()
    second = clusters.node(join=[f"localhost:{first.gossip[1]}"])
    wait_all_active([first, second])


def test_the_default_port_is_the_nodes_own(clusters):
    port = free_port()
    first = clusters.node(gossip=f"127.0.0.1:{port}")
    second = clusters.node(gossip=f"127.0.0.2:{port}", join=["127.0.0.1"])
    wait_all_active([first, second])


def test_names_that_are_made_up(clusters, new_node):
    first = clusters.node()
    other = new_node(workers=1, arguments=["--cluster.node-id-prefix", "web-", "--cluster.join", f"127.0.0.1:{first.gossip[1]}"])
    wait_until(lambda: len(seen(first)) == 2, 10 * SLOW)
    name = next(name for name in seen(first) if name != first.id)
    assert re.fullmatch("web-[a-z0-9]{7}", name)
    assert status(other, "cluster/nodes/local")["id"] == name


def test_endpoints_are_known_everywhere(clusters, tunnel, endpoint):
    nodes = clusters.start(3)
    tunnel(nodes[0])
    tunnel(nodes[0])
    tunnel(nodes[1])
    for node in nodes:
        wait_until(lambda: endpoints(node, "n1") == {endpoint: 2} and endpoints(node, "n2") == {endpoint: 1}, 5 * SLOW,
                   lambda: f"{node.id}: {status(node, 'cluster/nodes')}")
        summary = {one["id"]: (one["endpoints"], one["upstreams"]) for one in status(node, "cluster/nodes")}
        assert summary == {"n1": (1, 2), "n2": (1, 1), "n3": (0, 0)}


def test_an_agent_that_left_is_known_everywhere(clusters, tunnel, peers, endpoint):
    nodes = clusters.start(2)
    agent = tunnel(nodes[0])
    wait_until(lambda: endpoints(nodes[1], "n1") == {endpoint: 1}, 5 * SLOW)
    peers.call(agent.close())
    wait_until(lambda: endpoints(nodes[1], "n1") == {}, 20 * SLOW)


def test_leaving(clusters):
    """A node that ends says goodbye: nobody ever takes it for lost."""
    nodes = clusters.start(3)
    assert nodes[2].stop() == 0
    wait_seen(nodes[:2], {"n1": "active", "n2": "active", "n3": "left"}, 5)
    for node in nodes[:2]:
        assert node.logged("a node is draining", other_node="n3") and node.logged("a node left", other_node="n3")
        assert not node.logged("a node is unreachable")
        known = next(one for one in status(node, "gossip/nodes") if one["id"] == "n3")
        assert known["left"] is True and known["unreachable"] is False and not known["expiry"].startswith("0001")


def test_a_killed_node_is_unreachable(clusters):
    nodes = clusters.start(3)
    nodes[2].kill()
    begin = time.monotonic()
    wait_seen(nodes[:2], {"n1": "active", "n2": "active", "n3": "unreachable"}, 10)
    assert time.monotonic() - begin < 5 * SLOW
    known = next(one for one in status(nodes[0], "gossip/nodes") if one["id"] == "n3")
    assert known["unreachable"] is True and known["left"] is False


@pytest.mark.soak
def test_the_dead_are_forgotten(clusters):
    nodes = clusters.start(4)
    nodes[2].kill()
    assert nodes[3].stop() == 0
    wait_seen(nodes[:2], {"n1": "active", "n2": "active", "n3": "unreachable", "n4": "left"}, 10)
    wait_seen(nodes[:2], {"n1": "active", "n2": "active"}, 75)
    assert status(nodes[0], "cluster/nodes/n3") is None


def test_a_stopped_node_comes_back(clusters, tunnel, endpoint):
    nodes = clusters.start(3)
    tunnel(nodes[2])
    wait_until(lambda: endpoints(nodes[0], "n3") == {endpoint: 1}, 5 * SLOW)
    os.kill(nodes[2].pid, signal.SIGSTOP)
    try:
        wait_seen(nodes[:2], {"n1": "active", "n2": "active", "n3": "unreachable"}, 10)
    finally:
        os.kill(nodes[2].pid, signal.SIGCONT)
    wait_all_active(nodes)
    assert endpoints(nodes[0], "n3") == {endpoint: 1}
    assert not nodes[0].logged("is forgotten")


def test_a_node_returns_under_its_name(clusters, tunnel, endpoint):
    """The new one is not taken for the old one, nor what the old one had for its own."""
    nodes = clusters.start(3)
    port = nodes[2].gossip[1]
    tunnel(nodes[2], judged=False)
    wait_until(lambda: endpoints(nodes[0], "n3") == {endpoint: 1}, 5 * SLOW)
    nodes[2].kill()
    again = clusters.node(id="n3", gossip=f"127.0.0.1:{port}", join=nodes[:1])
    wait_all_active([nodes[0], nodes[1], again])
    for node in (nodes[0], nodes[1], again):
        wait_until(lambda: endpoints(node, "n3") == {}, 5 * SLOW)
    assert status(nodes[0], "cluster/nodes/n3")["proxy_addr"] == f"127.0.0.1:{again.proxy[1]}"


def test_a_node_returns_elsewhere_after_leaving(clusters):
    nodes = clusters.start(2)
    assert nodes[1].stop() == 0
    again = clusters.node(id="n2", join=nodes[:1])
    wait_all_active([nodes[0], again])


def test_two_nodes_of_one_name(clusters):
    first = clusters.node()
    second = clusters.node(join=[first])
    wait_all_active([first, second])
    third = clusters.node(id="n2", join=[first])
    for node in (second, third):
        node.expected_errors.append("another running node has this node's name")
    wait_until(lambda: second.logged("another running node has") or third.logged("another running node has"), 15 * SLOW)


def test_a_join_that_fails_ends_the_server(clusters):
    node = clusters.node(join=[f"127.0.0.1:{free_port()}"], arguments=["--cluster.join-timeout", "1s"], wait=False)
    node.expected_errors.append("no node of cluster.join")
    assert node.wait(20) == 1
    assert node.logged("no node of cluster.join was reached in time; ending")


def test_a_join_that_fails_may_be_no_matter(clusters):
    port = free_port()
    node = clusters.node(join=[f"127.0.0.1:{port}"], arguments=["--cluster.join-timeout", "1s", "--cluster.abort-if-join-fails=false"])
    node.expected_errors.append("no node of cluster.join")
    assert get(node, "/ready").status == 503
    wait_until(lambda: get(node, "/ready").status == 200, 10 * SLOW)
    assert node.logged("goes on alone")
    # And when there is somebody at last, it is found.
    other = clusters.node(gossip=f"127.0.0.1:{port}")
    wait_all_active([node, other], 30)


def test_ready_when_joined(clusters):
    first = clusters.node()
    os.kill(first.pid, signal.SIGSTOP)
    try:
        second = clusters.node(join=[first])
        assert get(second, "/ready").status == 503
        assert seen(second) == {"n2": "active"}
    finally:
        os.kill(first.pid, signal.SIGCONT)
    wait_all_active([first, second])
    wait_until(lambda: get(second, "/ready").status == 200, 3 * SLOW)


def test_a_name_that_means_nobody_yet(clusters):
    """The first node of a name that stands for nodes that are ready: it does not wait for itself."""
    port = free_port()
    node = clusters.node(gossip=f"127.0.0.1:{port}", join=[f"127.0.0.1:{port}"])
    wait_until(lambda: get(node, "/ready").status == 200, 3 * SLOW)
    assert node.logged("joined")


def test_draining_is_known_before_it_begins(clusters, tunnel, endpoint, host):
    nodes = clusters.start(2)
    agent = tunnel(nodes[0])
    wait_until(lambda: endpoints(nodes[1], "n1") == {endpoint: 1}, 5 * SLOW)
    os.kill(nodes[0].pid, signal.SIGTERM)
    wait_until(lambda: seen(nodes[1])["n1"] == "draining", 5 * SLOW)
    # The tunnel is still there, and nobody has asked the agent to go.
    assert endpoints(nodes[1], "n1") == {endpoint: 1}
    assert get(nodes[0], "/ready").status == 503
    assert status(nodes[0], "upstream/endpoints") == {endpoint: 1}
    assert nodes[0].wait() == 0
    draining = nodes[1].logged("a node is draining", other_node="n1")[0]
    left = nodes[1].logged("a node left", other_node="n1")[0]
    assert draining["ts"] < left["ts"]
    assert agent is not None


def test_out_of_use_and_back(clusters):
    nodes = clusters.start(2)
    assert command(nodes[0], "drain")[0] == 0
    wait_seen(nodes, {"n1": "draining", "n2": "active"}, 5)
    assert command(nodes[0], "drain", "--off")[0] == 0
    wait_all_active(nodes, 5)


def test_a_warning_where_anybody_may_join(new_node):
    node = new_node(workers=1, gossip=":0")
    assert node.logged("no cluster.gossip.secret_keys")
    node = new_node(workers=1, gossip=":0", arguments=["--cluster.gossip.secret-keys", "0123456789abcdef"])
    assert not node.logged("no cluster.gossip.secret_keys")
    node = new_node(workers=1)
    assert not node.logged("no cluster.gossip.secret_keys")


def test_the_gossip_port_in_use(new_node):
    node = new_node(workers=1)
    port = node.gossip[1]
    other = Program([BIN / "piko", "server", "--proxy.bind-addr", "127.0.0.1:0", "--upstream.bind-addr", "127.0.0.1:0", "--admin.bind-addr",
                     "127.0.0.1:0", "--cluster.gossip.bind-addr", f"127.0.0.1:{port}", "--server.control-socket",
                     node.control_socket.with_name("other.sock")], name="other")
    assert other.wait() == 1
    assert "cluster.gossip.bind_addr: cannot listen on" in other.log + other.output
    other._finish()


# ---- Reload and upgrade ----

def test_an_upgrade_is_seen_by_nobody(clusters, tunnel, endpoint):
    nodes = clusters.start(3)
    tunnel(nodes[0])
    wait_until(lambda: endpoints(nodes[1], "n1") == {endpoint: 1}, 5 * SLOW)
    lives = [status(node, "gossip/nodes/n1")["version"] for node in nodes]
    marks = [node.mark() for node in nodes]
    for _ in range(3):
        code, text = command(nodes[0], "upgrade")
        assert code == 0, text
    wait_all_active(nodes)
    for node, mark in zip(nodes, marks):
        if node is not nodes[0]:
            assert not node.logged("a node (is|left)", after=mark), node.tail()
        # A session that moves is there twice for a moment.
        wait_until(lambda: endpoints(node, "n1") == {endpoint: 1}, 5 * SLOW)
        assert counter(node, "piko_gossip_suspicions_total") == 0 and counter(node, "piko_gossip_unreachable_total") == 0
    assert [status(node, "gossip/nodes/n1")["version"] for node in nodes] >= lives
    assert not nodes[0].logged("is forgotten|joins anew")
    # The node that went over still hears of others, and others of it.
    tunnel(nodes[1], name=f"{endpoint}-late")
    tunnel(nodes[0], name=f"{endpoint}-later")
    wait_until(lambda: f"{endpoint}-late" in endpoints(nodes[0], "n2"), 5 * SLOW)
    wait_until(lambda: f"{endpoint}-later" in endpoints(nodes[2], "n1"), 5 * SLOW)
    # What it hands over is closed where it was.
    assert sum("UDP" in what or "socket" in what for what in descriptors(nodes[0].pid).values()) < 40


def test_a_whole_cluster_is_upgraded(clusters, tunnel, endpoint):
    nodes = clusters.start(3)
    for node in nodes:
        tunnel(node)
    for node in nodes:
        assert command(node, "upgrade")[0] == 0
    wait_all_active(nodes)
    for node in nodes:
        for other in nodes:
            wait_until(lambda: endpoints(node, other.id) == {endpoint: 1}, 5 * SLOW)
        assert not node.logged("a node is unreachable|a node left|is forgotten")


def test_what_a_reload_can_and_cannot_change(clusters, tmp_path):
    first = clusters.node()
    second = clusters.node()
    path = f"{second.folder.name}/server.yaml"
    # Another one, with a file.
    text = "cluster:\n  join: ['{}']\n  id: {}\n  gossip: {{interval: {}}}\n"
    third = clusters.node(config=text.format(f"127.0.0.1:{first.gossip[1]}", '""', "100ms"))
    wait_all_active([first, third])
    (code, said) = (0, "")
    with open(f"{third.folder.name}/server.yaml", "w") as file:
        file.write(text.format(f"127.0.0.1:{second.gossip[1]}", "other", "200ms"))
    code, said = command(third, "reload")
    assert code == 0, said
    assert "cluster.join" in said and "cluster.id: needs a restart" in said and "cluster.gossip.interval: needs a restart" in said
    # Two clusters that one node knows become one.
    wait_all_active([first, second, third], 15)
    assert path


# ---- Status ----

def test_status_of_gossip(clusters, tunnel, endpoint):
    nodes = clusters.start(2)
    tunnel(nodes[0])
    wait_until(lambda: endpoints(nodes[1], "n1") == {endpoint: 1}, 5 * SLOW)
    known = status(nodes[1], "gossip/nodes")
    assert [one["id"] for one in known] == ["n1", "n2"]
    assert set(known[0]) == {"id", "addr", "version", "left", "unreachable", "expiry"}
    assert known[0]["addr"] == f"127.0.0.1:{nodes[0].gossip[1]}" and known[0]["expiry"] == "0001-01-01T00:00:00Z"
    one = status(nodes[1], "gossip/nodes/n1")
    entries = {entry["key"]: entry for entry in one["Entries"]}
    assert entries[f"endpoint:{endpoint}"]["value"] == "1" and entries["status"]["value"] == "active" and entries["status"]["internal"]
    assert set(entries["proxy_addr"]) == {"key", "value", "version", "internal", "deleted"}
    assert [entry["version"] for entry in one["Entries"]] == sorted(entry["version"] for entry in one["Entries"])
    assert status(nodes[1], "gossip/nodes/local")["id"] == "n2"
    for path in ("gossip/nodes/n9", "cluster/nodes/n9"):
        answer = get(nodes[1], f"/status/{path}")
        assert answer.status == 404 and answer.body == b""


def test_another_node_answers(clusters, tunnel, endpoint):
    nodes = clusters.start(2)
    tunnel(nodes[0])
    assert get(nodes[1], "/status/upstream/endpoints").body == b"{}"
    answer = get(nodes[1], "/status/upstream/endpoints?forward=n1")
    assert (answer.status, answer.body) == (200, f'{{"{endpoint}":1}}'.encode())
    assert answer.get("content-type") == "application/json; charset=utf-8"
    for name in ("n2", "local", ""):
        assert get(nodes[1], f"/status/upstream/endpoints?forward={name}").body == b"{}"
    assert get(nodes[1], "/status/cluster/nodes/local?forward=n1").body.startswith(b'{"id":"n1"')
    assert b"piko_cluster_nodes" in get(nodes[1], "/metrics?forward=n1").body
    assert get(nodes[1], "/health?forward=n1").status == 200
    assert get(nodes[1], "/status/cluster/nodes/n9?forward=n1").status == 404
    for name in ("n9", "127.0.0.1:22", "../n1", "a%2fb"):
        assert get(nodes[1], f"/health?forward={name}").status == 404
    # Ready is what the other one is.
    assert command(nodes[0], "drain")[0] == 0
    wait_until(lambda: get(nodes[1], "/ready?forward=n1").status == 503, 5 * SLOW)
    assert get(nodes[1], "/ready").status == 200


def test_another_node_that_does_not_answer(clusters):
    nodes = clusters.start(2)
    for pid in [nodes[0].pid] + nodes[0].workers():
        os.kill(pid, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        answer = request(nodes[1].admin, target="/health?forward=n1", host="admin", timeout=30 * SLOW)
        assert answer.status == 504 and b"upstream timeout" in answer.body
        assert 10 < time.monotonic() - begin < 20 * SLOW
    finally:
        for pid in nodes[0].workers() + [nodes[0].pid]:
            os.kill(pid, signal.SIGCONT)
    wait_all_active(nodes)
    nodes[0].kill()
    answer = get(nodes[1], "/health?forward=n1")
    assert answer.status == 502 and b"upstream unreachable" in answer.body


def piko(*words):
    return subprocess.run([BIN / "piko", "server", "status", *map(str, words)], capture_output=True, text=True, timeout=30 * SLOW)


def test_commands(clusters, tunnel, endpoint):
    nodes = clusters.start(2)
    tunnel(nodes[0])
    wait_until(lambda: endpoints(nodes[1], "n1") == {endpoint: 1}, 5 * SLOW)
    url = ["--server.url", f"http://127.0.0.1:{nodes[1].admin[1]}"]
    found = piko("cluster", "nodes", "--output", "table", *url)
    assert found.returncode == 0, found.stderr
    rows = [line.split() for line in found.stdout.splitlines()]
    assert rows[0] == ["ID", "STATUS", "PROXY_ADDR", "ADMIN_ADDR", "ENDPOINTS", "UPSTREAMS"]
    assert rows[1] == ["n1", "active", f"127.0.0.1:{nodes[0].proxy[1]}", f"127.0.0.1:{nodes[0].admin[1]}", "1", "1"]
    assert rows[2][0] == "n2" and len(rows) == 3
    assert piko("cluster", "nodes", "--output", "table", "--status", "left", *url).stdout == "nothing\n"
    assert piko("cluster", "node", "n1", "--output", "json", *url).stdout.startswith('{"id":"n1","status":"active"')
    assert f"{endpoint}: 1" in piko("cluster", "node", "n1", *url).stdout.replace('"', "")
    assert piko("cluster", "node", "local", *url).stdout.startswith("id: n2\n")
    assert piko("cluster", "node", "local", "--forward", "n1", *url).stdout.startswith("id: n1\n")
    assert piko("upstream", "endpoints", "--forward", "n1", *url).stdout.replace('"', "") == f"{endpoint}: 1\n"
    assert piko("gossip", "nodes", "--output", "table", *url).stdout.split()[:6] == ["ID", "ADDR", "VERSION", "LEFT", "UNREACHABLE", "EXPIRY"]
    assert f"endpoint:{endpoint}" in piko("gossip", "node", "n1", "--output", "table", *url).stdout
    for words in (["cluster", "node", "n9"], ["gossip", "node", "n9"], ["cluster", "nodes", "--forward", "n9"]):
        found = piko(*words, *url)
        assert found.returncode == 1 and "no such node" in found.stderr, found
    assert piko("cluster", "node", "a/b", *url).returncode == 1
    assert piko("cluster", "nodes", "--status", "dead", *url).returncode == 1


def test_metrics(clusters, tunnel, endpoint):
    nodes = clusters.start(3)
    tunnel(nodes[0])
    wait_until(lambda: endpoints(nodes[1], "n1") == {endpoint: 1}, 5 * SLOW)
    assert counter(nodes[1], "piko_cluster_nodes", status="active") == 3
    assert counter(nodes[1], "piko_gossip_entries", node_id="n1", deleted="false", internal="false") == 4
    for name in ("packet_bytes_inbound", "packet_bytes_outbound", "delta_entries_inbound", "delta_entries_outbound", "connections_outbound",
                 "stream_bytes_inbound", "stream_bytes_outbound"):
        assert counter(nodes[1], f"piko_gossip_{name}_total") > 0, name
    nodes[2].kill()
    wait_until(lambda: counter(nodes[1], "piko_cluster_nodes", status="unreachable") == 1, 10 * SLOW)
    assert counter(nodes[1], "piko_cluster_nodes", status="active") == 2
    text = get(nodes[1], "/metrics").body.decode()
    names = re.findall(r"^# TYPE (\S+) ", text, re.M)
    assert len(names) == len(set(names))


# ---- Rebalancing ----

def test_agents_are_shared_out(clusters, peers, real_agent, service, endpoint):
    """Ten agents at one node, then a second node: half of them go there, by themselves, and nobody misses a request."""
    flags = ["--upstream.rebalance.threshold", "0.2", "--upstream.rebalance.shed-rate", "0.2", "--upstream.rebalance.min-conns", "4"]
    first = clusters.node(arguments=flags)
    balancer = Balancer(peers, [first.upstream])
    one = service()
    for index in range(8):
        real_agent(balancer.address, "http", f"{endpoint}-{index}", f"127.0.0.1:{one.port}", "--access-log.disable")
    second = clusters.node(join=[first], arguments=flags)
    wait_all_active([first, second])
    balancer.targets = [first.upstream, second.upstream]
    wait_until(lambda: 3 <= len(status(second, "upstream/endpoints")) <= 5, 30 * SLOW,
               lambda: f"{status(first, 'upstream/endpoints')} {status(second, 'upstream/endpoints')}")
    assert counter(first, "piko_upstreams_rebalanced_total") >= 3
    total = {**status(first, "upstream/endpoints"), **status(second, "upstream/endpoints")}
    assert len(total) == 8
    balancer.close()


def test_one_node_alone_sheds_nobody(clusters, tunnel, endpoint):
    node = clusters.node(arguments=["--upstream.rebalance.threshold", "0.1", "--upstream.rebalance.min-conns", "0"])
    tunnel(node)
    # Two looks of the rebalancing's.
    wait_until(lambda: counter(node, "piko_loop_turns_total") > 0, 5 * SLOW)
    begin = time.monotonic()
    wait_until(lambda: time.monotonic() - begin > 2.5, 5 * SLOW)
    assert counter(node, "piko_upstreams_rebalanced_total") == 0
    assert status(node, "upstream/endpoints") == {endpoint: 1}


# ---- piko test cluster ----

def test_a_cluster_to_play_with(program, real_agent, service, endpoint, host):
    line = []
    for port in ("proxy", "upstream", "admin"):
        line += [f"--{port}.bind-addr", "127.0.0.1:0"]
    cluster = program("test", "cluster", "--nodes", "3", *line)
    def ports():
        return re.search(r"nodes serve: clients at .*:(\d+), agents at .*:(\d+), admin at .*:(\d+)\n", cluster.output)
    wait_until(ports, 30 * SLOW, lambda: cluster.tail())
    clients, agents, admin = (("127.0.0.1", int(port)) for port in ports().groups())
    real_agent(agents, "http", endpoint, f"127.0.0.1:{service().port}", "--access-log.disable")
    def served():
        return all(request(clients, host=host).status == 200 for _ in range(6))
    wait_until(served, 10 * SLOW)

    class Front:
        pass
    front = Front()
    front.admin = admin
    wait_until(lambda: seen(front) == {f"node-{number}": "active" for number in (1, 2, 3)}, 10 * SLOW)
    cluster.send_signal(signal.SIGHUP)
    wait_until(lambda: len(cluster.logged("^reloaded$")) == 3, 30 * SLOW)
    # One is killed: the others go on.
    victim = next(pid for pid in cluster.children() if b"node-2" in open(f"/proc/{pid}/cmdline", "rb").read())
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: seen(front).get("node-2") == "unreachable", 10 * SLOW)
    wait_until(served, 10 * SLOW)
