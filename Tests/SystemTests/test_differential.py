"""The short form of the differential grid (Tests/Differential, script/differential): nothing reaches the service through us that haproxy or
nginx refuses, unless a section of the RFC lets it. Skipped where they are not installed."""

import sys
from pathlib import Path

import pytest

from programs import scaled

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Differential"))

import cases  # noqa: E402
import grid  # noqa: E402
import proxies  # noqa: E402

pytestmark = pytest.mark.skipif(not (proxies.HAPROXY and proxies.NGINX), reason="haproxy and nginx: script/differential installs them")


@pytest.fixture
def all_proxies(backend):
    running = []
    try:
        for start in (proxies.haproxy, proxies.nginx, lambda: proxies.piko(backend)):
            running.append(start())
        yield running
    finally:
        for proxy in running:
            proxy.stop()


def test_differential_listed(all_proxies):
    findings = []
    for name, text in cases.listed():
        grid.check(all_proxies, name, text, lambda *finding: findings.append(finding))
    assert not findings, findings


def test_differential_generated(all_proxies, backend):
    findings = []
    for index in range(scaled(5_000, 300)):
        name, text = cases.generated(f"everyday {backend}", index)
        grid.check(all_proxies, name, text, lambda *finding: findings.append(finding))
    assert not findings, findings


def test_differential_sees_what_it_should(all_proxies):
    """The grid itself: sound requests reach all three services, and each of the refusals is seen as one."""
    outcomes = grid.run(all_proxies, *cases.listed()[0])
    assert [outcomes[name].count for name in ("haproxy", "nginx", "piko")] == [1, 1, 1], outcomes
    outcomes = grid.run(all_proxies, "control", "GET /{id}\x01 HTTP/1.1\r\nHost: e.example.com\r\n\r\n")
    assert [outcome.count for outcome in outcomes.values()] == [0, 0, 0], outcomes
    passed = grid.Outcome(reached=[("request", "GET", "/a", b"")])
    assert grid.judge({"haproxy": grid.Outcome(), "nginx": passed, "piko": passed}, "GET /a HTTP/1.1")
    assert not grid.judge({"haproxy": passed, "nginx": passed, "piko": grid.Outcome()}, "GET /a HTTP/1.1")
    other = grid.Outcome(reached=[("request", "GET", "/a", b"x")])
    assert grid.judge({"haproxy": other, "nginx": passed, "piko": passed}, "GET /a HTTP/1.1")
