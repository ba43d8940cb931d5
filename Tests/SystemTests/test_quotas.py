"""What tokens limit for who bears them: tunnels, endpoints, streams and requests a second, each with what happens beyond it, over
workers, moves, reloads, upgrades and crashes (docs/tokens.md, docs/limits.md)."""

import asyncio
import json
import os
import select
import signal
import time

import pytest

from clusters import counter
from peer import agent as agents
from peer import http1, websocket
from peer.http1 import request, response, wait_until
from programs import BIN, SLOW, Program, metric
from test_auth import SECRET, bearer, token
from test_reload import changed, wait_for_generations
from test_upgrade import switch_and_echo, upgrade_request

PROXY, UPSTREAM = (["--" + port + ".auth.hmac-secret-key", SECRET] for port in ("proxy", "upstream"))


def limited(subject, **limits):
    """The header of a token with limits."""
    return bearer(token(sub=subject, iss="tests", piko={"limits": limits}))


def refused(node, limit):
    return counter(node, "piko_refused_by_quota_total", limit=limit)


def check_refusal(answer, text):
    assert (answer.status, json.loads(answer.body), answer.get("retry-after")) == (429, {"error": text}, "1"), answer


def agent_refused(peers, node, endpoint, headers, text):
    with pytest.raises(websocket.Refused) as caught:
        peers.call(agents.Agent.connect(node.upstream, endpoint, headers=headers))
    assert (caught.value.status, json.loads(caught.value.body)) == (429, {"error": text})


def may_connect(peers, node, endpoint, headers, handler=None):
    """An agent, if it may."""
    try:
        return peers.call(agents.Agent.connect(node.upstream, endpoint, handler, headers=headers))
    except websocket.Refused as error:
        assert error.status == 429
        return None


def connect_when_free(peers, node, endpoint, headers, handler=None, timeout=10):
    """An agent, when there is room for it."""
    found = []

    def connected():
        found.append(may_connect(peers, node, endpoint, headers, handler))
        return found[-1] is not None
    wait_until(connected, timeout * SLOW, "room for another agent", every=0.05)
    return found[-1]


class Holding:
    """A service that answers requests when it is let go."""

    def __init__(self):
        self.held = 0
        self.free = asyncio.Event()

    async def __call__(self, stream):
        while True:
            try:
                await http1.read_message(stream)
            except EOFError:
                return
            self.held += 1
            await self.free.wait()
            await stream.write(response(body=b"held"))

    async def let_go(self):
        self.free.set()


def begin(node, host, headers, target="/"):
    """A client that waits for its answer."""
    client = http1.Connection(node.proxy, timeout=20 * SLOW)
    client.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n")
    return client


def tcp(node, endpoint, headers):
    """A client of raw TCP: the connection and the answer to its opening."""
    client = begin(node, "any", [*headers, ("Connection", "Upgrade"), ("Upgrade", "piko-raw/1")], f"/_piko/v1/tcp/{endpoint}")
    answer = client.read_response()
    if answer.status != 101:
        client.close()
        return None, answer
    return client, answer


def echoes(client):
    """Whether the connection is alive to the other end."""
    try:
        client.send(b"x")
        return client.read_exactly(1) == b"x"
    except (OSError, EOFError):
        return False


def open_all(node, endpoint, headers, most=20):
    """As many TCP connections as the quota lets in."""
    clients = []
    while len(clients) < most:
        client, answer = tcp(node, endpoint, headers)
        if client is None:
            check_refusal(answer, "too many streams")
            return clients
        clients.append(client)
    raise AssertionError(f"{most} and no end")


# ---- Tunnels and endpoints ----

def test_quota_of_tunnels(new_node, peers, endpoint):
    node = new_node(arguments=UPSTREAM)
    joe, ann, free = limited("joe", max_tunnels=2), limited("ann", max_tunnels=1), bearer(token())
    mine = [peers.call(agents.Agent.connect(node.upstream, endpoint, headers=joe)) for _ in range(2)]
    agent_refused(peers, node, endpoint, joe, "too many tunnels")
    agent_refused(peers, node, endpoint + "-2", limited("joe", max_tunnels=2, max_endpoints=9), "too many tunnels")
    # Others are not concerned, nor is a port that is not theirs.
    others = [peers.call(agents.Agent.connect(node.upstream, endpoint, headers=headers)) for headers in (ann, free, free, free)]
    agent_refused(peers, node, endpoint, ann, "too many tunnels")
    agent_refused(peers, node, endpoint, limited("nobody", max_tunnels=0), "too many tunnels")
    assert refused(node, "tunnels") == 4 and refused(node, "endpoints") == 0
    assert metric(node, "piko_upstreams_refused_total") == 0
    peers.call(mine[0].close())
    mine.append(connect_when_free(peers, node, endpoint, joe))
    agent_refused(peers, node, endpoint, joe, "too many tunnels")
    for agent in [*mine[1:], *others]:
        peers.call(agent.close())


def test_quota_of_endpoints(new_node, peers, endpoint):
    node = new_node(arguments=UPSTREAM)
    joe = limited("joe", max_endpoints=2)
    mine = [peers.call(agents.Agent.connect(node.upstream, endpoint + name, headers=joe)) for name in ("a", "b", "a", "b")]
    agent_refused(peers, node, endpoint + "c", joe, "too many endpoints")
    other = peers.call(agents.Agent.connect(node.upstream, endpoint + "c", headers=limited("ann", max_endpoints=1)))
    assert refused(node, "endpoints") == 1 and refused(node, "tunnels") == 0
    peers.call(mine[0].close())
    # The endpoint has another agent yet.
    wait_until(lambda: metric(node, "piko_upstreams_connected_upstreams") == 4, 10 * SLOW, "the tunnel's end")
    agent_refused(peers, node, endpoint + "c", joe, "too many endpoints")
    peers.call(mine[2].close())
    mine.append(connect_when_free(peers, node, endpoint + "c", joe))
    for agent in [mine[1], mine[3], mine[4], other]:
        peers.call(agent.close())


def test_quota_agents_come_back(new_node, peers, service, endpoint, host):
    """An agent of ours that is refused tries again, and is let in when there is room."""
    node = new_node(arguments=UPSTREAM)
    text = token(sub="joe", piko={"limits": {"max_tunnels": 1}})
    first = peers.call(agents.Agent.connect(node.upstream, endpoint, headers=bearer(text)))
    agent = Program([BIN / "piko", "agent", "http", endpoint, str(service().port), "--connect.url", node.upstream_url, "--connect.token", text,
                     "--server.bind-addr", "127.0.0.1:0"], name="agent")
    try:
        wait_until(lambda: refused(node, "tunnels") >= 1, 20 * SLOW, agent.tail)
        peers.call(first.close())
        wait_until(lambda: request(node.proxy, host=host).status == 200, 40 * SLOW, agent.tail, every=0.1)
    finally:
        assert agent.stop() == 0, agent.tail()


def test_quota_lets_the_next_token_in(new_node, peers, endpoint):
    """Whose token is about to end comes back with another before the tunnel ends."""
    node = new_node(arguments=UPSTREAM)
    limits = {"limits": {"max_tunnels": 1}}
    old = peers.call(agents.Agent.connect(node.upstream, endpoint, headers=bearer(token(sub="joe", iss="tests", seconds=22, piko=limits))))
    joe = limited("joe", max_tunnels=1)
    agent_refused(peers, node, endpoint, joe, "too many tunnels")
    new = connect_when_free(peers, node, endpoint, joe, timeout=21)
    assert not old.session.ended, "it waited for the end"
    agent_refused(peers, node, endpoint, joe, "too many tunnels")
    wait_until(lambda: old.socket.close_code == 1008, 20 * SLOW, "the end of the tunnel")
    agent_refused(peers, node, endpoint, joe, "too many tunnels")
    peers.call(new.close())
    connect_when_free(peers, node, endpoint, joe)
    peers.call(old.close())


def test_quota_of_an_agents_streams(new_node, peers, endpoint, host):
    """The token bounds the streams of each session; such an agent has no data connections."""
    node = new_node(arguments=UPSTREAM)
    at_once, most = 0, 0

    async def respond(_):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.1)
        at_once -= 1
        return response(body=b"x")
    agent = peers.call(agents.Agent.connect(
        node.upstream, endpoint, agents.Recorder(respond), headers=limited("joe", max_streams=2), transport="direct"))
    assert agent.pool is None and agent.answer.get("x-piko-transport") != "direct/1"
    clients = [begin(node, host, []) for _ in range(8)]
    assert [client.read_response().status for client in clients] == [200] * 8 and most == 2
    changed(node, "reload")
    wait_for_generations(node, 1)
    clients = [begin(node, host, []) for _ in range(8)]
    assert [client.read_response().status for client in clients] == [200] * 8 and most == 2
    peers.call(agent.close())


# ---- Streams ----

def test_quota_of_streams(new_node, peers, tunnel, endpoint, host):
    node = new_node(arguments=PROXY)
    service = Holding()
    tunnel(node, service)
    tunnel(node, switch_and_echo, name=endpoint + "-raw")
    joe, ann = limited("joe", max_streams=3), limited("ann", max_streams=1)
    clients = [begin(node, host, joe) for _ in range(2)]
    wait_until(lambda: service.held == 2, 10 * SLOW, "two requests at the service")
    # What became of an upgrade counts as long as it lasts.
    raw = begin(node, f"{endpoint}-raw.example.com", [*joe, ("Connection", "Upgrade"), ("Upgrade", "proto/2")])
    assert raw.read_response().status == 101
    for _ in range(3):
        check_refusal(request(node.proxy, headers=joe, host=host), "too many streams")
    check_refusal(tcp(node, endpoint, joe)[1], "too many streams")
    check_refusal(request(node.proxy, headers=limited("joe", max_streams=2), host=host), "too many streams")
    clients.append(begin(node, host, ann))
    clients += [begin(node, host, bearer(token())) for _ in range(3)]
    clients.append(begin(node, host, limited("joe", max_streams=4)))
    wait_until(lambda: service.held == 7, 10 * SLOW, "others at the service")
    assert refused(node, "streams") == 5 and refused(node, "requests") == 0
    peers.call(service.let_go())
    assert [client.read_response().status for client in clients] == [200] * 7
    # All are given back, and one that stays is held.
    assert [request(node.proxy, headers=limited("joe", max_streams=2), host=host).status for _ in range(6)] == [200] * 6
    check_refusal(request(node.proxy, headers=limited("joe", max_streams=1), host=host), "too many streams")
    raw.close()
    wait_until(lambda: request(node.proxy, headers=limited("joe", max_streams=1), host=host).status == 200, 10 * SLOW, "the upgrade's end")
    for client in clients:
        assert client.request(headers=joe, host=host).status == 200
        client.close()


def test_quota_of_tcp_streams(new_node, tunnel, endpoint):
    node = new_node(arguments=PROXY)
    tunnel(node, agents.echo)
    joe = limited("joe", max_streams=5)
    for _ in range(2):
        clients = open_all(node, endpoint, joe)
        assert len(clients) == 5 and all(echoes(client) for client in clients)
        clients[0].close()
        clients[1].reset()
        wait_until(lambda: (again := tcp(node, endpoint, joe)[0]) is not None and clients.append(again) is None, 10 * SLOW, "room")
        wait_until(lambda: (again := tcp(node, endpoint, joe)[0]) is not None and clients.append(again) is None, 10 * SLOW, "room")
        assert tcp(node, endpoint, joe)[0] is None
        for client in clients[2:]:
            client.close()
        one = limited("joe", max_streams=1)
        wait_until(lambda: (last := tcp(node, endpoint, one)[0]) is not None and last.close() is None, 10 * SLOW, "none is left")
        wait_until(lambda: (last := tcp(node, endpoint, one)[0]) is not None and last.close() is None, 10 * SLOW, "nor that one")


def test_quota_streams_of_clients_that_leave(new_node, tunnel, host):
    """However a client goes, its stream is given back once."""
    node = new_node(arguments=PROXY)
    held = 0

    async def service(stream):
        nonlocal held
        await stream.read_until(b"\r\n\r\n")
        held += 1
        while await stream.read():
            pass
    tunnel(node, service, judged=False)
    one = limited("joe", max_streams=1)
    for turn in range(6):
        found = []

        def served():
            before = held
            client = begin(node, host, [*one, ("Content-Length", "10")])
            # The service holds it, or there is an answer.
            wait_until(lambda: held > before or select.select([client.socket], [], [], 0)[0], 10 * SLOW, "request or refusal")
            if held > before:
                found.append(client)
                return True
            client.close()
            return False
        wait_until(served, 20 * SLOW, f"turn {turn}: the stream before is given back")
        check_refusal(request(node.proxy, headers=one, host=host), "too many streams")
        if turn % 2:
            found[0].reset()
        else:
            found[0].close()
    wait_until(lambda: metric(node, "piko_proxy_requests_in_flight") == 0, 10 * SLOW, "no request is left")


# ---- Requests a second ----

def test_quota_of_requests(new_node, tunnel, host):
    """Over all workers; whoever sends more slows nobody else down."""
    node = new_node(workers=2, arguments=PROXY)
    recorder = agents.Recorder()
    tunnel(node, recorder)
    joe, ann = limited("joe", max_request_rate=10), limited("ann", max_request_rate=1000)
    started = time.monotonic()
    # A second's worth at once, each from a client that may have to move to another worker.
    assert [request(node.proxy, headers=joe, host=host).status for _ in range(10)] == [200] * 10
    good = 10
    with http1.Connection(node.proxy, timeout=20 * SLOW) as client:
        while time.monotonic() - started < 2.5:
            # Twenty in one write: faster than ten a second on any machine.
            one = f"GET / HTTP/1.1\r\nHost: {host}\r\n{joe[0][0]}: {joe[0][1]}\r\n\r\n"
            client.send(one * 20)
            for _ in range(20):
                answer = client.read_response()
                if answer.status == 200:
                    good += 1
                else:
                    check_refusal(answer, "too many requests")
            assert request(node.proxy, headers=ann, host=host).status == 200
            assert request(node.proxy, headers=bearer(token()), host=host).status == 200
    seconds = time.monotonic() - started
    assert 10 < good <= 10 + 10 * seconds + 1
    assert refused(node, "requests") > 0 and refused(node, "streams") == 0
    check_refusal(request(node.proxy, headers=limited("nobody", max_request_rate=0), host=host), "too many requests")
    # As fast as he may, he is served.
    wait_until(lambda: request(node.proxy, headers=joe, host=host).status == 200, 10 * SLOW, "room")


def test_quota_is_drawn_once_between_nodes(clusters, tunnel, host):
    """At the node that checks the token, whatever way the request takes."""
    nodes = clusters.start(2, arguments=["--cluster.gossip.secret-keys", "the key of the cluster", *PROXY])
    tunnel(nodes[1])
    joe = limited("joe", max_request_rate=20)
    wait_until(lambda: request(nodes[0].proxy, headers=bearer(token()), host=host).status == 200, 20 * SLOW, "the route")
    assert [request(nodes[0].proxy, headers=joe, host=host).status for _ in range(20)] == [200] * 20
    assert [request(nodes[1].proxy, headers=joe, host=host).status for _ in range(20)] == [200] * 20


# ---- Changes and crashes ----

@pytest.mark.parametrize("change", ["reload", "upgrade"])
def test_quotas_stay_over_changes(new_node, peers, tunnel, endpoint, change):
    node = new_node(arguments=PROXY + UPSTREAM)
    joe, agent_of = limited("joe", max_streams=4), limited("joe", max_tunnels=2, max_endpoints=1)
    mine = [peers.call(agents.Agent.connect(node.upstream, endpoint, agents.echo, headers=agent_of)) for _ in range(2)]
    clients = open_all(node, endpoint, joe)
    assert len(clients) == 4
    for _ in range(2):
        changed(node, change)
        agent_refused(peers, node, endpoint, agent_of, "too many tunnels")
        # Sessions move to the new workers, and are the same.
        wait_until(lambda: metric(node, "piko_upstreams_connected_upstreams") == 2, 20 * SLOW, "the sessions alone")
        agent_refused(peers, node, endpoint, agent_of, "too many tunnels")
        assert all(echoes(client) for client in clients)
        assert open_all(node, endpoint, joe) == []
        clients.pop().close()
        more = []
        wait_until(lambda: more.extend(open_all(node, endpoint, joe)) or len(more) == 1, 10 * SLOW, "the stream that ended in a worker of before")
        clients += more
    assert not any(agent.session.ended for agent in mine)
    peers.call(mine[0].close())
    mine[0] = connect_when_free(peers, node, endpoint, agent_of, agents.echo)
    agent_refused(peers, node, endpoint, agent_of, "too many tunnels")
    agent_refused(peers, node, endpoint + "b", limited("joe", max_tunnels=9, max_endpoints=1), "too many endpoints")
    for client in clients:
        client.close()
    for agent in mine:
        peers.call(agent.close())
    wait_for_generations(node, 1)


def test_quotas_after_a_worker_was_killed(new_node, peers, endpoint):
    """What it had open is given back, and nothing else."""
    node = new_node(workers=2, arguments=PROXY + UPSTREAM)
    node.expected_errors = ["worker"]
    joe, agent_of = limited("joe", max_streams=6), limited("joe", max_tunnels=4)
    mine = [peers.call(agents.Agent.connect(node.upstream, endpoint, agents.echo, headers=agent_of)) for _ in range(4)]
    clients = open_all(node, endpoint, joe)
    assert len(clients) == 6
    victim = node.workers()[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in node.workers() and len(node.workers()) == 2, 10 * SLOW, "two workers again")
    wait_until(lambda: metric(node, "piko_workers_ready") == 2, 10 * SLOW, "both serve")
    alive = [client for client in clients if echoes(client)]
    left = sum(not agent.session.ended for agent in mine)
    for _ in range(4 - left):
        mine.append(connect_when_free(peers, node, endpoint, agent_of, agents.echo))
    agent_refused(peers, node, endpoint, agent_of, "too many tunnels")
    more = open_all(node, endpoint, joe)
    assert len(alive) + len(more) == 6 and all(echoes(client) for client in more)
    for client in [*alive, *more]:
        client.close()
    for pid in node.workers():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(node.workers()) == 2 and node.workers()[0] != victim, 10 * SLOW, "two workers again")
    for agent in mine:
        peers.call(agent.abort())


def test_quotas_leave_tokens_without_limits_alone(new_node, tunnel, endpoint, host):
    node = new_node(arguments=PROXY)
    tunnel(node, agents.Recorder())
    for headers in (bearer(token()), bearer(token(sub="joe")), bearer(token(sub="joe", piko={"limits": {}}))):
        assert [request(node.proxy, headers=headers, host=host).status for _ in range(50)] == [200] * 50
    for value in (None, [], "a", {"max_streams": "1"}, {"max_streams": -1}, {"max_streams": 1.5}, {"max_stream": 1}):
        answer = request(node.proxy, headers=bearer(token(sub="joe", piko={"limits": value})), host=host)
        assert (answer.status, json.loads(answer.body)) == (401, {"error": "invalid token"})
    assert metric(node, "piko_refused_by_quota_total") == 0
