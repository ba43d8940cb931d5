"""Requests between nodes: an endpoint is served through every node of the cluster, whatever happens to the others."""

import asyncio
import hashlib
import hmac
import os
import signal
import threading
import time

import pytest

from clusters import Balancer, Load, counter, endpoints, seen, status
from peer import agent as agents
from peer import direct, http1, websocket
from peer.http1 import Connection, chunk, request, wait_until
from programs import SLOW, metric, resident_bytes
from test_large import RESIDENT_MAX, SIZE, BlockingService
from test_reload import command
from test_tcp_forward import TcpTunnel
from tools.digest_stream import blocks, digest

KEYS = ["--cluster.gossip.secret-keys", "the first key of the cluster"]
OTHER_KEYS = ["--cluster.gossip.secret-keys", "a key that others do not know"]


@pytest.fixture(params=["keys", "no keys"])
def keys(request):
    return KEYS if request.param == "keys" else []


def knows(node, endpoint, **listeners):
    """Waits until the node knows how many listen where."""
    wait_until(lambda: all((endpoints(node, id) or {}).get(endpoint, 0) == count for id, count in listeners.items()), 15 * SLOW,
               lambda: f"{node.id}: {[(id, endpoints(node, id)) for id in listeners]}, not {listeners}")


def pair(clusters, tunnel, endpoint, handler=None, arguments=KEYS, **options):
    """Two nodes, of which the second has the endpoint."""
    a, b = clusters.start(2, arguments=arguments, **options)
    agent = tunnel(b, handler)
    knows(a, endpoint, n2=1)
    return a, b, agent


def names(name):
    return agents.Recorder(body=name.encode())


# ---- What is carried ----

def test_a_request_is_served_by_another_node(clusters, tunnel, endpoint, host, keys):
    recorder = agents.Recorder()
    a, b, _ = pair(clusters, tunnel, endpoint, recorder, keys, workers=2)
    answer = request(a.proxy, target="/path?query=1", host=host,
                     headers=[("X-Forwarded-For", "192.0.2.1"), ("X-Mine", "1"), ("x-piko-authorization", "Bearer secret")])
    assert answer.status == 200 and answer.body == b"hello" and not answer.has("x-piko-node")
    seen_there = recorder.requests[0]
    assert seen_there.target == "/path?query=1" and seen_there.all("host") == [host] and seen_there.all("x-mine") == ["1"]
    # The first node appends the client's address, the second leaves it at that; what is between nodes stays between them.
    assert seen_there.all("x-forwarded-for") == ["192.0.2.1, 127.0.0.1"]
    assert seen_there.all("x-piko-forward") == ["true"]
    assert not any(seen_there.has(name) for name in ("x-piko-node", "x-piko-endpoint", "x-piko-authorization"))
    assert metric(a, "piko_proxy_remote_requests_total") == 1 and metric(b, "piko_proxy_node_requests_total") == 1
    assert metric(a, "piko_upstreams_remote_requests_total", node_id=b.id) == 1
    assert metric(b, "piko_proxy_node_proofs_refused_total") == 0
    for node in (a, b):
        wait_until(lambda: node.logged("request"), 5 * SLOW)
        assert node.logged("request")[0]["request"]["path"] == "/path"
    # Both say what it is known by, and the first where it went.
    first, second = (node.logged("request")[0] for node in (a, b))
    assert first["to-node-id"] == second["node-id"] != first["node-id"] and "to-node-id" not in second
    assert first["trace_id"] == second["trace_id"] == seen_there.get("traceparent")[3:35] and first["request_id"] == seen_there.get("x-request-id")


def test_by_header_and_on_kept_connections(clusters, tunnel, endpoint):
    recorder = agents.Recorder()
    a, b, _ = pair(clusters, tunnel, endpoint, recorder)
    with Connection(a.proxy) as connection:
        for number in range(30):
            assert connection.request(target=f"/{number}", headers=[("x-piko-endpoint", endpoint)], host="any.example.org").status == 200
    assert [one.target for one in recorder.requests] == [f"/{number}" for number in range(30)]
    assert metric(a, "piko_proxy_node_connections") == 1
    # As many header lines as one node takes pass the other one, too, which gets more than the client sent.
    many = [("x-piko-endpoint", endpoint)] + [(f"X-{index}", "1") for index in range(198)]
    assert http1.request(a.proxy, headers=many, host="any.example.org").status == 200


@pytest.mark.parametrize("size", [0, 1, 70_000, 1_000_000])
def test_bodies_of_both_framings(clusters, tunnel, endpoint, host, size):
    recorder = agents.Recorder(lambda one: http1.response(body=one.body) if one.target == "/sized" else
                               b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (chunk(one.body) if one.body else b"") + b"0\r\n\r\n")
    a, _, _ = pair(clusters, tunnel, endpoint, recorder)
    body = os.urandom(size)
    with Connection(a.proxy) as connection:
        for target in ("/sized", "/chunked"):
            assert connection.request("POST", target, host=host, body=body).body == body
            connection.send(f"PUT {target} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, size, 30_000):
                connection.send(chunk(body[start:start + 30_000]))
            connection.send(b"0\r\n\r\n")
            assert connection.read_response().body == body


def test_a_large_body_each_way(clusters, real_agent, endpoint, host):
    service = BlockingService()
    a, b = clusters.start(2, arguments=KEYS)
    real_agent(b.upstream, "http", endpoint, f"127.0.0.1:{service.port}")
    knows(a, endpoint, n2=1)
    with Connection(a.proxy, timeout=240) as connection:
        connection.send(f"POST /up HTTP/1.1\r\nHost: {host}\r\nContent-Length: {SIZE}\r\n\r\n")
        for block in blocks(SIZE):
            connection.send(block)
        assert connection.read_response().body.decode() == digest(SIZE)
        state = hashlib.blake2b()
        connection.send(f"GET /down HTTP/1.1\r\nHost: {host}\r\n\r\n")
        connection.read_response(body_sink=state.update)
        assert state.hexdigest() == digest(SIZE)
    # Between two plain connections the kernel carries it.
    assert counter(a, "piko_pump_bytes_total", how="spliced") > SIZE
    for node in (a, b):
        for pid in node.workers():
            assert resident_bytes(pid) < RESIDENT_MAX
    assert service.failures == []


def test_websocket(clusters, tunnel, peers, endpoint, host):
    a, _, _ = pair(clusters, tunnel, endpoint, agents.demo)

    async def talk():
        reader, writer = await asyncio.open_connection(*a.proxy)
        await websocket.upgrade(reader, writer, "/ws", host)
        decoder = websocket.FrameDecoder(expects_masked=False)
        for size in (1, 1_000, 200_000):
            data = os.urandom(size)
            writer.write(websocket.encode_frame(websocket.BINARY, data, mask=b"\1\2\3\4"))
            back = b""
            while len(back) < size:
                for frame in decoder.feed(await reader.read(1 << 18)):
                    back += frame.payload
            assert back == data
        writer.close()
    peers.call(talk())
    wait_until(lambda: metric(a, "piko_proxy_requests_in_flight") == 0, 10 * SLOW)


def test_tcp(clusters, tunnel, endpoint):
    """Over WebSocket, and with both ends of each side."""
    a, b, _ = pair(clusters, tunnel, endpoint, agents.echo)
    client = TcpTunnel(a, endpoint)
    assert client.answer.status == 101
    data = os.urandom(300_000)
    for start in range(0, len(data), 50_000):
        client.send(data[start:start + 50_000])
    assert client.read_exactly(len(data)) == data
    client.connection.close()
    # Nobody has it: that is said before the 101.
    assert TcpTunnel(a, "nobody").answer.status == 502


def test_forward_and_agent_on_two_nodes(clusters, real_agent, real_forward, service, endpoint):
    async def answer_at_the_end(stream):
        data = await stream.read_to_end()
        await stream.write(b"got %d" % len(data))
        await stream.finish()
    a, b = clusters.start(2, arguments=KEYS)
    real_agent(b.upstream, "tcp", endpoint, f"127.0.0.1:{service(answer_at_the_end).port}")
    knows(a, endpoint, n2=1)
    forward = real_forward(a.proxy, endpoint)
    with Connection(forward.address) as connection:
        connection.send(b"x" * 100_000)
        connection.finish()
        assert connection.read_to_end() == b"got 100000"


def test_the_service_is_told_the_client(clusters, tunnel, endpoint, host, transport):
    if transport != "direct":
        pytest.skip("about the preamble")
    a, _, agent = pair(clusters, tunnel, endpoint)
    with Connection(a.proxy, source="127.0.0.77") as connection:
        assert connection.request(host=host).status == 200
    assert agent.pool.clients[0][0] == "127.0.0.77"


# ---- Who counts as a node ----

FORGERIES = [
    [("x-piko-forward", "true")], [("x-piko-node", "n1; t={now}; mac=" + "00" * 32)], [("x-piko-node", "n1")],
    [("x-piko-forward", "true"), ("Connection", "x-piko-forward")], [("x-piko-node", "declined")],
    [("x-piko-node", "n1; t={now}; mac=" + "00" * 32), ("Connection", "x-piko-node")],
    [("x-piko-forward", "true"), ("x-piko-node", "n1"), ("Connection", "x-piko-forward, x-piko-node")],
    [("X-PIKO-FORWARD", "false"), ("X-Piko-Node", "n2; t={now}; mac=")],
]


@pytest.mark.parametrize("fields", FORGERIES, ids=range(len(FORGERIES)))
def test_defect_9_a_client_cannot_pass_for_a_node(clusters, tunnel, endpoint, host, fields, keys):
    """What it says neither widens nor narrows: it is served, through the other node, as any client."""
    recorder = agents.Recorder()
    a, b, _ = pair(clusters, tunnel, endpoint, recorder, keys)
    fields = [(name, value.format(now=int(time.time()))) for name, value in fields]
    # Without keys the addresses of nodes are believed: that is why there should be keys.
    with Connection(a.proxy, source="127.0.0.77") as connection:
        answer = connection.request(host=host, headers=fields)
        assert answer.status == 200 and not answer.has("x-piko-node")
        assert recorder.requests[0].all("x-piko-forward") == ["true"] and not recorder.requests[0].has("x-piko-node")
        assert recorder.requests[0].all("x-forwarded-for") == ["127.0.0.77"]
        assert metric(a, "piko_proxy_node_proofs_refused_total") == 1
        # One hop, which the second node took for one.
        assert metric(b, "piko_proxy_node_requests_total") == 1 and metric(b, "piko_proxy_remote_requests_total") == 0
        # What nobody has is had by nobody still, and that is said as to any client.
        answer = connection.request(host="nobody.example.com", headers=fields)
        assert answer.status == 502 and not answer.has("x-piko-node")


def proof(endpoint, method="GET", target="/", age=0, key=KEYS[1], node="n2"):
    """The field with which a node proves itself, by docs/protocol.md."""
    now = int(time.time()) - age
    text = "\n".join(["piko node request 1", node, str(now), method, target, "", endpoint])
    return ("x-piko-node", f"{node}; t={now}; mac={hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()}")


def test_defect_9_a_proof_is_good_for_its_own_request_only(clusters, tunnel, endpoint, host):
    """Who saw a proof on its way can send it with nothing else: not for another endpoint, method or target, not later."""
    a, _, _ = pair(clusters, tunnel, endpoint)
    tunnel(a, names("here"), name=f"{endpoint}-here")
    # It is one: this node has no tunnel itself, and that is told to a node.
    answer = request(a.proxy, host=host, headers=[proof(endpoint)])
    assert answer.status == 502 and answer.all("x-piko-node") == ["declined"]
    assert metric(a, "piko_proxy_node_proofs_refused_total") == 0
    others = [proof(f"{endpoint}-here"), proof(endpoint, method="HEAD"), proof(endpoint, target="/other"),
              proof(endpoint, key=OTHER_KEYS[1]), proof(endpoint, node="n1; t=1")]
    for count, field in enumerate(others, 1):
        for fields in ([field], [field, ("Connection", "x-piko-node")]):
            answer = request(a.proxy, host=host, headers=fields)
            assert answer.status == 200 and answer.body == b"hello" and not answer.has("x-piko-node"), field
        assert metric(a, "piko_proxy_node_proofs_refused_total") == 2 * count
    # Out of its time it makes nobody a node; that it was one it still shows, so this request is not sent round.
    for age in (40, -40):
        answer = request(a.proxy, host=host, headers=[proof(endpoint, age=age)])
        assert answer.status == 502 and answer.body == b"" and answer.has("x-piko-node")
        answer = request(a.proxy, host=f"{endpoint}-here.example.com", headers=[proof(f"{endpoint}-here", age=age)])
        assert answer.status == 200 and answer.body == b"here"
    assert metric(a, "piko_proxy_node_proofs_refused_total") == 2 * len(others) + 4
    assert metric(a, "piko_proxy_node_requests_total") == 1
    # Two of them are one too many.
    assert request(a.proxy, host=host, headers=[proof(endpoint), proof(endpoint)]).status == 400
    # Nor does one that is for what this node has make it have more, in either way of naming an endpoint.
    answer = request(a.proxy, host=f"{endpoint}-here.example.com", headers=[proof(endpoint), ("x-piko-endpoint", endpoint)])
    assert answer.status == 502 and answer.all("x-piko-node") == ["declined"]
    answer = request(a.proxy, host=host, headers=[proof(endpoint), ("x-piko-endpoint", f"{endpoint}-here")])
    assert answer.status == 200 and answer.body == b"here"


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_a_long_body_waits_for_the_word_of_the_other_node(clusters, tunnel, endpoint, host, chunked):
    """Until the second node has a tunnel for a request the first one sends it no body that it could not send again."""
    recorder = agents.Recorder()
    a, b, _ = pair(clusters, tunnel, endpoint, recorder)
    body = os.urandom(200_000)
    framing = [("Transfer-Encoding", "chunked")] if chunked else [("Content-Length", str(len(body)))]
    wire = (chunk(body) + chunk(b"")) if chunked else body

    # As the first node speaks to the second.
    def head(name):
        fields = [("Host", f"{name}.example.com"), *framing, proof(name, method="POST", node="n1"), ("x-piko-expect", "100-continue")]
        return "POST / HTTP/1.1\r\n" + "".join(f"{field}: {value}\r\n" for field, value in fields) + "\r\n"

    with Connection(b.proxy, timeout=20 * SLOW) as connection:
        connection.send(head(endpoint))
        assert connection.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(wire)
        assert connection.read_response("POST").status == 200
    with Connection(b.proxy, timeout=20 * SLOW) as connection:
        connection.send(head("nobody"))
        answer = connection.read_response("POST")
        assert answer.status == 502 and answer.all("x-piko-node") == ["declined"] and "close" in answer.options()
    # Through both, of clients that wait for 100 (Continue) themselves, and of those that do not.
    for expects in (False, True):
        with Connection(a.proxy, timeout=20 * SLOW) as connection:
            fields = [("Host", host), *framing] + ([("Expect", "100-continue")] if expects else [])
            connection.send("POST / HTTP/1.1\r\n" + "".join(f"{field}: {value}\r\n" for field, value in fields) + "\r\n")
            connection.send(wire)
            answer = connection.read_response("POST")
            assert answer.status == 200 and answer.body == b"hello"
    assert len(recorder.requests) == 3
    for got in recorder.requests:
        assert got.body == body and not got.has("x-piko-expect")


def test_one_hop_at_most(clusters, tunnel, endpoint, host):
    """Without keys: what comes from a node's address as from a node is served here or not at all."""
    a, b, _ = pair(clusters, tunnel, endpoint, arguments=[])
    answer = request(a.proxy, host=host, headers=[("x-piko-forward", "true")])
    assert answer.status == 502 and answer.all("x-piko-node") == ["declined"]
    assert metric(b, "piko_proxy_node_requests_total") == 0
    # What this node has it serves.
    assert request(b.proxy, host=host, headers=[("x-piko-forward", "true")]).status == 200


def test_a_service_cannot_decline(clusters, tunnel, endpoint, host):
    answer = http1.response(502, "Bad Gateway", [("x-piko-node", "declined"), ("X-Mine", "1")], b"mine")
    recorder = agents.Recorder(lambda _: answer)
    a, _, _ = pair(clusters, tunnel, endpoint, recorder)
    got = request(a.proxy, host=host)
    assert got.status == 502 and got.body == b"mine" and got.has("x-mine") and not got.has("x-piko-node")
    assert len(recorder.requests) == 1


# ---- Which node ----

def test_each_node_gets_its_share(clusters, tunnel, endpoint, host):
    a, b, c = clusters.start(3, arguments=KEYS)
    few, many = names("few"), names("many")
    tunnel(b, few)
    for _ in range(3):
        tunnel(c, many)
    knows(a, endpoint, n2=1, n3=3)
    with Connection(a.proxy) as connection:
        for _ in range(600):
            assert connection.request(host=host).status == 200
    assert 100 <= len(few.requests) <= 200, len(few.requests)


def test_a_node_that_is_killed_costs_what_it_held(clusters, tunnel, endpoint, host):
    a, b, c = clusters.start(3, arguments=KEYS)
    tunnel(b, names("b"), judged=False)
    tunnel(c, names("c"))
    knows(a, endpoint, n2=1, n3=1)
    with Connection(a.proxy, timeout=30) as connection:
        for _ in range(50):
            assert connection.request(host=host).status == 200
        b.kill()
        for _ in range(200):
            answer = connection.request(host=host)
            assert answer.status == 200
        assert answer.body == b"c"


def test_requests_leave_a_node_that_hangs(clusters, tunnel, endpoint, host):
    """Its kernel still takes connections. Once gossip holds it for unreachable, what waits there is sent elsewhere."""
    a, b, c = clusters.start(3, arguments=KEYS)
    tunnel(b, names("b"), judged=False)
    tunnel(c, names("c"))
    knows(a, endpoint, n2=1, n3=1)
    frozen = b.processes()
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        with Connection(a.proxy, timeout=60 * SLOW) as connection:
            for _ in range(30):
                assert connection.request(host=host).body == b"c"
        assert seen(a)["n2"] == "unreachable"
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: seen(a)["n2"] == "active", 30 * SLOW)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_node_that_ends_costs_nothing(clusters, tunnel, endpoint, host, method):
    a, b, c = clusters.start(3, arguments=KEYS)
    tunnel(b, names("b"), judged=False)
    tunnel(c, names("c"))
    knows(a, endpoint, n2=1, n3=1)
    load = Load(a, host, method, b"a body" if method == "POST" else b"")
    try:
        load.more()
        b.send_signal(signal.SIGTERM)
        wait_until(lambda: seen(a).get("n2") != "active", 15 * SLOW)
        load.more()
        assert b.wait(60) == 0
        load.more()
    finally:
        load.stop()
    assert load.failures == [], load.failures[:5]


def test_a_node_that_was_taken_out_of_use_is_avoided_at_once(clusters, tunnel, endpoint, host, peers):
    a, b, c = clusters.start(3, arguments=KEYS)
    at_b, at_c = names("b"), names("c")
    tunnel(b, at_b)
    tunnel(c, at_c)
    knows(a, endpoint, n2=1, n3=1)
    assert command(b, "drain")[0] == 0
    wait_until(lambda: seen(a)["n2"] == "draining", 15 * SLOW)
    before = len(at_b.requests)
    with Connection(a.proxy) as connection:
        for _ in range(50):
            assert connection.request(host=host).status == 200
    assert len(at_b.requests) == before and len(at_c.requests) >= 50


@pytest.mark.parametrize("back", ["same node", "third node", "own node"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_requests_wait_for_an_agent_that_moves(clusters, tunnel, peers, endpoint, host, back, method):
    a, b, c = clusters.start(3, arguments=KEYS + ["--proxy.reconnect-wait", "15s"])
    agent = tunnel(b)
    knows(a, endpoint, n2=1)
    peers.call(agent.close())
    result = []
    asking = threading.Thread(target=lambda: result.append(request(a.proxy, method, host=host, body=b"x" * 5_000 if method == "POST" else b"", timeout=40)))
    asking.start()
    wait_until(lambda: metric(a, "piko_proxy_reconnect_waits_total") >= 1, 10 * SLOW)
    tunnel({"same node": b, "third node": c, "own node": a}[back])
    asking.join()
    assert result[0].status == 200


class Watch:
    """What a node says of an endpoint at another node, asked again and again."""

    def __init__(self, node, other, endpoint):
        self.node, self.other, self.endpoint = node, other, endpoint
        self.seen, self.count = set(), 0
        self.is_over = False
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        while not self.is_over:
            self.seen.add((endpoints(self.node, self.other) or {}).get(self.endpoint, 0))
            self.count += 1

    def stop(self):
        self.is_over = True
        self.thread.join()


def word_of(node, other, endpoint):
    """The entry of an endpoint, with the version of its last change, as a node has it of another."""
    return [entry for entry in status(node, f"gossip/nodes/{other}")["Entries"] if entry["key"] == f"endpoint:{endpoint}"]


@pytest.mark.parametrize("end", ["closes", "breaks"])
def test_defect_2_an_endpoint_stays_while_one_of_its_agents_leaves(clusters, tunnel, peers, endpoint, host, end):
    """One of two agents says go-away and then disconnects: it is taken off once, not twice, and the other is never out of sight."""
    a, b = clusters.start(2, arguments=KEYS)
    tunnel(a, names("stays"))
    leaving = tunnel(a, names("leaves"))
    knows(b, endpoint, n1=2)
    watch = Watch(b, "n1", endpoint)
    load = Load(b, host, "POST", b"may not be sent again")
    try:
        load.more(100)

        async def go_away():
            if leaving.pool:
                leaving.pool.end()
            await leaving.session.go_away()
        peers.call(go_away())
        knows(b, endpoint, n1=1)
        load.more(100)
        # What it was asked before it has answered.
        wait_until(lambda: not leaving.session.streams and not (leaving.pool and leaving.pool.writers), 10 * SLOW)
        before = word_of(b, "n1", endpoint)
        assert len(before) == 1 and before[0]["value"] == "1"
        peers.call(leaving.abort() if end == "breaks" else leaving.close())
        load.more(100)
        # A word of later: what the node said before has come.
        tunnel(a, name=f"{endpoint}-later")
        knows(b, f"{endpoint}-later", n1=1)
        assert endpoints(b, "n1") == {endpoint: 1, f"{endpoint}-later": 1} == status(a, "upstream/endpoints")
        assert word_of(b, "n1", endpoint) == before
        load.more(100)
    finally:
        watch.stop()
        load.stop()
    assert load.failures == [], load.failures[:5]
    assert watch.seen <= {1, 2} and watch.count > 10, watch.seen
    assert metric(a, "piko_upstreams_connected_upstreams") == 2


# ---- Data connections ----

def test_data_connections_at_another_node_are_tunnels_there(clusters, tunnel, peers, endpoint, host, transport):
    if transport != "direct":
        pytest.skip("about data connections")
    a, b, c = clusters.start(3, arguments=KEYS)
    agent = tunnel(a)
    knows(c, endpoint, n1=1)

    async def join():
        pool = direct.DataPool(agent, b.upstream, 3)
        await pool.fill()
        return pool
    pool = peers.call(join())
    try:
        assert pool.idle == 3
        for node in (a, c):
            knows(node, endpoint, n2=1)
        for number in range(20):
            assert request(b.proxy, host=host).status == 200
        assert metric(b, "piko_proxy_remote_requests_total") == 0 and len(pool.clients) > 0
        # Through a node that has neither.
        for number in range(20):
            assert request(c.proxy, host=host).status == 200
    finally:
        pool.end()
        peers.call(agent.close())
    assert agent.failures == []


def test_credentials_of_other_clusters_are_refused(clusters, tunnel, peers, endpoint, transport):
    if transport != "direct":
        pytest.skip("about data connections")
    a = clusters.node(arguments=KEYS)
    other = clusters.node(arguments=OTHER_KEYS)
    bare = clusters.node()
    agent = tunnel(a)
    for node in (other, bare):
        with pytest.raises(websocket.Refused) as refused:
            peers.call(direct.open_data(node.upstream, endpoint, agent.answer["x-piko-credential"]))
        assert refused.value.status == 401


def test_one_agent_behind_a_balancer_serves_both_nodes(clusters, real_agent, service, peers, endpoint, host, transport):
    if transport != "direct":
        pytest.skip("about data connections")
    a, b = clusters.start(2, arguments=KEYS)
    balancer = Balancer(peers, [a.upstream, b.upstream])
    try:
        real_agent(balancer.address, "http", endpoint, f"127.0.0.1:{service().port}")
        wait_until(lambda: (endpoints(a, "n1") or {}).get(endpoint) or (endpoints(a, "n2") or {}).get(endpoint), 15 * SLOW)
        loads = [Load(node, host) for node in (a, b)]
        try:
            for load in loads:
                load.more()
            wait_until(lambda: all(metric(node, "piko_direct_connections") > 0 for node in (a, b)), 30 * SLOW,
                       lambda: f"{[metric(node, 'piko_direct_connections') for node in (a, b)]}")
            for node in (a, b):
                knows(node, endpoint, n1=1, n2=1)
        finally:
            for load in loads:
                load.stop()
        assert [load.failures for load in loads] == [[], []]
    finally:
        balancer.close()
