"""The admin port: health, readiness, metrics, status; and the commands for people that ask it."""

import json
import re
import signal
import subprocess
import threading

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from peer import agent as agents
from peer import http1
from peer.http1 import request, response, wait_until
from programs import BIN, SLOW


def get(node, target, method="GET"):
    return request(node.admin, method, target, host="admin.local")


def metrics(node):
    """{name{labels}: value} of /metrics, with the text format checked on the way."""
    answer = get(node, "/metrics")
    assert answer.status == 200 and answer.get("content-type").startswith("text/plain")
    values, types = {}, {}
    for line in answer.body.decode().splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in types, f"two TYPE lines for {name}"
            types[name] = kind
        elif line and not line.startswith("#"):
            match = re.match(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[^}]*\})? (-?[0-9.e+-]+|NaN|\+Inf)$', line)
            assert match, line
            family = re.sub(r"_(bucket|sum|count)$", "", match[1])
            assert match[1] in types or family in types, f"no TYPE for {match[1]}"
            key = match[1] + (match[2] or "")
            assert key not in values, f"twice: {key}"
            values[key] = float(match[3])
    return values


def test_open_metrics(node, tunnel, host):
    """What Prometheus asks for first, read by another's parser, says the same as the plain text."""
    tunnel(node)
    assert request(node.proxy, target="/", host=host).status == 200
    with http1.Connection(node.admin) as client:
        client.send("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text;version=1.0.0,text/plain;q=0.3\r\n\r\n")
        answer = client.read_response()
    assert answer.status == 200 and answer.get("content-type").startswith("application/openmetrics-text; version=1.0.0")
    families = list(text_string_to_metric_families(answer.body.decode()))
    names = {sample.name for family in families for sample in family.samples}
    assert {name.split("{")[0] for name in metrics(node)} == names
    assert answer.body.endswith(b"# EOF\n")


def test_health_and_ready(node):
    for target in ("/health", "/ready"):
        answer = get(node, target)
        assert answer.status == 200 and answer.body == b""
        assert get(node, target, "HEAD").status == 200


def test_keep_alive_and_unknown_paths(node):
    with http1.Connection(node.admin) as client:
        for target in ("/health", "/nothing-here", "/status", "/ready", "/status/upstream/nothing"):
            assert client.request(target=target, host="x").status in (200, 404)


@pytest.mark.parametrize("target", ["/status/cluster/nodes/..%2f..%2fetc", "//health", "/%00", "/status//upstream/endpoints", "/../etc/passwd", "/metrics/../../x"])
def test_row_37_paths(node, target):
    assert get(node, target).status in (301, 307, 308, 400, 404)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "TRACE", "BREW"])
def test_row_37_verbs(node, method):
    assert get(node, "/health", method).status in (404, 405, 501)


def test_status_upstream_endpoints(node, tunnel, peers, endpoint):
    first, second = tunnel(node), tunnel(node)
    other = tunnel(node, name=endpoint + "-other")
    wait_until(lambda: json.loads(get(node, "/status/upstream/endpoints").body).get(endpoint) == 2, what="two tunnels")
    answer = get(node, "/status/upstream/endpoints")
    assert answer.get("content-type").startswith("application/json")
    assert json.loads(answer.body)[endpoint + "-other"] == 1
    peers.call(first.close())
    wait_until(lambda: json.loads(get(node, "/status/upstream/endpoints").body).get(endpoint) == 1, what="one tunnel")
    peers.call(second.close())
    wait_until(lambda: endpoint not in json.loads(get(node, "/status/upstream/endpoints").body), what="none")


def test_status_with_many_endpoints(new_node, tunnel, endpoint):
    node = new_node()
    names = [f"{endpoint}-{index}-{'n' * 50}" for index in range(300)]
    for name in names:
        tunnel(node, name=name)
    assert json.loads(get(node, "/status/upstream/endpoints").body) == dict.fromkeys(names, 1)


def test_metrics_count(new_node, tunnel, peers, endpoint, host):
    node = new_node()
    release = threading.Event()

    async def respond(seen):
        if seen.target == "/wait":
            import asyncio
            while not release.is_set():
                await asyncio.sleep(0.01)
        return response(500 if seen.target == "/500" else 200, "X", body=b"b" * 1000)
    agent = tunnel(node, agents.Recorder(respond))
    for _ in range(7):
        request(node.proxy, host=host)
    for _ in range(2):
        request(node.proxy, "POST", "/500", host=host, body=b"a" * 500)
    request(node.proxy, host="nobody.x.y")
    with http1.Connection(node.proxy) as client:
        client.send(f"GET /wait HTTP/1.1\r\nHost: {host}\r\n\r\n")
        wait_until(lambda: metrics(node).get("piko_proxy_requests_in_flight") == 1, what="one request in flight")
        release.set()
        client.read_response()

    def settled():
        values = metrics(node)
        return values if values.get('piko_proxy_requests_total{status="200",method="GET"}', values.get('piko_proxy_requests_total{method="GET",status="200"}')) == 8 else None
    values = wait_until(settled, what=lambda: f"eight requests counted: {metrics(node)}")

    def total(name, **labels):
        return sum(value for key, value in values.items() if key.split("{")[0] == name and all(f'{label}="{text}"' in key for label, text in labels.items()))
    assert total("piko_proxy_requests_total", status="500", method="POST") == 2
    assert total("piko_proxy_requests_total", status="502") == 1
    assert total("piko_proxy_requests_in_flight") == 0
    assert total("piko_proxy_request_latency_seconds_count") == 11
    assert total("piko_proxy_request_size_bytes_count") == 11
    assert total("piko_proxy_response_size_bytes_sum") >= 10_000
    assert total("piko_upstreams_connected_upstreams") == 1 and total("piko_upstreams_registered_endpoints") == 1
    assert total("piko_upstreams_upstream_requests_total") == 10
    for name in ("latency_seconds", "size_bytes"):
        name = "piko_proxy_request_" + name
        buckets = {}
        for key, value in values.items():
            if key.startswith(name + "_bucket"):
                labels = re.sub(r'le="[^"]*",?|,?le="[^"]*"', "", key)
                buckets.setdefault(labels, []).append((float(re.search(r'le="([^"]*)"', key)[1].replace("+Inf", "inf")), value))
        assert buckets
        for rows in buckets.values():
            assert [value for _, value in sorted(rows)] == sorted(value for _, value in rows), "buckets are cumulative"
            assert max(rows)[0] == float("inf")
    peers.call(agent.close())
    wait_until(lambda: metrics(node).get("piko_upstreams_connected_upstreams") == 0 and metrics(node).get("piko_upstreams_registered_endpoints") == 0, what="gauges back at 0")


def test_row_41_labels_are_bounded(new_node, tunnel, host):
    """A client can't make series without end."""
    node = new_node()
    tunnel(node)
    with http1.Connection(node.proxy) as client:
        for index in range(500):
            client.request(f"M{index}", host=host)
    series = [key for key in metrics(node) if key.startswith("piko_proxy_requests_total")]
    assert len(series) < 300, len(series)


def test_counters_outlive_a_worker(new_node, tunnel, host):
    """The counters are in shared memory: a killed worker's requests stay counted, its gauges are dropped."""
    import os
    node = new_node(workers=2)
    node.expected_errors = ["worker"]
    tunnel(node)
    for _ in range(20):
        request(node.proxy, host=host)

    def total():
        return sum(value for key, value in metrics(node).items() if key.startswith("piko_proxy_requests_total"))
    wait_until(lambda: total() == 20, what="20 requests counted")
    for pid in node.workers():
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in node.workers() and len(node.workers()) == 2, what="a new worker")
        wait_until(lambda: total() == 20, 10, lambda: f"still 20: {total()}")
    wait_until(lambda: metrics(node).get("piko_upstreams_connected_upstreams") == 0, what="the gauge follows")


def test_server_status_command(node, tunnel, endpoint):
    tunnel(node)
    run = subprocess.run([BIN / "piko", "server", "status", "upstream", "endpoints", "--server.url", f"http://{node.admin[0]}:{node.admin[1]}"],
                         capture_output=True, text=True, timeout=20 * SLOW)
    assert run.returncode == 0, run.stderr
    import yaml
    assert yaml.safe_load(run.stdout)[endpoint] == 1
    run = subprocess.run([BIN / "piko", "server", "status", "upstream", "endpoints", "--server.url", "http://127.0.0.1:1"], capture_output=True, text=True, timeout=20 * SLOW)
    assert run.returncode == 1 and run.stderr + run.stdout


def test_ready_goes_false_while_draining(new_node, tunnel, host):
    """SIGTERM: readiness is false while the running request is finished; then exit 0."""
    import asyncio
    release = threading.Event()

    async def respond(seen):
        while not release.is_set():
            await asyncio.sleep(0.01)
        return response(body=b"drained")
    node = new_node()
    tunnel(node, agents.Recorder(respond))
    client = http1.Connection(node.proxy)
    client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
    wait_until(lambda: metrics(node).get("piko_proxy_requests_in_flight") == 1, what="the request in flight")
    node.send_signal(signal.SIGTERM)

    def not_ready():
        try:
            return get(node, "/ready").status == 503
        except OSError:
            return True
    wait_until(not_ready, what="readiness false")
    release.set()
    assert client.read_response().body == b"drained"
    assert node.wait() == 0
    client.close()
