"""Everything at once: TLS on all ports, tokens from a key set, tenants, quotas, access lists and limits; under load while certificates,
keys and tokens are changed, the configuration is reloaded and the program is replaced. Nothing may fail."""

import asyncio
import json
import os
import ssl
import threading
import time

import pytest

from peer import agent as agents
from peer.http1 import wait_until
from peer.http1 import response
from programs import SLOW
from test_auth import RSA, OTHER_RSA, bearer, jwk, token
from test_reload import changed, configure
from test_tls import SecureConnection, certificates, client_context, make_certificate, pytestmark  # noqa: F401


def config(folder, access="127.0.0.0/8"):
    ports = "".join(f"""
{port}:
  tls: {{cert: {folder}/live.pem, key: {folder}/live.key}}
  access: {{allow: [{access}]}}
  limits: {{max_connections: 5000, max_connection_rate: 5000, max_connections_per_ip: 5000}}
""" for port in ("proxy", "upstream", "admin"))
    keys = f"{{jwks: {{endpoint: 'file://{folder}/keys.json'}}, issuer: tests, audience: piko, require_endpoints: true}}"
    tenants = f"""  tenants:
    - id: acme
      auth: {keys}
      proxy_auth: {keys}
      limits: {{max_tunnels: 50, max_endpoints: 10, max_streams: 1000, max_request_rate: 100000}}
"""
    admin = f"  auth: {{jwks: {{endpoint: 'file://{folder}/keys.json'}}}}\n"
    text = ports.replace("\nadmin:\n", tenants + "\nadmin:\n") + admin
    return text + "trusted_proxies: [none]\ncluster:\n  gossip:\n    secret_keys: [the key of the cluster]\n"


class Everything:
    """The files, which are replaced as operators do: written beside and renamed."""

    def __init__(self, folder, authority, endpoint):
        self.folder, self.authority, self.endpoint = folder, authority, endpoint
        self.number = 0
        self.certificate()
        self.keys(("a", RSA))
        self.tokens("a", RSA)

    def _replace(self, name, data):
        (self.folder / f"{name}.new").write_bytes(data)
        os.rename(self.folder / f"{name}.new", self.folder / name)

    def certificate(self):
        """A new one, for the same names."""
        self.number += 1
        name = f"server{self.number}"
        for file in ("authority.pem", "authority.key"):
            (self.folder / file).write_bytes((self.authority / file).read_bytes())
        make_certificate(self.folder, name, "DNS:localhost,DNS:*.example.com,IP:127.0.0.1")
        self._replace("live.key", (self.folder / f"{name}.key").read_bytes())
        self._replace("live.pem", (self.folder / f"{name}.pem").read_bytes())

    def keys(self, *pairs):
        self._replace("keys.json", json.dumps({"keys": [jwk(key, kid=kid) for kid, key in pairs]}).encode())

    def tokens(self, kid, key):
        claims = {"iss": "tests", "aud": ["piko"], "endpoints": [self.endpoint, self.endpoint + "-*"], "headers": {"kid": kid}}
        limits = {"limits": {"max_streams": 500, "max_request_rate": 50_000}}
        names = {"endpoints": claims.pop("endpoints"), **limits}
        self.client = token(key, "RS256", sub="client", piko=names, **claims)
        self._replace("agent", token(key, "RS256", sub="agent", piko={"endpoints": names["endpoints"], "limits": {"max_tunnels": 20}}, **claims).encode())
        self._replace("client", self.client.encode())
        self.people = token(key, "RS256", headers={"kid": kid})


class Load:
    """Clients with kept and with new connections, short and long bodies, and TCP connections through forward."""

    def __init__(self, everything, node, context, host, address):
        self.everything, self.node, self.context, self.host, self.address = everything, node, context, host, address
        self.failures, self.answers, self.is_over = [], 0, False
        self.threads = [threading.Thread(target=self._run, args=(kind,)) for kind in ("kept", "kept", "fresh", "long", "tcp")]
        for thread in self.threads:
            thread.start()

    def headers(self):
        return [("x-piko-tenant-id", "acme"), *bearer(self.everything.client)]

    def _exchange(self, connection, body=b""):
        answer = connection.request("POST" if body else "GET", headers=self.headers(), body=body, host=self.host)
        assert (answer.status, answer.body) == (200, b"%d" % len(body)), answer
        return answer

    def _run(self, kind):
        connection = None
        while not self.is_over:
            try:
                if kind == "tcp":
                    asyncio.run(self._through())
                else:
                    connection = connection or SecureConnection(self.node.proxy, self.context, timeout=30 * SLOW)
                    answer = self._exchange(connection, b"x" * 200_000 if kind == "long" else b"")
                    if kind == "fresh" or "close" in (answer.get("connection") or ""):
                        connection.close()
                        connection = None
                self.answers += 1
            except (OSError, EOFError, AssertionError, ssl.SSLError) as error:
                self.failures.append((kind, time.time(), repr(error)))
                connection = None
            time.sleep(0.005)
        if connection:
            connection.close()

    async def _through(self):
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(b"ping")
        found = await asyncio.wait_for(reader.read(4), 30 * SLOW)
        writer.close()
        assert found == b"ping", found

    def runs(self, more=40):
        """Waits for so many more answers."""
        count = self.answers + more
        wait_until(lambda: self.answers >= count or self.failures, 60 * SLOW, "more answers")

    def stop(self):
        self.is_over = True
        for thread in self.threads:
            thread.join()


@pytest.mark.timeout(240 * SLOW)
def test_everything_changes_under_load(new_node, certificates, real_agent, real_forward, service, endpoint, host, tmp_path):
    everything = Everything(tmp_path, certificates, endpoint)
    node = new_node(workers=3, config=config(tmp_path), arguments=["--proxy.access-log.disable"])
    roots = ["--connect.tls.root-cas", certificates / "authority.pem", "--connect.tenant-id", "acme", "--connect.token-file"]

    async def echo(stream):
        await stream.write(await stream.read_exactly(4))
    counting = agents.Recorder(lambda seen: response(body=b"%d" % len(seen.body)))
    secure = f"https://localhost:{node.upstream[1]}"
    for number in range(2):
        real_agent(secure, "http", endpoint, service(counting).port, *roots, tmp_path / "agent")
    real_agent(secure, "tcp", f"{endpoint}-tcp", service(echo).port, *roots, tmp_path / "agent")
    forward = real_forward(("localhost", node.proxy[1]), f"{endpoint}-tcp", "--connect.url", f"https://localhost:{node.proxy[1]}", *roots, tmp_path / "client")
    context = client_context(certificates)

    def serial():
        with SecureConnection(node.proxy, context) as connection:
            return connection.socket.getpeercert()["serialNumber"]

    def endpoints():
        with SecureConnection(node.admin, context) as connection:
            answer = connection.request(target="/status/upstream/endpoints", host="admin", headers=bearer(everything.people))
            return json.loads(answer.body) if answer.status == 200 else answer.status
    names = {f"acme/{endpoint}": 2, f"acme/{endpoint}-tcp": 1}
    wait_until(lambda: endpoints() == names, 10 * SLOW, endpoints)
    load = Load(everything, node, context, host, forward.address)
    try:
        load.runs()
        before = serial()
        everything.certificate()
        wait_until(lambda: serial() != before, 15 * SLOW, "the new certificate, without being told")
        everything.keys(("a", RSA), ("b", OTHER_RSA))
        people = token(OTHER_RSA, "RS256", headers={"kid": "b"})

        def knows_the_key():
            with SecureConnection(node.admin, context) as connection:
                return connection.request(target="/status/upstream/endpoints", host="admin", headers=bearer(people)).status == 200
        # Each worker is told by itself; a few in a row is all of them, most likely.
        wait_until(lambda: all(knows_the_key() for _ in range(9)), 15 * SLOW, "the new key, without being told")
        load.runs()
        everything.tokens("b", OTHER_RSA)
        load.runs()
        changed(node, "reload")
        load.runs()
        everything.keys(("b", OTHER_RSA))
        changed(node, "upgrade")
        load.runs()
        configure(node, config(tmp_path, "127.0.0.0/9"))
        everything.certificate()
        changed(node, "reload")
        load.runs()
        changed(node, "upgrade")
        load.runs()
    finally:
        load.stop()
    assert load.failures == [], load.failures[:5]
    wait_until(lambda: endpoints() == names, 15 * SLOW, endpoints)
    with SecureConnection(node.proxy, context) as connection:
        answer = connection.request(headers=[("x-piko-tenant-id", "acme"), *bearer(token(RSA, "RS256", iss="tests", aud="piko", headers={"kid": "a"}))], host=host)
        assert answer.status == 401, "the key is gone"
