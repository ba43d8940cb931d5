"""The direct transport under faults: data connections that are cut, agents that freeze, pools that run out. No wrong byte is ever
delivered, no request outlives its time, and what may be repeated is repeated. Lost packets: test_lost_packets.py."""

import asyncio
import os
import random
import signal
import threading
import time

import pytest

from peer import agent as agents
from peer import http1
from peer.http1 import request, response, wait_until
from programs import SLOW, metric, scaled


@pytest.fixture
def transport():
    return "direct"


def test_cut_in_the_middle_of_an_exchange(node, tunnel, host):
    """The data connection is reset before the answer, in its head, in its body: a request that may be repeated is repeated as
    long as nothing was answered; what was begun is never completed wrongly."""
    plan = []

    async def handler(stream):
        while True:
            await http1.read_message(stream)
            step = plan.pop(0) if plan else "fine"
            if step == "unanswered":
                await stream.reset()
                return
            if step == "in the head":
                await stream.write(b"HTTP/1.1 200 OK\r\nContent-Le")
                await asyncio.sleep(0.05)
                await stream.reset()
                return
            if step == "in the body":
                await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"b" * 300_000)
                await asyncio.sleep(0.05)
                await stream.reset()
                return
            await stream.write(response(body=b"fine"))
    tunnel(node, handler, judged=False)
    for method, step, wanted in (("GET", "unanswered", 200), ("GET", "in the head", 200), ("POST", "unanswered", 502), ("GET", "in the body", "cut")):
        plan[:] = [step]
        with http1.Connection(node.proxy, timeout=10 * SLOW) as client:
            try:
                answer = client.request(method, host=host, body=b"x" if method == "POST" else b"")
                outcome = answer.status
                assert answer.status != 200 or answer.body == b"fine"
            except (OSError, EOFError):
                outcome = "cut"
        assert outcome == wanted, (method, step)


def test_frozen_agent(new_node, real_agent, service, endpoint, host):
    """SIGSTOP: no request outlives proxy.timeout, and when the agent goes on everything is as before."""
    node = new_node(arguments=["--proxy.timeout", "1s"])
    agent = real_agent(node.upstream, "http", endpoint, service().port)
    for _ in range(5):
        assert request(node.proxy, host=host).status == 200
    os.kill(agent.pid, signal.SIGSTOP)
    frozen = time.monotonic()
    try:
        while time.monotonic() - frozen < scaled(20, 4):
            began = time.monotonic()
            assert request(node.proxy, host=host, timeout=20).status in (502, 504)
            assert time.monotonic() - began < 5 * SLOW
    finally:
        os.kill(agent.pid, signal.SIGCONT)
    wait_until(lambda: request(node.proxy, host=host).status == 200, 30 * SLOW, "answers again", every=0.1)
    for _ in range(20):
        assert request(node.proxy, host=host).status == 200


def test_exhausted_pool_never_waits(new_node, real_agent, service, endpoint, host):
    """More requests at once than there may be data connections: the rest goes through the session."""
    node = new_node(arguments=["--upstream.direct.max-connections", "3", "--upstream.direct.max-idle", "2"])

    async def respond(seen):
        await asyncio.sleep(0.2)
        return response(body=seen.target.encode())
    real_agent(node.upstream, "http", endpoint, service(agents.Recorder(respond)).port)
    outcomes = []

    def client(number):
        for turn in range(5):
            answer = request(node.proxy, target=f"/{number}-{turn}", host=host, timeout=20 * SLOW)
            outcomes.append(answer.status == 200 and answer.body == f"/{number}-{turn}".encode())
    threads = [threading.Thread(target=client, args=(number,)) for number in range(40)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 200
    assert time.monotonic() - began < 10 * SLOW
    assert metric(node, "piko_direct_connections") <= 6


def test_random_faults_never_deliver_a_wrong_byte(node, tunnel, peers, endpoint, host):
    """Data connections are cut at random while bodies of every size go both ways."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)

    def respond(seen):
        return response(body=seen.body)
    agent = tunnel(node, agents.Recorder(respond), judged=False)
    tunnel(node, agents.Recorder(respond), judged=False)
    stop, wrong, counts = threading.Event(), [], {"whole": 0, "cut": 0}

    def client(number):
        generator = random.Random(seed + number)
        connection = None
        while not stop.is_set():
            body = generator.randbytes(generator.choice([1, 1000, 70_000, 700_000]))
            try:
                connection = connection or http1.Connection(node.proxy, timeout=20 * SLOW)
                answer = connection.request("POST", host=host, body=body)
                if answer.status == 200 and answer.body != body:
                    wrong.append((len(body), len(answer.body)))
                counts["whole"] += answer.status == 200
            except (OSError, EOFError, http1.BadMessage):
                counts["cut"] += 1
                connection = None
    threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()

    async def cut_one():
        if agent.pool.writers:
            chance.choice(list(agent.pool.writers)).transport.abort()
        await agent.pool.fill()
    end = time.monotonic() + scaled(60, 4)
    while time.monotonic() < end:
        time.sleep(0.05)
        peers.call(cut_one())
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == [] and counts["whole"] > 20, (seed, wrong, counts)
