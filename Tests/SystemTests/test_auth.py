"""Tokens on the three ports, with every kind of key and every way to configure one; at whose end what is closed; and that nothing
but the endpoint that was authorised is served. Rows 12, 16, 19 to 24, 26, 39 and 47 of the security tests; defects 5, 10 and 11 of the original.

Tokens are made by PyJWT, which shares nothing with the server.
"""

import http.server
import json
import threading
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from clusters import counter, endpoints as known_endpoints, wait_all_active
from peer import agent as agents
from peer import direct, http1, websocket
from peer.http1 import request, wait_until
from programs import SLOW, command_of
from test_config import run
from test_reload import command

SECRET = "the secret of the tests, which is long enough"
RSA, OTHER_RSA = rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 2048)
EC, ED = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
NO_TOKEN = {"missing authorization", "invalid authorization", "unsupported auth type", "invalid token", "expired token",
            "endpoint not permitted"}


def pem(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def jwk(key, **members):
    maker = {rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm, ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
             ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm}
    for kind, algorithm in maker.items():
        if isinstance(key, kind):
            found = algorithm.to_jwk(key.public_key(), as_dict=True)
            found.pop("key_ops", None)
            return {**found, **members}


def token(key=SECRET, algorithm="HS256", endpoints=None, seconds=600, headers=None, **claims):
    if seconds is not None:
        claims["exp"] = time.time() + seconds
    if endpoints is not None:
        claims["piko"] = {"endpoints": endpoints}
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers)


def bearer(text, name="Authorization"):
    return [(name, f"Bearer {text}")]


def refused(address, text, headers=(), **options):
    answer = request(address, headers=headers, **options)
    assert (answer.status, json.loads(answer.body)) == (401, {"error": text}), answer
    assert answer.get("www-authenticate") == "Bearer"


def refused_agent(peers, node, endpoint, text, headers=(), **options):
    with pytest.raises(websocket.Refused) as caught:
        peers.call(agents.Agent.connect(node.upstream, endpoint, headers=headers, **options))
    assert (caught.value.status, json.loads(caught.value.body)) == (401, {"error": text})


ALL_PORTS = [word for port in ("proxy", "upstream", "admin") for word in (f"--{port}.auth.hmac-secret-key", SECRET)]


# ---- The three ports ----

def test_proxy_port(new_node, tunnel, endpoint, host):
    node = new_node(arguments=["--proxy.auth.hmac-secret-key", SECRET])
    recorder = agents.Recorder()
    tunnel(node, recorder)
    refused(node.proxy, "missing authorization", host=host)
    refused(node.proxy, "missing authorization", host="nowhere")
    refused(node.proxy, "missing authorization", target="/_piko/v1/nothing", host=host)
    refused(node.proxy, "unsupported auth type", [("Authorization", "Basic YTpi")], host=host)
    refused(node.proxy, "invalid authorization", [("Authorization", "Bearer")], host=host)
    assert request(node.proxy, headers=bearer(token()) * 2, host=host).status == 400
    refused(node.proxy, "invalid token", bearer("a.b.c"), host=host)
    refused(node.proxy, "invalid token", bearer(token("another secret of the same length, or so")), host=host)
    refused(node.proxy, "expired token", bearer(token(seconds=-5)), host=host)
    refused(node.proxy, "endpoint not permitted", bearer(token(endpoints=["other"])), host=host)
    assert recorder.requests == [], "something reached the service"
    with http1.Connection(node.proxy) as client:
        for good in (token(), token(endpoints=[endpoint]), token(endpoints=["x", endpoint[:2] + "*"]), token(seconds=None)):
            assert client.request(headers=bearer(good), host=host).status == 200
            # The connection is not what was let in.
            assert client.request(host=host).status == 401
    assert counter(node, "piko_auth_requests_refused_total") == 13


def test_own_field_wins_and_stays_here(new_node, tunnel, endpoint, host):
    """Row 16: the service sees its own Authorization, and never ours."""
    node = new_node(arguments=["--proxy.auth.hmac-secret-key", SECRET])
    recorder = agents.Recorder()
    tunnel(node, recorder)
    mine, service = bearer(token(), "x-piko-authorization"), [("Authorization", "Basic c2VydmljZQ==")]
    assert request(node.proxy, headers=mine + service, host=host).status == 200
    assert recorder.requests[0].get("authorization") == "Basic c2VydmljZQ==" and not recorder.requests[0].has("x-piko-authorization")
    refused(node.proxy, "invalid token", bearer("x.y.z", "x-piko-authorization") + bearer(token()), host=host)
    assert request(node.proxy, headers=mine + mine, host=host).status == 400
    assert request(node.proxy, headers=[("x-piko-authorization", "")] + bearer(token()), host=host).status == 200
    # Row 13: it can't be taken away on the way to the check.
    connection = [("Connection", "x-piko-authorization, authorization, x-piko-endpoint")]
    assert request(node.proxy, headers=mine + connection, host=host).status == 200
    refused(node.proxy, "endpoint not permitted", bearer(token(endpoints=["a"])) + connection + [("x-piko-endpoint", endpoint)], host="a.x.com")


def test_tcp_connections(new_node, tunnel, peers, endpoint):
    node = new_node(arguments=["--proxy.auth.hmac-secret-key", SECRET])

    async def echo(stream):
        await stream.write(await stream.read_exactly(5))
        await stream.finish()
    tunnel(node, echo)

    async def dial(headers):
        reader, writer, _, _ = await direct.upgrade(node.proxy, f"/_piko/v1/tcp/{endpoint}", ["piko-raw/1"], headers)
        writer.write(b"hello")
        found = await reader.readexactly(5)
        writer.close()
        return found
    assert peers.call(dial(bearer(token(endpoints=[endpoint])))) == b"hello"
    for headers, text in (([], "missing authorization"), (bearer(token(endpoints=["other"])), "endpoint not permitted")):
        with pytest.raises(websocket.Refused) as caught:
            peers.call(dial(headers))
        assert caught.value.status == 401 and json.loads(caught.value.body) == {"error": text}


def test_upstream_port(new_node, tunnel, peers, endpoint, host):
    node = new_node(arguments=["--upstream.auth.hmac-secret-key", SECRET])
    refused_agent(peers, node, endpoint, "missing authorization")
    refused_agent(peers, node, endpoint, "invalid token", bearer(token() + "x"))
    refused_agent(peers, node, endpoint, "expired token", bearer(token(seconds=-1)))
    refused_agent(peers, node, endpoint, "endpoint not permitted", bearer(token(endpoints=["other", endpoint + "-2"])))
    assert json.loads(request(node.admin, target="/status/upstream/endpoints", host="a").body) == {}
    # Row 39 of a kind: a name that needs percent signs is the one that is compared.
    refused_agent(peers, node, "%61" + endpoint, "endpoint not permitted", bearer(token(endpoints=["%61" + endpoint])))
    agent = peers.call(agents.Agent.connect(node.upstream, endpoint, agents.Recorder(), headers=bearer(token(endpoints=[endpoint[:1] + "*"]))))
    assert request(node.proxy, host=host).status == 200
    peers.call(agent.close())


def test_admin_port(new_node):
    """Health and readiness need no token: what watches a node has none (a defect of the original)."""
    node = new_node(arguments=["--admin.auth.hmac-secret-key", SECRET])
    for target in ("/health", "/ready"):
        assert request(node.admin, target=target, host="a").status == 200
    for target in ("/metrics", "/status/upstream/endpoints", "/status/cluster/nodes", "/nothing", "/health?forward=x", "/ready/", "//health"):
        refused(node.admin, "missing authorization", target=target, host="a")
        assert request(node.admin, target=target, headers=bearer(token()), host="a").status != 401
    refused(node.admin, "endpoint not permitted", bearer(token(endpoints=["a"])), target="/metrics", host="a")


# ---- Keys ----

def jwks_file(tmp_path, *keys, name="jwks.json"):
    path = tmp_path / name
    path.write_text(json.dumps({"keys": list(keys)}))
    path.chmod(0o644)
    return path


KINDS = {
    "hmac_secret_key": (SECRET, [(SECRET, "HS256"), (SECRET, "HS384"), (SECRET, "HS512")]),
    "rsa_public_key": (pem(RSA), [(RSA, "RS256"), (RSA, "RS384"), (RSA, "RS512")]),
    "ecdsa_public_key": (pem(EC), [(EC, "ES256")]),
}


def form_of(form, key, value, tmp_path):
    """(arguments, configuration file, environment) of one key in one form."""
    flag = key.replace("_", "-")
    ports = ("proxy", "upstream", "admin")
    if form == "flag":
        return [word for port in ports for word in (f"--{port}.auth.{flag}", value)], None, None
    if form == "yaml":
        return [], json.dumps({port: {"auth": {key: value}} for port in ports}), None
    if form == "environment":
        return ["--config.expand-env"], "".join(f'{port}: {{auth: {{{key}: "${{PIKO_TEST_KEY}}"}}}}\n' for port in ports), {"PIKO_TEST_KEY": value}
    path = tmp_path / "key"
    path.write_text(value + "\n")
    return [], json.dumps({port: {"auth": {key + "_file": str(path)}} for port in ports}), None


@pytest.mark.parametrize("form", ["flag", "yaml", "environment", "file"])
@pytest.mark.parametrize("key", KINDS)
def test_row_47_every_form_of_every_key(new_node, peers, endpoint, host, tmp_path, key, form):
    value, signers = KINDS[key]
    if form == "environment" and "\n" in value:
        value = value.replace("\n", "\\n")           # within the quotes of YAML
    arguments, config, environment = form_of(form, key, value, tmp_path)
    node = new_node(arguments=arguments, config=config, environment=environment, workers=1)
    refused(node.proxy, "missing authorization", host=host)
    refused(node.admin, "missing authorization", target="/metrics", host="a")
    refused_agent(peers, node, endpoint, "missing authorization")
    for bad in (token(OTHER_RSA, "RS256"), token("x" * 40), token(SECRET if key != "hmac_secret_key" else "y" * 40)):
        refused(node.proxy, "invalid token", bearer(bad), host=host)
        refused(node.admin, "invalid token", bearer(bad), target="/metrics", host="a")
        refused_agent(peers, node, endpoint, "invalid token", bearer(bad))
    for private, algorithm in signers:
        good = bearer(token(private, algorithm))
        agent = peers.call(agents.Agent.connect(node.upstream, endpoint, agents.Recorder(), headers=good))
        assert request(node.proxy, headers=good, host=host).status == 200
        assert request(node.admin, target="/metrics", headers=good, host="a").status == 200
        peers.call(agent.close())


@pytest.mark.parametrize("form", ["flag", "yaml"])
def test_row_47_key_sets(new_node, host, tmp_path, form):
    path = jwks_file(tmp_path, jwk(RSA, kid="r", alg="PS256"), jwk(EC, kid="e"), jwk(ED, kid="d"), {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQ"},
                     {"kty": "XYZ"}, jwk(OTHER_RSA, use="enc"))
    if form == "flag":
        node = new_node(arguments=["--proxy.auth.jwks.endpoint", f"file://{path}"], workers=1)
    else:
        node = new_node(config=f"proxy: {{auth: {{jwks: {{endpoint: 'file:{path}', cache_ttl: 5m, timeout: 3s}}}}}}\n", workers=1)
    refused(node.proxy, "missing authorization", host=host)
    good = [token(RSA, "PS256"), token(EC, "ES256", headers={"kid": "e"}), token(ED, "EdDSA"), token(b"secret-secret-secret", "HS256")]
    for one in good:
        assert request(node.proxy, headers=bearer(one), host=host).status == 502, one
    for bad in (token(RSA, "RS256"), token(EC, "ES256", headers={"kid": "r"}), token(OTHER_RSA, "RS256"), token(SECRET)):
        refused(node.proxy, "invalid token", bearer(bad), host=host)


@pytest.mark.parametrize("config, words", [
    ("proxy: {auth: {rsa_public_key: nonsense}}", ["proxy.auth.rsa_public_key"]),
    ("proxy: {auth: {rsa_public_key_file: /nowhere}}", ["proxy.auth.rsa_public_key_file", "/nowhere"]),
    ("upstream: {auth: {hmac_secret_key: a, hmac_secret_key_file: /etc/hostname}}", ["upstream.auth.hmac_secret_key"]),
    ("admin: {auth: {jwks: {endpoint: 'file:///nowhere.json'}}}", ["admin.auth.jwks.endpoint", "nowhere"]),
    ("proxy: {auth: {jwks: {endpoint: 'ftp://issuer.example.com/jwks.json'}}}", ["proxy.auth.jwks.endpoint"]),
    ("proxy: {auth: {jwks: {endpoint: '../jwks.json'}}}", ["proxy.auth.jwks.endpoint"]),
    ("proxy: {auth: {hmac_secret_key: a, jwks: {endpoint: 'file:///etc/hostname'}}}", ["jwks.endpoint", "hmac_secret_key"]),
    ("proxy: {auth: {audience: a}}", ["proxy.auth.audience"]),
    ("upstream: {auth: {require_endpoints: true}}", ["upstream.auth.require_endpoints"]),
    ("admin: {auth: {require_endpoints: true}}", ["require_endpoints"]),
])
def test_row_47_what_would_leave_a_port_open_does_not_start(tmp_path, config, words):
    path = tmp_path / "server.yaml"
    path.write_text(config + "\n")
    ports = [word for port in ("proxy", "upstream", "admin") for word in (f"--{port}.bind-addr", "127.0.0.1:0")]
    found = run("server", "--config.path", path, *ports, "--cluster.gossip.bind-addr", "127.0.0.1:0", "--server.control-socket", tmp_path / "s")
    text = found.stdout + found.stderr
    assert found.returncode != 0 and all(word in text for word in words), text


class Publisher:
    """An HTTP server that publishes what a test wants."""

    def __init__(self):
        self.answer, self.asked = (404, {}, b""), []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append((self.path, dict(self.headers)))
                status, headers, body = outer.answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys.json?set=1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def publish(self, *keys):
        self.answer = (200, {"Content-Type": "application/json"}, json.dumps({"keys": list(keys)}).encode())


@pytest.fixture
def publisher():
    one = Publisher()
    yield one
    one.server.shutdown()
    one.server.server_close()


def test_row_22_key_sets_over_http(new_node, host, publisher):
    """Fetched before the first connection is taken, and again and again; a key that leaves the set is good for a while."""
    publisher.publish(jwk(RSA, kid="old"), {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQ"})
    node = new_node(arguments=["--proxy.auth.jwks.endpoint", publisher.url, "--proxy.auth.jwks.cache-ttl", "4s", "--proxy.auth.jwks.timeout", "2s"])
    old, new = (bearer(token(key, name, headers={"kid": kid})) for key, name, kid in ((RSA, "RS256", "old"), (EC, "ES256", "new")))

    def answers(headers, status=502):
        return all(request(node.proxy, headers=headers, host=host).status == status for _ in range(6))
    assert answers(old) and answers(new, 401)
    refused(node.proxy, "invalid token", bearer(token(b"secret-secret-secret", "HS256")), host=host)
    assert publisher.asked[0][0] == "/keys.json?set=1"
    publisher.publish(jwk(EC, kid="new"))
    wait_until(lambda: answers(new), 15 * SLOW, "the new key")
    assert answers(old), "the old key has its time"
    wait_until(lambda: answers(old, 401), 15 * SLOW, "the end of the old key")
    # What is no key set, is too long, or is elsewhere, changes nothing.
    for answer in ((500, {}, b""), (200, {}, b"{}"), (200, {}, b" " * 300_000), (302, {"Location": "file:///etc/passwd"}, b"")):
        publisher.answer = answer
        count = len(publisher.asked)
        wait_until(lambda: len(publisher.asked) > count, 30 * SLOW, "another try")
        assert answers(new)
    assert node.logged("a key set can't be fetched")
    code, text = command(node, "reload")
    assert code == 0, text
    assert answers(new), "workers of a reload have the keys from before"
    code, text = command(node, "upgrade")
    assert code == 0, text
    assert answers(new), "and so have those of an upgrade"


def test_row_22_nobody_publishes_at_start(new_node, host, publisher):
    node = new_node(arguments=["--proxy.auth.jwks.endpoint", publisher.url, "--proxy.auth.jwks.timeout", "1s"], workers=1)
    good = bearer(token(RSA, "RS256"))
    began = time.monotonic()
    refused(node.proxy, "invalid token", good, host=host)
    assert time.monotonic() - began < 0.5 * SLOW
    publisher.publish(jwk(RSA))
    wait_until(lambda: request(node.proxy, headers=good, host=host).status == 502, 30 * SLOW, "the key")
    asked = len(publisher.asked)
    with http1.Connection(node.proxy) as client:
        for index in range(300):
            assert client.request(headers=bearer(token(RSA, "RS256", headers={"kid": f"k{index}"})), host=host).status == 401
    assert len(publisher.asked) <= asked + 1, "a fetch for each unknown key"


def test_files_are_read_again(new_node, host, tmp_path):
    """Without a reload; what is no key changes nothing."""
    secret, jwks = tmp_path / "secret", jwks_file(tmp_path, jwk(RSA))
    secret.write_text(SECRET)
    node = new_node(workers=2, config=json.dumps({"proxy": {"auth": {"hmac_secret_key_file": str(secret)}},
                                                  "admin": {"auth": {"jwks": {"endpoint": f"file://{jwks}"}}}}))
    node.expected_errors.append("the keys for tokens can't be read")
    old, new = bearer(token()), bearer(token("the secret that follows, just as long"))

    def answers(headers, port="proxy", status=502):
        return all(request(getattr(node, port), target="/metrics", headers=headers, host=host).status == status for _ in range(6))
    assert answers(old) and answers(new, status=401)
    secret.write_text("\n\n")
    node.wait_log("the keys for tokens can't be read")
    assert answers(old), "the keys from before go on"
    secret.write_text("the secret that follows, just as long\n")
    wait_until(lambda: answers(new), 15 * SLOW, "the new secret")
    assert answers(old, status=401)
    jwks_file(tmp_path, jwk(EC), {"kty": "XYZ"})
    wait_until(lambda: answers(bearer(token(EC, "ES256")), "admin", 200), 15 * SLOW, "the new key set")
    assert answers(bearer(token(RSA, "RS256")), "admin", 401)
    assert node.logged("a key of a key set is not used")
    # A worker that comes later has the same.
    code, text = command(node, "reload")
    assert code == 0, text
    assert answers(new) and answers(old, status=401)


def test_reload_changes_keys(new_node, host):
    node = new_node(config=f"proxy: {{auth: {{hmac_secret_key: '{SECRET}'}}}}\n")
    path = Path(node.folder.name) / "server.yaml"
    assert request(node.proxy, headers=bearer(token()), host=host).status == 502
    path.write_text("proxy: {auth: {hmac_secret_key: 'another secret of about the same length', issuer: joe}}\n")
    code, text = command(node, "reload")
    assert code == 0 and "proxy.auth.hmac_secret_key" in text and "another secret" not in text, text
    refused(node.proxy, "invalid token", bearer(token(iss="joe")), host=host)
    assert request(node.proxy, headers=bearer(token("another secret of about the same length", iss="joe")), host=host).status == 502
    path.write_text("proxy: {auth: {rsa_public_key: nonsense}}\n")
    node.expected_errors.append("not reloaded")
    code, text = command(node, "reload")
    assert code != 0 and "proxy.auth.rsa_public_key" in text, text
    assert request(node.proxy, headers=bearer(token("another secret of about the same length", iss="joe")), host=host).status == 502
    path.write_text("{}\n")
    assert command(node, "reload")[0] == 0
    assert request(node.proxy, host=host).status == 502


# ---- Attacks ----

def test_row_12_one_endpoint_is_checked_and_served(new_node, peers, tunnel, endpoint, host):
    node = new_node(arguments=["--proxy.auth.hmac-secret-key", SECRET], workers=1)
    mine, other = agents.Recorder(), agents.Recorder()
    tunnel(node, mine)
    tunnel(node, other, name="b-" + endpoint)
    good = bearer(token(endpoints=[endpoint]))
    refused(node.proxy, "endpoint not permitted", good + [("x-piko-endpoint", "b-" + endpoint)], host=host)
    refused(node.proxy, "endpoint not permitted", good + [("x-piko-endpoint", "b-" + endpoint), ("Connection", "x-piko-endpoint")], host=host)
    assert request(node.proxy, headers=good + [("x-piko-endpoint", endpoint)], host="b-" + host).status == 200
    assert request(node.proxy, headers=good + [("x-piko-endpoint", endpoint)] * 2, host=host).status == 400
    refused(node.proxy, "endpoint not permitted", good, host=host.upper())
    refused(node.proxy, "endpoint not permitted", good, target=f"http://b-{host}/", host="b-" + host)
    assert other.requests == [] and len(mine.requests) == 1


def test_row_12_across_nodes(clusters, peers, tunnel, endpoint, host):
    """The second node asks for no token, and for a proof; a client that says that it is a node is a client."""
    key = ["--cluster.gossip.secret-keys", "the key of the cluster"]
    first = clusters.node(arguments=[*key, *ALL_PORTS])
    second = clusters.node(join=[first], arguments=[*key, "--proxy.auth.hmac-secret-key", SECRET])
    for node in (first, second):
        good = bearer(token())
        wait_until(lambda: len(json.loads(request(node.admin, target="/status/cluster/nodes", headers=good, host="a").body)) == 2, 15 * SLOW, "both nodes")
    recorder = agents.Recorder()
    agent = peers.call(agents.Agent.connect(second.upstream, endpoint, recorder))
    good = bearer(token(endpoints=[endpoint]))
    wait_until(lambda: request(first.proxy, headers=good, host=host).status == 200, 10 * SLOW, "over the first node")
    assert not recorder.requests[0].has("x-piko-authorization")
    for node in (first, second):
        refused(node.proxy, "missing authorization", host=host)
        refused(node.proxy, "missing authorization", [("x-piko-forward", "true")], host=host)
        refused(node.proxy, "missing authorization", [("x-piko-node", "n1; t=1; mac=" + "0" * 64)], host=host)
        refused(node.proxy, "endpoint not permitted", bearer(token(endpoints=["x"])), host=host)
    # `?forward=`: the first node asked for the token, and the second takes its word; nobody else's.
    path = f"/status/upstream/endpoints?forward={first.id}"
    refused(first.admin, "missing authorization", target="/status/upstream/endpoints", host="a")
    answer = request(second.admin, target=path, host="a")
    assert answer.status == 200, answer
    refused(first.admin, "missing authorization", [("x-piko-forward", "true")], target="/status/upstream/endpoints", host="a")
    peers.call(agent.close())


def test_row_19_to_21_forged_tokens(new_node, host, tmp_path):
    import base64
    import hashlib
    import hmac

    def part(data):
        return base64.urlsafe_b64encode(data if isinstance(data, bytes) else json.dumps(data).encode()).rstrip(b"=").decode()
    path = jwks_file(tmp_path, jwk(RSA), jwk(EC))
    node = new_node(arguments=["--proxy.auth.jwks.endpoint", f"file://{path}"], workers=1)
    static = new_node(arguments=["--proxy.auth.rsa-public-key", pem(RSA)], workers=1)
    claims = part({"exp": int(time.time()) + 600})
    forged = [f"{part({'alg': name})}.{claims}.{signature}" for name in ("none", "None", "NoNe") for signature in ("", "AA", part(b"\0" * 64))]
    for key in (pem(RSA).encode(), pem(RSA).strip().encode()):
        message = f"{part({'alg': 'HS256'})}.{claims}"
        forged.append(f"{message}.{part(hmac.new(key, message.encode(), hashlib.sha256).digest())}")
    forged += [f"{part({'alg': 'ES256'})}.{claims}.{part(bytes(64))}", f"{part({'alg': 'ES512'})}.{claims}.{part(bytes(132))}",
               f"{part({'alg': 'RS256'})}.{claims}.{part(bytes(256))}"]
    forged.append(token(OTHER_RSA, "RS256", headers={"jwk": jwk(OTHER_RSA), "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/"}))
    for text in forged:
        for one in (node, static):
            refused(one.proxy, "invalid token", bearer(text), host=host)
    assert request(node.proxy, headers=bearer(token(RSA, "RS256")), host=host).status == 502


def test_row_22_keys_that_are_not_there(new_node, host, tmp_path):
    path = jwks_file(tmp_path, *(jwk(ec.generate_private_key(ec.SECP256R1()), kid=f"k{index}") for index in range(100)))
    node = new_node(arguments=["--proxy.auth.jwks.endpoint", f"file://{path}"], workers=1)
    with http1.Connection(node.proxy) as client:
        for kid in ("../../../../etc/passwd", "' OR 1=1 --", "x" * 2000, "", None):
            text = token(EC, "ES256", headers={"kid": kid} if kid is not None else None)
            client.request(headers=bearer(text), host=host)
            began = time.monotonic()
            for _ in range(20):
                assert client.request(headers=bearer(text), host=host).status == 401
            assert (time.monotonic() - began) / 20 < 0.05 * SLOW
    path.write_text("x")
    node.expected_errors.append("the keys for tokens can't be read")


@pytest.mark.parametrize("claims, text", [
    ({"exp": "9999999999"}, "invalid token"), ({"exp": None}, "invalid token"), ({"exp": 1e300}, "invalid token"), ({"exp": -1}, "invalid token"),
    ({"exp": 1}, "expired token"), ({"nbf": 9999999999}, "invalid token"), ({"iat": 9999999999}, "invalid token"), ({"iat": "1"}, "invalid token"),
    ({"aud": None}, "invalid token"), ({"aud": {"a": 1}}, "invalid token"), ({"aud": "z"}, "invalid token"), ({"aud": []}, "invalid token"),
    ({"iss": ["joe"]}, "invalid token"), ({"iss": "ann"}, "invalid token"),
    *(({"piko": value}, "invalid token") for value in (None, "", [], "a", {"endpoints": None}, {"endpoints": ""}, {"endpoints": "a"},
                                                       {"endpoints": {"a": 1}}, {"endpoints": [1]}, {"endpoints": [""]}, {"endpoints": ["a*b"]})),
    *(({"piko": value}, "invalid token") for value in ({}, {"endpoints": []})),
    *(({"piko": {"endpoints": value}}, "endpoint not permitted") for value in (["b"], ["A"], ["b*"])),
    ({"piko": {"endpoints": ["a"]}}, None), ({"piko": {"endpoints": ["*"]}}, None), ({"aud": ["x", "you"]}, None),
])
def test_row_23_claims(claims_node, claims, text):
    import base64

    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
    everything = {"aud": "you", "iss": "joe", "piko": {"endpoints": ["a"]}, **claims}
    message = f"{part({'alg': 'HS256'})}.{part(everything)}"
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(message.encode(), SECRET.encode())
    headers = bearer(f"{message}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}")
    if text is None:
        assert request(claims_node.proxy, headers=headers, host="a.example.com").status == 502
    else:
        refused(claims_node.proxy, text, headers, host="a.example.com")


@pytest.fixture(scope="module")
def claims_node(backend):
    from programs import Node
    node = Node(backend, workers=1, arguments=["--proxy.auth.hmac-secret-key", SECRET, "--proxy.auth.audience", "you", "--proxy.auth.issuer", "joe",
                                               "--proxy.auth.require-endpoints"])
    yield node
    assert node.stop() == 0
    node.check_log()


def test_row_24_giants(new_node, host):
    node = new_node(arguments=["--proxy.auth.hmac-secret-key", SECRET, "--upstream.auth.hmac-secret-key", SECRET], workers=1)
    for text in ("." * 1_000_000, "a" * 900_000, token(sub="s" * 20_000)):
        assert request(node.proxy, headers=bearer(text), host=host, timeout=30).status in (401, 431)
    assert request(node.upstream, target="/piko/v1/upstream/a", headers=bearer("." * 100_000), host="a").status in (401, 431)
    assert request(node.proxy, headers=bearer(token()), host=host).status == 502


# ---- When the time of a token is over ----

def test_row_26_the_tunnel_is_closed_with_its_token(new_node, peers, endpoint, host, transport):
    node = new_node(arguments=["--upstream.auth.hmac-secret-key", SECRET], workers=2)
    agent = peers.call(agents.Agent.connect(node.upstream, endpoint, agents.Recorder(), headers=bearer(token(seconds=3)), transport=transport))
    staying = peers.call(agents.Agent.connect(node.upstream, "s" + endpoint, agents.Recorder(), headers=bearer(token()), transport=transport))
    assert request(node.proxy, host=host).status == 200
    wait_until(lambda: agent.socket.close_code == 1008, 10 * SLOW, "the end of the tunnel")
    wait_until(lambda: request(node.proxy, host=host).status == 502, 10 * SLOW, "no tunnel, and no data connection either")
    assert request(node.proxy, host="s" + host).status == 200
    if transport == "direct":
        with pytest.raises(websocket.Refused) as caught:
            peers.call(direct.open_data(node.upstream, endpoint, agent.pool.credential))
        assert caught.value.status == 401
        wait_until(lambda: not agent.pool.writers, 10 * SLOW, "the end of the data connections")
    assert counter(node, "piko_upstreams_expired_total") == 1
    for one in (agent, staying):
        peers.call(one.close())


def test_row_26_not_when_it_is_switched_off(new_node, peers, endpoint, host):
    node = new_node(arguments=["--upstream.auth.hmac-secret-key", SECRET, "--upstream.auth.disable-disconnect-on-expiry"], workers=1)
    agent = peers.call(agents.Agent.connect(node.upstream, endpoint, agents.Recorder(), headers=bearer(token(seconds=2))))
    time.sleep(4)
    assert request(node.proxy, host=host).status == 200 and agent.socket.close_code is None
    peers.call(agent.close())


def test_row_26_an_expiring_tunnel_survives_a_reload_and_then_ends(new_node, peers, endpoint, host):
    node = new_node(arguments=["--upstream.auth.hmac-secret-key", SECRET], workers=2)
    agent = peers.call(agents.Agent.connect(node.upstream, endpoint, agents.Recorder(), headers=bearer(token(seconds=8))))
    code, text = command(node, "reload")
    assert code == 0, text
    assert request(node.proxy, host=host).status == 200
    wait_until(lambda: agent.socket.close_code == 1008, 15 * SLOW, "the end of the tunnel")
    peers.call(agent.close())


@pytest.mark.parametrize("seconds", [25])
def test_row_26_our_agent_comes_back_with_the_new_token(new_node, real_agent, service, endpoint, host, tmp_path, seconds):
    """No request fails while the agent goes over from one token to the next."""
    from clusters import Load
    node = new_node(arguments=["--upstream.auth.hmac-secret-key", SECRET], workers=2)
    path = tmp_path / "token"
    path.write_text(token(endpoints=[endpoint], seconds=seconds) + "\n")
    agent = real_agent(node.upstream, "http", endpoint, service().port, "--connect.token-file", path)
    load = Load(node, host)
    try:
        load.more(20)
        path.write_text(token(endpoints=[endpoint], seconds=600))
        agent.wait_log("asks to connect elsewhere", timeout=30)
        wait_until(lambda: counter(node, "piko_upstreams_expired_total") == 1 or len(agent.logged("^connected$")) > 1, 30 * SLOW, "the change")
        time.sleep(12)
        load.more(20)
    finally:
        load.stop()
    assert load.failures == []
    assert len(agent.logged("^connected$")) == 2


def test_agent_and_forward_show_tokens(new_node, real_agent, real_forward, peers, service, endpoint, tmp_path):
    node = new_node(arguments=["--upstream.auth.hmac-secret-key", SECRET, "--proxy.auth.hmac-secret-key", SECRET])

    async def echo(stream):
        await stream.write(await stream.read_exactly(4))
    real_agent(node.upstream, "tcp", endpoint, service(echo).port, "--connect.token", token(endpoints=[endpoint]))
    path = tmp_path / "token"
    path.write_text(token(endpoints=["other"]))
    forward = real_forward(node.proxy, endpoint, "--connect.token-file", path)

    async def through():
        import asyncio
        reader, writer = await asyncio.open_connection(*forward.address)
        writer.write(b"ping")
        found = await reader.read(4)
        writer.close()
        return found
    try:
        assert peers.call(through()) == b""
    except ConnectionError:
        pass
    path.write_text(token(endpoints=[endpoint]))
    assert peers.call(through()) == b"ping"


def test_agent_waits_for_a_good_token(new_node, real_agent, service, endpoint, host, tmp_path):
    """Refused for its token, our agent goes on (the original ends)."""
    node = new_node(arguments=["--upstream.auth.hmac-secret-key", SECRET])
    path = tmp_path / "token"
    path.write_text(token(seconds=-10))
    agent = real_agent(node.upstream, "http", endpoint, service().port, "--connect.token-file", path, wait=False)
    agent.expected_errors.append("connect failed")
    assert "expired token" in agent.wait_log("connect failed")["err"]
    path.write_text(token())
    agent.wait_log("^connected$", timeout=40)
    assert request(node.proxy, host=host).status == 200


# ---- Secrets ----

def test_row_39_secrets_show_nowhere(new_node, peers, endpoint, host, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    node = new_node(config=json.dumps({port: {"auth": {"hmac_secret_key_file": str(secret)}} for port in ("proxy", "upstream", "admin")}),
                    arguments=["--log.level", "debug"])
    mine = token()
    agent = peers.call(agents.Agent.connect(node.upstream, endpoint, agents.Recorder(), headers=bearer(mine)))
    request(node.proxy, headers=bearer(mine), host=host)
    request(node.proxy, headers=bearer(mine[:-3]), host=host)
    shown = [node.log, node.output, *(command_of(pid) for pid in node.processes()), *(command(node, word)[1] for word in ("info", "workers", "reload"))]
    for target in ("/metrics", "/status/cluster/nodes", "/status/cluster/nodes/local"):
        shown.append(request(node.admin, target=target, headers=bearer(mine), host="a").body.decode())
    peers.call(agent.close())
    for text in shown:
        assert SECRET not in text and mine not in text and mine.split(".")[2][:-4] not in text
    assert node.logged("no valid token"), "the log says what was wrong"
