"""Limits that keys set, each with what happens beyond it and the counter that says so (docs/limits.md). Those of connections are in
test_access.py."""

import threading
import time

import pytest

from peer import agent as agents
from peer import http1
from peer.http1 import request, response, wait_until
from programs import SLOW, metric


def answered(node, wire, **options):
    with http1.Connection(node.proxy, timeout=20 * SLOW, **options) as client:
        client.send(wire)
        return client.read_response()


def test_limit_head_bytes_and_headers(new_node, tunnel, host):
    node = new_node(config="proxy:\n  http:\n    max_header_bytes: 2048\n    max_headers: 20\n")
    recorder = agents.Recorder()
    tunnel(node, recorder)
    assert request(node.proxy, host=host, headers=[("X", "a" * 1500)]).status == 200
    assert request(node.proxy, host=host, headers=[(f"X-{index}", "1") for index in range(19)]).status == 200
    assert request(node.proxy, host=host, headers=[("X", "a" * 2048)]).status == 431
    assert request(node.proxy, host=host, headers=[(f"X-{index}", "1") for index in range(20)]).status == 431
    assert len(recorder.requests) == 2
    assert metric(node, "piko_proxy_request_head_errors_total") == 2


def slow_upload(node, host, interval, count, chunked=False, size=1):
    """A body of so many pieces, one each interval: the answer's status, and how long it took."""
    field = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {count * size}"
    with http1.Connection(node.proxy, timeout=30 * SLOW) as client:
        started = time.monotonic()
        client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\n{field}\r\n\r\n")
        stop = threading.Event()

        def write():
            try:
                for _ in range(count):
                    client.send(http1.chunk(b"x" * size) if chunked else b"x" * size)
                    if stop.wait(interval):
                        return
                if chunked:
                    client.send(b"0\r\n\r\n")
            except OSError:
                pass
        writer = threading.Thread(target=write)
        writer.start()
        try:
            return client.read_response("POST").status, time.monotonic() - started
        finally:
            stop.set()
            writer.join()


@pytest.mark.parametrize("chunked", [False, True])
def test_limit_body_rate(new_node, tunnel, host, chunked):
    """A body that brings less than it has to is cut; one that is slow, but not as slow as that, takes its time."""
    node = new_node(config="proxy:\n  timeout: 1s\n  http:\n    read_timeout: 1s\n    min_body_rate: 100\n")
    recorder = agents.Recorder()
    tunnel(node, recorder)
    status, seconds = slow_upload(node, host, 0.1, 1_000, chunked)
    assert status == 408 and seconds < 10 * SLOW
    assert metric(node, "piko_proxy_requests_too_slow_total") == 1
    status, seconds = slow_upload(node, host, 0.1, 40, chunked, size=50)
    assert status == 200 and seconds > 3.5
    assert recorder.requests[-1].body == b"x" * 2_000
    assert metric(node, "piko_proxy_requests_too_slow_total") == 1


@pytest.mark.parametrize("size", [1_000, 200_000])
def test_slow_bodies_are_cut_before_the_answer_is_due(new_node, tunnel, host, size):
    """However long the service may take to answer, and whether the body is pumped or not."""
    node = new_node(config="proxy:\n  timeout: 60s\n  http:\n    read_timeout: 1s\n    min_body_rate: 100\n")
    tunnel(node, agents.Recorder())
    # At the end of the first stretch a single byte is too few; that nothing came may be seen then, or later.
    for pieces, reasons in ((100, [b"too slowly"]), (1, [b"too slowly", b"no progress"])):
        with http1.Connection(node.proxy, timeout=30 * SLOW) as client:
            client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\n\r\n")
            started = time.monotonic()
            sender = threading.Thread(target=trickle, args=(client, pieces))
            sender.start()
            answer = client.read_response("POST")
            assert answer.status == 408 and any(reason in answer.body for reason in reasons)
            assert time.monotonic() - started < 10 * SLOW
            sender.join()


def trickle(client, pieces):
    try:
        for _ in range(pieces):
            client.send(b"x")
            time.sleep(0.1)
    except OSError:
        pass


def test_limit_body_rate_is_off_by_default(new_node, tunnel, host):
    node = new_node(config="proxy:\n  timeout: 1s\n  http:\n    read_timeout: 1s\n")
    tunnel(node, agents.Recorder())
    status, seconds = slow_upload(node, host, 0.2, 15)
    assert status == 200 and seconds > 2.5


def test_limit_body_rate_does_not_concern_responses(new_node, tunnel, host):
    """A long response, and an event stream, while the client has nothing more to say."""
    import asyncio
    node = new_node(config="proxy:\n  timeout: 1s\n  http:\n    read_timeout: 1s\n    write_timeout: 1s\n    min_body_rate: 1000000\n")

    async def handler(stream):
        await http1.read_message(stream)
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for index in range(8):
            await stream.write(b"data: %d\n\n" % index)
            await asyncio.sleep(0.5)
        await stream.finish()
    tunnel(node, handler)
    answer = request(node.proxy, "POST", host=host, body=b"short", timeout=30 * SLOW)
    assert answer.body.count(b"data: ") == 8


def test_limit_tunnels(new_node, tunnel, peers, host):
    node = new_node(config="upstream:\n  limits:\n    max_tunnels: 2\n  direct:\n    enabled: false\n")
    from peer import websocket
    for name in ("one", "two"):
        tunnel(node, agents.Recorder(), name=name)
    with pytest.raises(websocket.Refused) as refusal:
        peers.call(agents.Agent.connect(node.upstream, "three"))
    assert "503" in str(refusal.value)
    assert metric(node, "piko_upstreams_refused_total") == 1
    assert request(node.proxy, host="two.example.com").status == 200


def test_limit_streams_of_a_tunnel(new_node, tunnel, host, transport):
    """Requests beyond the streams wait for one, and are served."""
    if transport == "direct":
        pytest.skip("data connections carry no streams")
    node = new_node(config="upstream:\n  limits:\n    max_streams: 3\n")
    import asyncio
    at_once, most = 0, 0

    async def respond(_):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.2)
        at_once -= 1
        return response(body=b"x")
    tunnel(node, agents.Recorder(respond))
    statuses = []
    threads = [threading.Thread(target=lambda: statuses.append(request(node.proxy, host=host, timeout=30 * SLOW).status)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 12 and most <= 3


def test_limit_waiting_requests(new_node, tunnel, peers, host):
    node = new_node(workers=1, config="proxy:\n  reconnect_wait: 3s\n  limits:\n    max_waiting_requests: 2\n")
    agent = tunnel(node, agents.Recorder(), judged=False)
    assert request(node.proxy, host=host).status == 200
    peers.call(agent.abort())
    clients = [http1.Connection(node.proxy, timeout=20 * SLOW) for _ in range(4)]
    started = time.monotonic()
    for client in clients:
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
    wait_until(lambda: metric(node, "piko_refused_by_limit_total") == 2, 2 * SLOW)
    assert time.monotonic() - started < 2.5 * SLOW, "they do not wait"
    assert metric(node, "piko_proxy_reconnect_waits_total") == 2
    for client in clients:
        assert client.read_response().status == 502
        client.close()


def test_limits_are_large_by_default(new_node, tunnel, host):
    """Nothing of the new limits is noticed by who sets none: hundreds of connections of one address, in a moment."""
    node = new_node()
    tunnel(node, agents.Recorder())
    clients = [http1.Connection(node.proxy, timeout=20 * SLOW) for _ in range(300)]
    for client in clients:
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
    for client in clients:
        assert client.read_response().status == 200
        client.close()
    assert metric(node, "piko_connections_refused_total") == 0
