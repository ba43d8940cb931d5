"""Tenants: each with keys and a namespace of its own, on every way that a request or an agent can take. Row 27 of the security tests;
defect 16 of the original, whose tenants share one namespace."""

import asyncio
import json
from urllib.parse import quote

import pytest

from clusters import endpoints as known_endpoints, status
from peer import agent as agents
from peer import direct, http1, websocket
from peer.http1 import request, wait_until
from programs import SLOW, metric
from test_auth import bearer, refused, refused_agent, token
from test_quotas import Holding, agent_refused, begin, check_refusal
from test_reload import changed, configure

KEYS = {name: f"the key of the tenant {name}, which is long enough" for name in ("acme", "beta")}
CLIENT_KEY = "the key of acme's clients, which is long enough"
PORT_KEY = "the key of the proxy port, which is long enough"
TENANTS = f"""
upstream:
  tenants:
    - id: acme
      auth: {{hmac_secret_key: "{KEYS['acme']}"}}
      domains: [acme.example.com, acme.test]
    - id: beta
      auth: {{hmac_secret_key: "{KEYS['beta']}"}}
      domains: [beta.example.com]
"""
WITH_CLIENT_KEYS = TENANTS.replace("domains: [acme.example.com", f'proxy_auth: {{hmac_secret_key: "{CLIENT_KEY}"}}\n      domains: [acme.example.com')


def of(tenant):
    return [("x-piko-tenant-id", tenant)]


def credentials(tenant, key=None, **options):
    return of(tenant) + bearer(token(key or KEYS[tenant], **options))


@pytest.fixture
def agent(peers, endpoint, transport):
    """A factory: the Python agent of a tenant."""
    made = []

    def make(node, tenant, recorder=None, name=None, **options):
        recorder = recorder or agents.Recorder(body=tenant.encode())
        made.append(peers.call(agents.Agent.connect(
            node.upstream, name or endpoint, recorder, headers=credentials(tenant, **options), transport=transport)))
        return recorder
    yield make
    for one in made:
        peers.call(one.close())
        assert one.violations == [] and one.failures == []


def served_by(node, headers=(), **options):
    answer = request(node.proxy, headers=headers, **options)
    return answer.body.decode() if answer.status == 200 else answer.status


def test_row_27_one_name_in_two_tenants(new_node, agent, endpoint, host):
    """Over all workers, by moves and by relays, on new connections and on kept ones."""
    node = new_node(workers=3, config=TENANTS)
    for tenant in ("acme", "beta"):
        recorder = agent(node, tenant)
    wait_until(lambda: status(node, "upstream/endpoints") == {f"acme/{endpoint}": 1, f"beta/{endpoint}": 1}, 10 * SLOW, "both")
    with http1.Connection(node.proxy) as kept:
        for step in range(12):
            for tenant in ("acme", "beta"):
                assert served_by(node, of(tenant), host=host) == tenant
                answer = kept.request(headers=of(tenant), host=host)
                assert (answer.status, answer.body.decode()) == (200, tenant)
            assert kept.request(host=host).status == 502
            assert served_by(node, host=host) == 502, "a tenant's endpoint is nobody's without the tenant"
    # The service is not told: the name means something to the gateway only.
    assert not any(seen.has("x-piko-tenant-id") for seen in recorder.requests)
    lines = [one for one in node.logged("request") if one.get("tenant-id")]
    assert {(one["tenant-id"], one["endpoint-id"]) for one in lines} == {("acme", endpoint), ("beta", endpoint)}


def test_row_27_agents_of_no_tenant_or_another(new_node, peers, endpoint, host):
    node = new_node(config=TENANTS + "  auth: {hmac_secret_key: the key of the port that counts for nobody}\n")
    refused_agent(peers, node, endpoint, "unknown tenant")
    refused_agent(peers, node, endpoint, "unknown tenant", bearer(token("the key of the port that counts for nobody")))
    refused_agent(peers, node, endpoint, "unknown tenant", credentials("gamma", key=KEYS["acme"]))
    refused_agent(peers, node, endpoint, "unknown tenant", credentials("ACME", key=KEYS["acme"]))
    refused_agent(peers, node, endpoint, "missing authorization", of("acme"))
    refused_agent(peers, node, endpoint, "invalid token", credentials("acme", key=KEYS["beta"]))
    refused_agent(peers, node, endpoint, "endpoint not permitted", credentials("acme", endpoints=["other"]))
    for headers, name, code in [(of("acme") + credentials("acme"), endpoint, 400), (credentials("acme"), "beta%2F" + endpoint, 400),
                                (credentials("acme"), "x" * 252, 400)]:
        with pytest.raises(websocket.Refused) as caught:
            peers.call(agents.Agent.connect(node.upstream, name, headers=headers))
        assert caught.value.status == code
    assert status(node, "upstream/endpoints") == {}


def test_row_27_clients_of_no_tenant_or_another(new_node, agent, endpoint, host):
    node = new_node(workers=2, config=TENANTS)
    recorder = agent(node, "acme")
    assert served_by(node, of("acme"), host=host) == "acme"
    count = len(recorder.requests)
    refused(node.proxy, "unknown tenant", of("gamma"), host=host)
    refused(node.proxy, "unknown tenant", of("acme/x"), host=host)
    assert served_by(node, of("beta"), host=host) == 502
    for headers in ([("x-piko-endpoint", f"acme/{endpoint}")], of("acme") * 2, of("acme") + of("beta")):
        assert served_by(node, headers, host=host) == 400
    # Nobody is a node, or one of its processes, by saying so.
    for forged in ([("x-piko-forward", "true")], [("x-piko-node", "n1; t=1; mac=" + "0" * 64)]):
        refused(node.proxy, "unknown tenant", of("gamma") + forged, host=host)
        assert served_by(node, of("beta") + forged, host=host) == 502
    assert len(recorder.requests) == count
    assert served_by(node, of("acme") + [("Connection", "x-piko-tenant-id")], host=host) == "acme"


@pytest.mark.parametrize("domain, found", [
    ("acme.example.com", "acme"), ("ACME.Example.com", "acme"), ("acme.test", "acme"), ("beta.example.com", "beta"), ("example.com", 502),
    ("x.acme.example.com", 502), ("notacme.example.com", 502)])
def test_tenants_by_their_domains(new_node, agent, endpoint, domain, found):
    node = new_node(workers=2, config=TENANTS)
    for tenant in ("acme", "beta"):
        agent(node, tenant)
    assert served_by(node, host=f"{endpoint}.{domain}") == found
    assert served_by(node, host=f"{endpoint}.{domain}:8443") == found
    # The field wins, for the tenant as for the endpoint.
    assert served_by(node, of("beta"), host=f"{endpoint}.{domain}") == "beta"
    if found in ("acme", "beta"):
        assert served_by(node, [("x-piko-endpoint", endpoint)], host=f"other.{domain}") == found


def test_row_27_clients_tokens(new_node, agent, endpoint, host):
    """Acme's clients have tokens of acme's own, which name endpoints as acme does; beta's, tokens of the port, which name the tenant, too."""
    node = new_node(workers=2, config=WITH_CLIENT_KEYS, arguments=["--proxy.auth.hmac-secret-key", PORT_KEY])
    for tenant in ("acme", "beta"):
        agent(node, tenant)
    mine = bearer(token(CLIENT_KEY, endpoints=[endpoint]))
    port = bearer(token(PORT_KEY, endpoints=[f"beta/{endpoint}"]))
    assert served_by(node, of("acme") + mine, host=host) == "acme"
    assert served_by(node, mine, host=f"{endpoint}.acme.example.com") == "acme"
    assert served_by(node, of("beta") + port, host=host) == "beta"
    assert served_by(node, of("beta") + bearer(token(PORT_KEY)), host=host) == "beta"
    assert served_by(node, of("beta") + bearer(token(PORT_KEY, endpoints=["beta/*"])), host=host) == "beta"
    refused(node.proxy, "missing authorization", of("acme"), host=host)
    refused(node.proxy, "missing authorization", of("beta"), host=host)
    refused(node.proxy, "invalid token", of("acme") + port, host=host)
    refused(node.proxy, "invalid token", of("acme") + bearer(token(PORT_KEY)), host=host)
    refused(node.proxy, "invalid token", of("acme") + bearer(token(KEYS["acme"])), host=host)
    refused(node.proxy, "invalid token", of("beta") + mine, host=host)
    refused(node.proxy, "endpoint not permitted", of("beta") + bearer(token(PORT_KEY, endpoints=[endpoint])), host=host)
    refused(node.proxy, "endpoint not permitted", of("acme") + bearer(token(CLIENT_KEY, endpoints=[f"acme/{endpoint}"])), host=host)
    refused(node.proxy, "invalid token", mine, host=host)


def test_row_27_across_nodes(clusters, agent, endpoint, host):
    """What a tenant has at one node is the tenant's at the others: by gossip, and on the way from one to the other."""
    options = {"config": WITH_CLIENT_KEYS, "arguments": ["--cluster.gossip.secret-keys", "the key of the cluster"], "workers": 2}
    first, second = clusters.start(2, **options)
    recorder = agent(second, "acme")
    agent(second, "beta")
    names = {f"acme/{endpoint}": 1, f"beta/{endpoint}": 1}
    wait_until(lambda: known_endpoints(first, second.id) == names, 15 * SLOW, lambda: known_endpoints(first, second.id))
    mine = bearer(token(CLIENT_KEY, endpoints=[endpoint]))
    for step in range(6):
        assert served_by(first, of("acme") + mine, host=host) == "acme"
        assert served_by(first, mine, host=f"{endpoint}.acme.test") == "acme"
        assert served_by(first, of("beta"), host=host) == "beta"
        assert served_by(first, host=host) == 502
        assert served_by(first, host=f"{endpoint}.beta.example.com") == "beta"
    assert not any(seen.has("x-piko-tenant-id") or seen.has("x-piko-node") for seen in recorder.requests)
    count = len(recorder.requests)
    for node in (first, second):
        refused(node.proxy, "missing authorization", of("acme"), host=host)
        refused(node.proxy, "invalid token", of("acme") + bearer(token(KEYS["beta"])), host=host)
        for forged in ([("x-piko-forward", "true")], [("x-piko-node", f"{first.id}; t=1; mac=" + "0" * 64)]):
            refused(node.proxy, "missing authorization", of("acme") + forged, host=host)
    assert len(recorder.requests) == count


def test_tcp_connections_of_tenants(new_node, agent, peers, endpoint):
    node = new_node(workers=2, config=WITH_CLIENT_KEYS)

    def echo(name):
        async def serve(stream):
            await stream.write(name + await stream.read_exactly(5))
            await stream.finish()
        return serve
    for tenant in ("acme", "beta"):
        agent(node, tenant, echo(tenant.encode()))

    async def dial(headers):
        reader, writer, _, _ = await direct.upgrade(node.proxy, f"/_piko/v1/tcp/{endpoint}", ["piko-raw/1"], headers)
        writer.write(b"hello")
        found = await reader.readexactly(9)
        writer.close()
        return found
    for _ in range(4):
        assert peers.call(dial(of("acme") + bearer(token(CLIENT_KEY)))) == b"acmehello"
        assert peers.call(dial(of("beta"))) == b"betahello"
    for headers, code in ((of("acme"), 401), (of("gamma"), 401), ([], 502)):
        with pytest.raises(websocket.Refused) as caught:
            peers.call(dial(headers))
        assert caught.value.status == code


def test_our_agent_and_forward(new_node, real_agent, real_forward, peers, service, endpoint, tmp_path):
    node = new_node(workers=2, config=WITH_CLIENT_KEYS)

    async def echo(stream):
        await stream.write(await stream.read_exactly(4))
    (tmp_path / "agent").write_text(token(KEYS["acme"]))
    (tmp_path / "client").write_text(token(CLIENT_KEY, endpoints=[endpoint]))
    real_agent(node.upstream, "tcp", endpoint, service(echo).port, "--connect.tenant-id", "acme", "--connect.token-file", tmp_path / "agent")
    forward = real_forward(node.proxy, endpoint, "--connect.tenant-id", "acme", "--connect.token-file", tmp_path / "client")

    async def through():
        reader, writer = await asyncio.open_connection(*forward.address)
        writer.write(b"ping")
        found = await reader.read(4)
        writer.close()
        return found
    for _ in range(4):
        assert peers.call(through()) == b"ping"
    assert status(node, "upstream/endpoints") == {f"acme/{endpoint}": 1}


@pytest.mark.parametrize("change", ["reload", "upgrade"])
def test_tenants_through_changes(new_node, agent, endpoint, host, change):
    """A tenant's tunnels, and the rules for it, are the same behind a reload and an upgrade; a new tenant is there."""
    node = new_node(workers=2, config=WITH_CLIENT_KEYS)
    agent(node, "acme")
    mine = of("acme") + bearer(token(CLIENT_KEY, endpoints=[endpoint]))
    assert served_by(node, mine, host=host) == "acme"
    configure(node, WITH_CLIENT_KEYS + '    - id: gamma\n      auth: {hmac_secret_key: "%s"}\n' % KEYS["beta"])
    changed(node, change)
    for _ in range(4):
        assert served_by(node, mine, host=host) == "acme"
        refused(node.proxy, "missing authorization", of("acme"), host=host)
        assert served_by(node, of("gamma"), host=host) == 502
    assert status(node, "upstream/endpoints") == {f"acme/{endpoint}": 1}
    agent(node, "gamma", key=KEYS["beta"])
    wait_until(lambda: served_by(node, of("gamma"), host=host) == "gamma", 10 * SLOW, "the new tenant")


def test_without_tenants_the_name_means_nothing(new_node, peers, tunnel, endpoint, host):
    """As at the original; with keys but no tenants an agent of a tenant is refused, as there."""
    node = new_node()
    tunnel(node)
    assert served_by(node, of("acme"), host=host) == "hello"
    keyed = new_node(arguments=["--upstream.auth.hmac-secret-key", KEYS["acme"]])
    refused_agent(peers, keyed, endpoint, "unknown tenant", credentials("acme"))


def test_names_are_their_bytes(new_node, peers, endpoint, host):
    """Two spellings of one letter, which Unicode takes for equal, are two endpoints; a token for one is none for the other."""
    one, other = endpoint + "\u00e9", endpoint + "e\u0301"
    node = new_node(workers=2, arguments=["--proxy.auth.hmac-secret-key", PORT_KEY])
    open_agents = [peers.call(agents.Agent.connect(node.upstream, quote(name), agents.Recorder(body=quote(name).encode()))) for name in (one, other)]
    for _ in range(4):
        for name, wrong in ((one, other), (other, one)):
            good = bearer(token(PORT_KEY, endpoints=[name]))
            field = {text: [("x-piko-endpoint", text.encode().decode("latin-1"))] for text in (name, wrong)}
            assert served_by(node, good + field[name], host=host) == quote(name)
            refused(node.proxy, "endpoint not permitted", good + field[wrong], host=host)
    assert json.loads(request(node.admin, target="/status/upstream/endpoints", host="a").body) == {one: 1, other: 1}
    for agent in open_agents:
        peers.call(agent.close())


def test_limits_of_tenants(new_node, peers, endpoint, host):
    """What all of a tenant's agents and clients use together, over all workers; another tenant is not touched by it."""
    limits = "limits: {max_tunnels: 2, max_endpoints: 1, max_streams: 2}\n      domains: [acme.example.com"
    node = new_node(workers=3, config=TENANTS.replace("domains: [acme.example.com", limits))
    holding = Holding()
    first = peers.call(agents.Agent.connect(node.upstream, endpoint, holding, headers=credentials("acme", sub="joe")))
    agent_refused(peers, node, "another", credentials("acme", sub="ann"), "too many endpoints")
    second = peers.call(agents.Agent.connect(node.upstream, endpoint, holding, headers=credentials("acme", sub="ann")))
    agent_refused(peers, node, endpoint, credentials("acme"), "too many tunnels")
    other = peers.call(agents.Agent.connect(node.upstream, endpoint, agents.Recorder(body=b"beta"), headers=credentials("beta")))
    waiting = [begin(node, host, of("acme")) for _ in range(2)]
    wait_until(lambda: holding.held == 2, 10 * SLOW, "both requests at the service")
    for _ in range(4):
        check_refusal(request(node.proxy, headers=of("acme"), host=host), "too many streams")
        check_refusal(request(node.proxy, host=f"{endpoint}.acme.example.com"), "too many streams")
        assert served_by(node, of("beta"), host=host) == "beta"
    peers.call(holding.let_go())
    for client in waiting:
        assert client.read_response().status == 200
        client.close()
    wait_until(lambda: served_by(node, of("acme"), host=host) == "held", 10 * SLOW, "room again")
    for one in (first, second, other):
        peers.call(one.close())


def test_rate_of_a_tenant(new_node, agent, endpoint, host):
    node = new_node(workers=3, config=TENANTS.replace("domains: [acme.example.com", "limits: {max_request_rate: 5}\n      domains: [acme.example.com"))
    for tenant in ("acme", "beta"):
        agent(node, tenant)
    answers = [request(node.proxy, headers=of("acme"), host=host) for _ in range(40)]
    assert 5 <= sum(answer.status == 200 for answer in answers) < 40
    check_refusal(next(answer for answer in answers if answer.status != 200), "too many requests")
    assert all(served_by(node, of("beta"), host=host) == "beta" for _ in range(10))
    wait_until(lambda: served_by(node, of("acme"), host=host) == "acme", 10 * SLOW, "a turn again")


def test_data_connections_end_with_a_session_that_needed_a_token(new_node, peers, endpoint, host):
    """Found by review: an agent that drops its session would keep its endpoint by data connections, uncounted and without a token; so
    would one whose tenant or key is gone."""
    node = new_node(workers=3, config=TENANTS.replace("domains: [acme.example.com", "limits: {max_tunnels: 1}\n      domains: [acme.example.com"))

    async def connect():
        one = await agents.Agent.connect(node.upstream, endpoint, agents.Recorder(), headers=credentials("acme") + [direct.OFFER])
        credential = one.answer["x-piko-credential"]
        held = [await direct.open_data(node.upstream, endpoint, credential) for _ in range(6)]
        return one, held
    one, held = peers.call(connect())
    wait_until(lambda: metric(node, "piko_direct_connections") == 6, 10 * SLOW, "the data connections")
    peers.call(one.abort())
    wait_until(lambda: metric(node, "piko_direct_connections") == 0, 10 * SLOW, "their end")
    assert status(node, "upstream/endpoints") == {}

    async def again():
        await direct.open_data(node.upstream, endpoint, held[-1][2])
    for _ in range(6):
        with pytest.raises(websocket.Refused) as caught:
            peers.call(again())
        assert caught.value.status == 401
    for _, writer, _ in held:
        peers.loop.call_soon_threadsafe(writer.close)
    # Its place is free.
    other = peers.call(agents.Agent.connect(node.upstream, endpoint, agents.Recorder(body=b"acme"), headers=credentials("acme")))
    wait_until(lambda: served_by(node, of("acme"), host=host) == "acme", 10 * SLOW, "the next one")
    peers.call(other.close())
