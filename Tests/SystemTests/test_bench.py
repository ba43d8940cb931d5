"""`piko bench http` against a real server: what it says, and its exit status."""

import re

import pytest

from programs import metric


def run(program, node, backend, transport, *arguments):
    bench = program("bench", "http", "--connect.proxy-url", node.proxy_url, "--connect.upstream-url", node.upstream_url, "--io-backend", backend,
                    "--connect.transport", "auto" if transport == "direct" else "mux", *arguments)
    status = bench.wait(60)
    return status, bench.output


@pytest.mark.parametrize("size", [0, 1000, 300_000])
def test_counts_what_it_asked(node, program, backend, transport, size):
    before = metric(node, "piko_proxy_requests_total")
    status, output = run(program, node, backend, transport, "--requests", "300", "--clients", "7", "--endpoints", "3", "--upstreams", "5", "--size", str(size))
    assert status == 0, output
    assert re.search(r"^Requests: +300 in [0-9.]+ s", output) and re.search(r"^Throughput: [0-9]+ requests/sec", output, re.M)
    assert re.search(r"^Latency: +p50 [0-9.]+ ms  p90 [0-9.]+ ms  p99 [0-9.]+ ms  p99.9 [0-9.]+ ms  max [0-9.]+ ms$", output, re.M)
    assert metric(node, "piko_proxy_requests_total") - before == 300


def test_server_that_is_not_there(program, backend):
    bench = program("bench", "http", "--connect.upstream-url", "http://127.0.0.1:1", "--connect.timeout", "300ms", "--io-backend", backend)
    bench.expected_errors = ["connect failed"]
    assert bench.wait(20) == 1
    assert "upstreams could not connect within 300ms" in bench.output
