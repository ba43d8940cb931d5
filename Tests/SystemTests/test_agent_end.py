"""SIGTERM to an agent that serves: what runs is finished, nothing is lost, and the bound is kept."""

import signal
import time

import pytest

from agent_life import Load, mirror
from peer import agent as agents
from peer import http1
from peer.http1 import wait_until
from programs import SLOW


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_of_two_under_load(node, real_agent, service, endpoint, host, number):
    """Agents come and go beside one that stays: no request fails, and each exits with 0 as soon as it has finished."""
    port = service(agents.Recorder(mirror)).port
    real_agent(node.upstream, "http", endpoint, port)
    with Load(node.proxy, [host]) as load:
        for _ in range(3):
            other = real_agent(node.upstream, "http", endpoint, port)
            load.more(60)
            began = time.monotonic()
            assert other.stop(number) == 0, other.tail()
            assert time.monotonic() - began < 10 * SLOW, "the grace period is a bound, not a wait"
            load.more(30)


def test_upgraded_connections_are_cut_after_the_grace_period(node, real_agent, service, endpoint, host):
    """An echo over an upgrade goes on while the agent drains, and ends with the grace period; the exit status is 0 all the same."""
    async def handler(stream):
        await stream.read_until(b"\r\n\r\n")
        await stream.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        while data := await stream.read():
            await stream.write(data)
    agent = real_agent(node.upstream, "http", endpoint, service(handler).port, "--grace-period", "1500ms")
    with http1.Connection(node.proxy) as client:
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        assert client.read_response().status == 101
        began = time.monotonic()
        agent.send_signal(signal.SIGTERM)
        agent.wait_log("^draining$")
        for _ in range(5):
            client.send(b"still here")
            assert client.read_exactly(10) == b"still here"
        assert agent.wait() == 0
        assert 1.3 < time.monotonic() - began < 10 * SLOW
        assert client.ends(10 * SLOW)


def test_signals_to_an_ending_agent(node, real_agent, service, endpoint, host):
    """Reload and upgrade have no effect any more, and say so."""
    async def handler(stream):
        await http1.read_message(stream)
        began.append(1)
        await stream.read_to_end()
    began = []
    agent = real_agent(node.upstream, "http", endpoint, service(handler).port, "--grace-period", "20s")
    with http1.Connection(node.proxy) as client:
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
        wait_until(lambda: began, 20 * SLOW, "the request at the service")
        agent.send_signal(signal.SIGTERM)
        agent.wait_log("^draining$")
        for number in (signal.SIGHUP, signal.SIGUSR2):
            mark = agent.mark()
            agent.send_signal(number)
            assert "ending" in agent.wait_log("no effect", after=mark)["reason"]
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(10) == 0
