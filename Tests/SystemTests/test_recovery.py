"""kill -9 of whatever there is: the others recover by themselves, and nothing leaks."""

import json
import os
import signal
import threading
import time

import pytest

from peer import agent as agents
from peer import http1
from peer.http1 import request, response, wait_until
from programs import SLOW, descriptors, scaled


def endpoints(node):
    return json.loads(request(node.admin, target="/status/upstream/endpoints", host="admin").body)


# Data connections that are of no more use go soon; one for each endpoint waits for a while.
SHORT_IDLE = ["--upstream.direct.idle-timeout", "1s"]


def test_one_worker_of_four_under_load(new_node, real_agent, service, endpoint):
    """Requests on other workers unharmed, a new worker within a second, agents back, no leak."""
    node = new_node(workers=4, arguments=SHORT_IDLE)
    node.expected_errors = ["worker"]
    target = service()
    names = [f"{endpoint}-{index}" for index in range(8)]
    started = [real_agent(node.upstream, "http", name, target.port) for name in names]
    wait_until(lambda: len(endpoints(node)) == 8, what="eight endpoints")
    before = node.descriptor_counts()
    stop = threading.Event()
    results = []

    def load(name, number):
        connection = None
        while not stop.is_set():
            try:
                connection = connection or http1.Connection(node.proxy, timeout=10 * SLOW)
                status = connection.request(host=f"{name}.x.y").status
            except (OSError, EOFError):
                status, connection = "cut", None
            results.append((time.monotonic(), f"{name} {number}", status))
    threads = [threading.Thread(target=load, args=(name, number)) for name in names for number in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(results) > 200, 30 * SLOW, "load")
    victim = node.workers()[1]
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in node.workers() and len(node.workers()) == 4, 5 * SLOW, "four workers again")
    assert time.monotonic() - killed < 1.0 * max(1, SLOW) + 0.5
    wait_until(lambda: len(endpoints(node)) == 8 and min(endpoints(node).values()) == 1, 20 * SLOW, lambda: f"all agents back: {endpoints(node)}")
    back = time.monotonic()
    wait_until(lambda: len([row for row in results if row[0] > back + 0.5]) > 200, 30 * SLOW, "load afterwards")
    stop.set()
    for thread in threads:
        thread.join()
    assert all(status == 200 for when, _, status in results if when < killed - 0.1)
    after = [row for row in results if row[0] > back + 0.5]
    assert all(status == 200 for _, _, status in after), [row for row in after if row[2] != 200][:5]
    hurt = {name for when, name, status in results if status != 200}
    assert len(hurt) < 16, f"clients of every worker were hurt: {[row for row in results if row[2] != 200][:20]}"
    assert all(one.process.poll() is None for one in started)
    node.assert_descriptors_return_to(before, more=8)
    new_worker = node.workers()
    assert len(new_worker) == 4


def test_every_worker_in_turn(new_node, real_agent, service, endpoint, host):
    node = new_node(workers=2, arguments=SHORT_IDLE)
    node.expected_errors = ["worker"]
    real_agent(node.upstream, "http", endpoint, service().port)
    before = node.descriptor_counts()
    for _ in range(scaled(20, 4)):
        for victim in node.workers():
            os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(node.workers()) == 2, 10 * SLOW, "two workers")

        def answered():
            try:
                return request(node.proxy, host=host, timeout=2).status == 200
            except (OSError, EOFError):
                return False
        wait_until(answered, 30 * SLOW, "requests are answered again", every=0.05)
    node.assert_descriptors_return_to(before, more=1)


def test_service_killed_and_back(node, real_agent, service, peers, endpoint, host):
    target = service()
    port = target.port
    real_agent(node.upstream, "http", endpoint, port)
    for _ in range(3):
        assert request(node.proxy, host=host).status == 200
        peers.call(target.stop())
        assert request(node.proxy, host=host).status == 502
        target = service(port=port)
        wait_until(lambda: request(node.proxy, host=host).status == 200, what="answers again")


def test_agent_killed(node, real_agent, service, endpoint, host):
    """The server notices at once; the endpoint goes, nothing leaks (the `node` fixture counts); a new agent serves."""
    target = service()
    for _ in range(3):
        agent = real_agent(node.upstream, "http", endpoint, target.port)
        assert request(node.proxy, host=host).status == 200
        agent.kill()
        wait_until(lambda: endpoint not in endpoints(node), what="the endpoint is withdrawn")
    real_agent(node.upstream, "http", endpoint, target.port)
    assert request(node.proxy, host=host).status == 200


def test_requests_wait_for_a_reconnecting_agent(new_node, tunnel, peers, host):
    """proxy.reconnect_wait: a request that comes while the last tunnel has just gone waits for it to come back."""
    node = new_node()
    agent = tunnel(node)
    peers.call(agent.abort())
    answers = []
    thread = threading.Thread(target=lambda: answers.append(request(node.proxy, host=host).status))
    thread.start()
    time.sleep(0.3)
    tunnel(node)
    thread.join(10)
    assert answers == [200]


def test_supervisor_killed(new_node, real_agent, service, endpoint, host):
    """Workers die with the supervisor; a server started again on the same ports has its agents back at once."""
    node = new_node(workers=3)
    agent = real_agent(node.upstream, "http", endpoint, service().port)
    workers = node.workers()
    assert len(workers) == 3
    ports = (node.proxy[1], node.upstream[1], node.admin[1])
    node.kill()                        # checks that no process of it is left
    again = new_node(ports=ports)

    def answered():
        return request(again.proxy, host=host).status == 200
    wait_until(answered, 20 * SLOW, "answers again", every=0.05)
    assert agent.process.poll() is None


def test_client_storm_leaks_nothing(node, tunnel, host):
    """Connections that come and go in every stage: descriptors return (the fixture counts)."""
    tunnel(node)
    for index in range(scaled(5000, 400)):
        client = http1.Connection(node.proxy)
        stage = index % 5
        if stage >= 1:
            client.send("GET / HT")
        if stage >= 2:
            client.send(f"TP/1.1\r\nHost: {host}\r\n\r\n")
        if stage >= 3:
            client.read_response()
        if stage == 4:
            client.reset()
        client.close()
    assert request(node.proxy, host=host).status == 200


def test_workers_that_cannot_start(new_node, backend):
    """Workers that keep dying before READY: the supervisor gives up with one clear message, exit 1. A limit of descriptors that
    is far too low is a real cause."""
    node = new_node(wait=False, descriptors_max=8)
    node.expected_errors = ["."]
    assert node.wait(60) == 1
    assert node.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_ends_cleanly(new_node, tunnel, host, number):
    node = new_node()
    tunnel(node)
    client = http1.Connection(node.proxy)
    assert client.request(host=host).status == 200
    began = time.monotonic()
    assert node.stop(number) == 0
    assert time.monotonic() - began < 10 * SLOW, "an idle keep-alive client must not hold the server"
    client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_the_whole_group(new_node, tunnel, host, number):
    """^C in a terminal and many service managers signal the workers as well: they end when their supervisor says so."""
    node = new_node(before_exec=os.setpgrp)
    tunnel(node, agents.Recorder(), judged=False)
    client = http1.Connection(node.proxy)
    assert client.request(host=host).status == 200
    os.killpg(node.pid, number)
    assert node.wait() == 0
    assert all(line["status"] == "exit code 0" for line in node.logged("worker ended"))
    client.close()


def test_second_sigterm_ends_at_once(new_node, tunnel, host):
    import asyncio

    async def never(stream):
        await asyncio.sleep(600)
    node = new_node()
    tunnel(node, never, judged=False)
    client = http1.Connection(node.proxy)
    client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
    time.sleep(0.2)
    node.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert node.process.poll() is None, "it waits for the running request"
    began = time.monotonic()
    node.send_signal(signal.SIGTERM)
    node.wait(10)
    assert time.monotonic() - began < 5 * SLOW
    client.close()


def test_grace_period_bounds_the_drain(new_node, tunnel, host):
    import asyncio

    async def never(stream):
        await asyncio.sleep(600)
    node = new_node(arguments=["--grace-period", "1s"])
    tunnel(node, never, judged=False)
    client = http1.Connection(node.proxy)
    client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
    time.sleep(0.2)
    began = time.monotonic()
    node.send_signal(signal.SIGTERM)
    node.wait(15)
    assert 0.8 < time.monotonic() - began < 8 * SLOW
    client.close()
