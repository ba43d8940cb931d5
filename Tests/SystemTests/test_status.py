"""What a node tells of itself: its numbers, tunnels, traffic and loops, and that what was counted outlives workers and programs."""

import json
import os
import re
import signal
import subprocess

import pytest

from peer import http1
from peer.http1 import request, wait_until
from programs import BIN, SLOW
from test_admin import metrics
from test_reload import changed, wait_for_generations

once = pytest.mark.parametrize("transport", ["mux"])


def asked(node, path):
    answer = request(node.admin, target=path, host="admin")
    assert answer.status == 200, (path, answer.status, answer.body)
    return json.loads(answer.body)


def get(node, endpoint, target="/small"):
    return request(node.proxy, target=target, host=f"{endpoint}.example.com").status


def traffic(node, endpoint):
    return next((line for line in asked(node, "/status/upstream/traffic") if line["endpoint"] == endpoint), None)


def status(node, *words):
    done = subprocess.run([BIN / "piko", "server", "status", *words, "--server.url", f"http://{node.admin[0]}:{node.admin[1]}"],
                          capture_output=True, text=True, timeout=30 * SLOW)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_tunnel_is_described(node, real_agent, service, endpoint, transport):
    real_agent(node.upstream, "http", endpoint, service().port)
    assert get(node, endpoint) == 200

    def ask():
        """An answer is good for a second, whoever asks."""
        answer = asked(node, "/status/upstream/tunnels")
        assert answer["complete"]
        return [tunnel for tunnel in answer["tunnels"] if tunnel["endpoint"] == endpoint]
    found = wait_until(ask, 5 * SLOW, "the tunnel")
    assert len(found) == 1
    assert re.fullmatch(r"127\.0\.0\.1:\d+", found[0]["agent_addr"]) and found[0]["agent"].startswith("piko/")
    assert found[0]["transport"] == transport and found[0]["since"].startswith("20") and found[0]["bytes_out"] > 0


@once
def test_what_is_counted_outlives_its_process(new_node, real_agent, service, program, endpoint):
    """A worker's kill, a reload, an upgrade: no number falls, and the tunnel is known as it was."""
    node = new_node(workers=2)
    node.expected_errors = ["worker"]
    real_agent(node.upstream, "http", endpoint, service().port)
    for _ in range(10):
        assert get(node, endpoint) == 200
    assert get(node, "nobody-serves-this") == 502
    wait_until(lambda: asked(node, "/status/node")["requests"]["total"] == 11, what="eleven requests")
    tunnel = asked(node, "/status/upstream/tunnels")["tunnels"][0]

    def check():
        now, numbers = asked(node, "/status/node"), metrics(node)
        assert now["requests"]["by_status"] == {"other": 0, "2xx": 10, "3xx": 0, "4xx": 0, "5xx": 1}, now
        assert traffic(node, endpoint)["requests"] == 10 and traffic(node, "nobody-serves-this") is None
        assert numbers[f'piko_endpoint_requests_total{{endpoint="{endpoint}",class="2xx"}}'] == 10
        assert numbers['piko_proxy_requests_total{method="GET",status="200"}'] == 10
        return numbers
    before = check()
    for change in ("reload", "upgrade"):
        changed(node, change)
        wait_for_generations(node, 1)
        wait_until(lambda: asked(node, "/status/upstream/tunnels")["tunnels"], what="the tunnel")
        moved = asked(node, "/status/upstream/tunnels")["tunnels"][0]
        assert [moved[name] for name in ("agent_addr", "agent", "since")] == [tunnel[name] for name in ("agent_addr", "agent", "since")]
        check()
    victims = node.workers()
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(node.workers()) == 2 and not set(victims) & set(node.workers()), 20 * SLOW, "new workers")
    wait_until(lambda: request(node.admin, target="/ready", host="admin").status == 200, 20 * SLOW, "ready")
    after = check()
    assert after["process_cpu_seconds_total"] >= before["process_cpu_seconds_total"]
    assert after["process_resident_memory_bytes"] > 1 << 20 and after["piko_generation"] >= 3


@once
def test_tcp_connections_are_counted_by_endpoint(node, real_agent, real_forward, service, endpoint):
    async def echo(stream):
        await stream.write(await stream.read_exactly(5))
        await stream.finish()
    real_agent(node.upstream, "tcp", endpoint, service(echo).port)
    forward = real_forward(node.proxy, endpoint)
    with http1.Connection(forward.address) as client:
        client.send("hello")
        assert client.read_exactly(5) == b"hello"
    wait_until(lambda: (traffic(node, endpoint) or {}).get("connections") == 1, what="a connection")
    assert traffic(node, endpoint)["bytes_in"] == 5 and traffic(node, endpoint)["bytes_out"] == 5


def test_loops_and_connections(node):
    with http1.Connection(node.proxy) as client:
        client.send("GET / HT")
        wait_until(lambda: any(one["port"] == "proxy" for one in asked(node, "/debug/connections")["connections"]), what="a connection")
    loops = asked(node, "/debug/loops")
    assert loops["complete"] and len(loops["loops"]) == 2
    assert all(sum(loop["turn_counts"]) <= loop["turns"] + 1 and loop["turn_seconds_longest"] > 0 for loop in loops["loops"])
    workers = asked(node, "/status/workers")["workers"]
    assert all(worker["memory_bytes"] > 1 << 20 and worker["state"] == "ready" for worker in workers)


@once
def test_status_commands(clusters, real_agent, service, endpoint):
    """The whole cluster through any of its nodes, once and again and again."""
    first, second = clusters.start(2)
    real_agent(first.upstream, "http", endpoint, service().port)
    wait_until(lambda: get(second, endpoint) == 200, what="a request over both nodes")
    summary = json.loads(status(second, "cluster", "summary", "--output", "json"))
    assert summary["nodes_active"] == summary["nodes_answering"] == 2 and summary["upstreams"] == 1 and summary["requests"] >= 1 and summary["from_nodes"] >= 1
    assert [one["id"] for one in summary["nodes"]] == ["n1", "n2"]
    assert "requests:" in status(second, "node") and endpoint in status(second, "upstream", "traffic", "--output", "table")
    assert endpoint in status(second, "upstream", "tunnels", "--forward", "n1") and "generation" in status(first, "workers")
    watch = subprocess.Popen([BIN / "piko", "server", "status", "node", "--server.url", f"http://{first.admin[0]}:{first.admin[1]}", "--watch",
                              "100ms", "--output", "json"], stdout=subprocess.PIPE, text=True)
    try:
        lines = [json.loads(watch.stdout.readline()) for _ in range(3)]
    finally:
        watch.terminate()
        watch.wait()
        watch.stdout.close()
    assert "requests_per_second" not in lines[0]["requests"] and lines[2]["requests"]["requests_per_second"] >= 0
