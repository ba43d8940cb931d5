"""Connections that die without a word, between two hosts of our own: a middlebox forgot them, a cable was pulled."""

import subprocess
import threading
import time

import pytest

import namespaces
from conftest import Service
from peer import agent as agents
from peer import http1
from peer.http1 import request, wait_until
from programs import BIN, SLOW, Node, Program, scaled

MISSING = namespaces.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


@pytest.fixture
def two_hosts():
    with namespaces.hosts() as pair:
        yield pair


@pytest.fixture
def far_away(two_hosts, backend, peers, endpoint):
    """A node on one host, an agent with its service on the other: (server, agent's host, node, agent)."""
    server, far = two_hosts
    recorder = agents.Recorder()

    # The service's sockets are made by the loop's thread: it goes there for a moment.
    service = peers.call(in_namespace(far, Service(recorder)))
    node = Node(backend, workers=1, host=server.address, command=server.command, arguments=["--proxy.timeout", "7s"])
    agent = Program(far.command(BIN / "piko-agent", "agent", "http", endpoint, service.port, "--connect.url",
                                f"http://{server.address}:{node.upstream[1]}", "--io-backend", backend), name="piko agent")
    agent.wait_log("connected")
    yield server, far, node, agent
    assert agent.stop() == 0
    assert node.stop() == 0
    peers.call(service.stop())
    assert recorder.bad == []


async def in_namespace(host, service):
    with host.inside():
        return await service.start()


def ports_of(host, port):
    """The local ports of the host's connections to a port, oldest first as far as the kernel tells."""
    output = subprocess.run(host.command("ss", "-tnH", "state", "established", "dport", "=", f":{port}"), check=True, capture_output=True, text=True).stdout
    return [int(line.split()[2].rpartition(":")[2]) for line in output.splitlines()]


def ask(server, node, host, method="GET", **options):
    with server.inside():
        return request(node.proxy, method, host=host, **options)


def test_forgotten_data_connections(far_away, host):
    """A middlebox drops idle data connections silently. Whoever asks then gets his answer: over the session, within seconds."""
    server, far, node, _ = far_away
    (session,) = ports_of(far, node.upstream[1])
    for _ in range(3):
        assert ask(server, node, host).status == 200
    wait_until(lambda: len(ports_of(far, node.upstream[1])) >= 2, what="a data connection")
    assert ask(server, node, host).status == 200
    data = [port for port in ports_of(far, node.upstream[1]) if port != session]
    # Idle for so long that they are doubtful, but not so long that keep-alive has found them dead.
    time.sleep(5.5)
    for port in data:
        far.drop(port=port)
        server.drop(peer_port=port)
    outcomes = []

    def client(method):
        began = time.monotonic()
        answer = ask(server, node, host, method, body=b"x" if method == "POST" else b"", timeout=25)
        outcomes.append((method, answer.status, time.monotonic() - began))
    threads = [threading.Thread(target=client, args=(method,)) for method in ("GET", "POST", "GET", "PUT")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(status == 200 and took < 8 * SLOW for _, status, took in outcomes), outcomes
    for _ in range(20):
        assert ask(server, node, host).status == 200


def test_cable_pulled_and_put_back(far_away, host):
    """Nothing comes through for a while: no request hangs past its timeout, and afterwards all is as before by itself."""
    server, far, node, agent = far_away
    for _ in range(5):
        assert ask(server, node, host).status == 200
    server.drop()
    far.drop()
    began = time.monotonic()
    answer = ask(server, node, host, timeout=45)
    assert answer.status in (502, 504) and time.monotonic() - began < 12 * SLOW
    time.sleep(scaled(60, 1))
    server.drop(insert=False)
    far.drop(insert=False)
    wait_until(lambda: ask(server, node, host, timeout=45).status == 200, 60 * SLOW, "answers again", every=0.2)
    for _ in range(20):
        assert ask(server, node, host).status == 200
