"""Who may come in, and for whom they speak: access lists, trusted proxies, the PROXY protocol, and limits of connections."""

import struct
import time

import pytest

from peer import agent as agents
from peer import http1
from peer.http1 import request, wait_until
from programs import SLOW, metric
from test_reload import changed, configure

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def recording(tunnel, node):
    recorder = agents.Recorder()
    tunnel(node, recorder)
    return recorder


def refused(address, source=None, wire=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
    """Whether a connection is closed without an answer."""
    try:
        with http1.Connection(address, timeout=10 * SLOW, source=source) as client:
            client.send(wire)
            return client.read_to_end() == b""
    except ConnectionError:
        return True


def from_source(node, source, **options):
    with http1.Connection(node.proxy, timeout=10 * SLOW, source=source) as client:
        return client.request(**options)


def refusals(node, reason):
    text = request(node.admin, target="/metrics", host="admin").body.decode()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(f'piko_connections_refused_total{{reason="{reason}"}}'))


# ---- Access lists ----

def test_access_lists_of_each_port(new_node, tunnel, host):
    node = new_node(config="proxy:\n  access:\n    deny: [127.0.0.9]\nupstream:\n  access:\n    allow: [127.0.0.1/32]\n"
                           "admin:\n  access:\n    allow: [127.0.0.0/29]\n")
    recorder = recording(tunnel, node)
    assert request(node.proxy, host=host).status == 200
    assert from_source(node, "127.0.0.8", host=host).status == 200
    assert refused(node.proxy, "127.0.0.9") and refused(node.upstream, "127.0.0.2") and refused(node.admin, "127.0.0.8")
    assert not refused(node.admin, "127.0.0.7", b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert len(recorder.requests) == 2
    assert refusals(node, "access") == 3
    line = node.logged("connection refused")[0]
    assert line["port"] == "proxy" and line["client_addr"].startswith("127.0.0.9:") and line["level"] == "warn"


def test_access_refusals_are_logged_at_most_once_a_second(new_node):
    node = new_node(config="proxy:\n  access:\n    deny: [127.0.0.9]\n")
    started = time.monotonic()
    for _ in range(200):
        assert refused(node.proxy, "127.0.0.9")
    seconds = time.monotonic() - started
    assert refusals(node, "access") == 200
    assert 1 <= len(node.logged("connection refused")) <= 1 + seconds


def test_access_lists_change_with_a_reload(new_node, tunnel, host):
    node = new_node(config="proxy:\n  access:\n    deny: [127.0.0.9]\n")
    recording(tunnel, node)
    with http1.Connection(node.proxy, timeout=10 * SLOW, source="127.0.0.10") as kept:
        assert kept.request(host=host).status == 200
        configure(node, "proxy:\n  access:\n    allow: [127.0.0.9]\n")
        changed(node, "reload")
        assert from_source(node, "127.0.0.9", host=host).status == 200
        assert refused(node.proxy) and refused(node.proxy, "127.0.0.10")
        assert kept.request(host=host).status == 200, "a connection that is there stays"
    configure(node, "proxy: {}\n")
    changed(node, "reload")
    assert request(node.proxy, host=host).status == 200


def test_access_of_mapped_addresses(new_node, tunnel, host):
    """An IPv4 client of a dual-stack port is the same client."""
    node = new_node(host="", config="proxy:\n  access:\n    allow: [127.0.0.9, '::1']\n")
    node.upstream, node.admin = ("127.0.0.1", node.upstream[1]), ("127.0.0.1", node.admin[1])
    recording(tunnel, node)
    assert refused(("127.0.0.1", node.proxy[1]))
    with http1.Connection(("127.0.0.1", node.proxy[1]), timeout=10 * SLOW, source="127.0.0.9") as client:
        assert client.request(host=host).status == 200
    assert request(("::1", node.proxy[1]), host=host).status == 200


@pytest.mark.parametrize("text, says", [
    ("proxy:\n  access:\n    allow: [10.0.0.1/8]\n", "the block is 10.0.0.0/8"),
    ("proxy:\n  access:\n    deny: [localhost]\n", "is not an address block"),
    ("trusted_proxies: [none, 10.0.0.0/8]\n", "none must stand alone"),
    ("proxy:\n  proxy_protocol: true\n", "needs trusted_proxies"),
    ("upstream:\n  proxy_protocol: true\ntrusted_proxies: [none]\n", "needs trusted_proxies"),
    ("admin:\n  limits:\n    max_connections: -1\n", "is not between"),
])
def test_access_is_checked(program, tmp_path, text, says):
    path = tmp_path / "server.yaml"
    path.write_text(text)
    one = program("server", "check", "--config.path", path)
    assert one.wait() != 0 and says in one.log + one.output


# ---- Trusted proxies ----

FORGED = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "evil"), ("Forwarded", "for=6.6.6.6"), ("X-Real-IP", "6.6.6.6")]


def way(seen):
    return {name: seen.all(name) for name in ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "x-real-ip")}


def client_of(node, path):
    wait_until(lambda: any(line.get("request", {}).get("path") == path for line in node.logged("^request$")), 10 * SLOW, what="the access log")
    return next(line["client_addr"] for line in node.logged("^request$") if line["request"]["path"] == path)


def test_row_15_nothing_is_judged_by_default(node, tunnel, host):
    recorder = recording(tunnel, node)
    request(node.proxy, host=host, target="/default", headers=FORGED)
    assert way(recorder.requests[0]) == {"x-forwarded-for": ["6.6.6.6, 127.0.0.1"], "x-forwarded-proto": ["https"], "x-forwarded-host": ["evil"],
                                         "forwarded": ["for=6.6.6.6"], "x-real-ip": ["6.6.6.6"]}
    assert client_of(node, "/default") == "127.0.0.1", "the log shows who connects"


@pytest.mark.parametrize("trusted", ["none", "127.0.0.8"])
def test_row_15_forwarded_fields_of_strangers_are_replaced(new_node, tunnel, host, trusted):
    node = new_node(config=f"trusted_proxies: [{trusted}]\n")
    recorder = recording(tunnel, node)
    request(node.proxy, host=host, target="/spoof", headers=FORGED)
    assert way(recorder.requests[0]) == {
        "x-forwarded-for": ["127.0.0.1"], "x-forwarded-proto": ["http"], "x-forwarded-host": [host],
        "forwarded": [f'for=127.0.0.1;host="{host}";proto=http'], "x-real-ip": []}
    assert client_of(node, "/spoof") == "127.0.0.1"


def test_row_15_forwarded_fields_of_trusted_proxies_are_kept(new_node, tunnel, host):
    node = new_node(config="trusted_proxies: [127.0.0.8/30, 10.0.0.0/8]\n")
    recorder = recording(tunnel, node)
    from_source(node, "127.0.0.8", host=host, target="/trusted", headers=[
        ("X-Forwarded-For", "6.6.6.6, 203.0.113.7"), ("X-Forwarded-For", "10.1.1.1"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "shown"),
        ("Forwarded", "for=203.0.113.7"), ("X-Real-IP", "203.0.113.7")])
    assert way(recorder.requests[0]) == {
        "x-forwarded-for": ["6.6.6.6, 203.0.113.7, 10.1.1.1, 127.0.0.8"], "x-forwarded-proto": ["https"], "x-forwarded-host": ["shown"],
        "forwarded": [f'for=203.0.113.7, for=127.0.0.8;host="{host}";proto=http'], "x-real-ip": ["203.0.113.7"]}
    assert client_of(node, "/trusted") == "203.0.113.7"


# ---- PROXY protocol ----

def four(source, destination="127.0.0.1", ports=(4711, 80)):
    import socket
    return socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack(">HH", *ports)


def binary(rest, command=0x21, family=0x11):
    return SIGNATURE + bytes([command, family]) + struct.pack(">H", len(rest)) + rest


def announced(address, header, source="127.0.0.8", target="/", host="a", cut=None):
    wire = header + f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    with http1.Connection(address, timeout=10 * SLOW, source=source) as client:
        for piece in ([wire] if cut is None else [wire[:cut], wire[cut:]]):
            client.send(piece)
            if cut is not None:
                time.sleep(0.01)
        return client.read_response()


PROXIED = "trusted_proxies: [127.0.0.8]\nproxy:\n  proxy_protocol: true\n  access:\n    deny: [192.0.2.66]\n"


@pytest.mark.parametrize("header, client", [
    (b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 80\r\n", "203.0.113.7"),
    (b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n", "2001:db8::7"),
    (binary(four("203.0.113.7")), "203.0.113.7"),
    (binary(four("203.0.113.7") + b"\x04\x00\x02ab"), "203.0.113.7"),
    (b"PROXY UNKNOWN\r\n", "127.0.0.8"),
    (binary(b"", command=0x20, family=0), "127.0.0.8"),
], ids=["line", "line-six", "binary", "extension", "unknown", "local"])
def test_proxy_protocol_says_who_the_client_is(new_node, tunnel, host, header, client):
    node = new_node(config=PROXIED)
    recorder = recording(tunnel, node)
    for cut in (None, 1, len(header) - 1, len(header), len(header) + 5):
        assert announced(node.proxy, header, target=f"/{cut}", host=host, cut=cut).status == 200
        assert recorder.requests[-1].get("x-forwarded-for") == client
        assert client_of(node, f"/{cut}") == client


def test_proxy_protocol_is_of_trusted_addresses_only(new_node, tunnel, host):
    node = new_node(config=PROXIED)
    recorder = recording(tunnel, node)
    assert request(node.proxy, host=host).status == 200, "others come without a header"
    with http1.Connection(node.proxy, timeout=10 * SLOW) as client:
        client.send(b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 80\r\nGET /forged HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode())
        assert client.read_response().status == 400
    assert [seen.target for seen in recorder.requests] == ["/"]


@pytest.mark.parametrize("header", [
    b"", b"GET / HTTP/1.1\r\n", b"PROXY TCP4 203.0.113.7 127.0.0.1 4711\r\n", b"PROXY " + b"x" * 200, binary(four("203.0.113.7")[:-1]),
    binary(four("203.0.113.7") + b"\x03\0\4\0\0\0\0"), SIGNATURE + b"\x21\x11\xff\xff",
], ids=["none", "http", "short", "long", "cut", "checksum", "huge"])
def test_proxy_protocol_must_be_right(new_node, tunnel, host, header):
    node = new_node(config=PROXIED)
    recorder = recording(tunnel, node)
    assert refused(node.proxy, "127.0.0.8", header + b"GET /bad HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode())
    assert recorder.requests == []
    assert refusals(node, "proxy_protocol") == 1
    assert announced(node.proxy, b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 80\r\n", host=host).status == 200


def test_proxy_protocol_has_a_time(new_node):
    node = new_node(config=PROXIED + "  http:\n    read_header_timeout: 500ms\n")
    before = node.descriptor_counts()
    with http1.Connection(node.proxy, timeout=10 * SLOW, source="127.0.0.8") as client:
        client.send(b"PROXY TCP4 203.0.113.7 ")
        started = time.monotonic()
        assert client.ends(10 * SLOW)
        assert time.monotonic() - started < 5 * SLOW
    assert refusals(node, "proxy_protocol") == 1
    with http1.Connection(node.proxy, timeout=10 * SLOW, source="127.0.0.8"):
        pass
    node.assert_descriptors_return_to(before)
    assert metric(node, "piko_connections_open") == 1


def test_proxy_protocol_clients_are_judged_by_the_lists(new_node, tunnel, host):
    node = new_node(config=PROXIED)
    recorder = recording(tunnel, node)
    assert refused(node.proxy, "127.0.0.8", b"PROXY TCP4 192.0.2.66 127.0.0.1 4711 80\r\nGET / HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode())
    assert recorder.requests == [] and refusals(node, "access") == 1


def test_proxy_protocol_on_the_other_ports(new_node, tunnel, host):
    node = new_node(config="trusted_proxies: [127.0.0.8]\nupstream:\n  proxy_protocol: true\nadmin:\n  proxy_protocol: true\n  access:\n    allow: [192.0.2.0/24, 127.0.0.1]\n")
    assert announced(node.admin, b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 80\r\n", target="/health").status == 200
    assert refused(node.admin, "127.0.0.8", b"PROXY TCP4 192.0.3.1 127.0.0.1 4711 80\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n")
    assert announced(node.upstream, binary(four("203.0.113.7")), target="/piko/v1/upstream/e").status in (400, 426)
    recorder = recording(tunnel, node)
    assert request(node.proxy, host=host).status == 200 and len(recorder.requests) == 1


def test_proxy_protocol_waits_out_a_drain(new_node):
    """A connection that has not said who it is holds up neither a reload nor the end."""
    node = new_node(config=PROXIED)
    with http1.Connection(node.proxy, timeout=20 * SLOW, source="127.0.0.8") as client:
        client.send(b"PROXY ")
        configure(node, PROXIED + "  timeout: 20s\n")
        changed(node, "reload")
        assert node.stop() == 0
        assert client.ends(10 * SLOW)


# ---- Limits of connections ----

def test_limit_connections_in_all(new_node):
    node = new_node(config="proxy:\n  limits:\n    max_connections: 5\n")
    clients = [http1.Connection(node.proxy, timeout=10 * SLOW) for _ in range(5)]
    wait_until(lambda: metric(node, "piko_connections_open") >= 6, 10 * SLOW)
    assert refused(node.proxy) and refusals(node, "connections") == 1
    clients[0].close()
    wait_until(lambda: metric(node, "piko_connections_open") == 5, 10 * SLOW)
    with http1.Connection(node.proxy, timeout=10 * SLOW) as client:
        assert client.request(host="nobody.example.com").status == 502
    for client in clients:
        client.close()


@pytest.mark.parametrize("port", ["proxy", "upstream"])
def test_limit_connections_of_an_address(new_node, tunnel, host, port, transport):
    node = new_node(config=f"{port}:\n  limits:\n    max_connections_per_ip: 3\n")
    address = getattr(node, port)
    clients = [http1.Connection(address, timeout=10 * SLOW, source="127.0.0.5") for _ in range(3)]
    wait_until(lambda: metric(node, "piko_connections_open") >= 4, 10 * SLOW)
    assert refused(address, "127.0.0.5") and refusals(node, "address") == 1
    assert not refused(address, "127.0.0.6", b"GET / HTTP/1.1\r\nHost: nobody.example.com\r\nConnection: close\r\n\r\n")
    clients[0].close()
    wait_until(lambda: not refused(address, "127.0.0.5", b"GET / HTTP/1.1\r\nHost: nobody.example.com\r\nConnection: close\r\n\r\n"), 10 * SLOW)
    for client in clients:
        client.close()


def test_limit_connections_of_an_address_over_moves_crashes_and_reloads(new_node, tunnel, host):
    """Connections move to the worker that has their tunnel, and to new generations; those of a worker that dies are over."""
    import os
    import signal
    config = "proxy:\n  limits:\n    max_connections_per_ip: 4\n"
    node = new_node(config=config, workers=3)
    recording(tunnel, node)
    clients = [http1.Connection(node.proxy, timeout=10 * SLOW, source="127.0.0.5") for _ in range(4)]
    for client in clients:
        assert client.request(host=host).status == 200
    assert refused(node.proxy, "127.0.0.5")
    configure(node, config + "  timeout: 20s\n")
    changed(node, "reload")
    for client in clients:
        assert client.request(host=host).status == 200
    wait_until(lambda: len(node.workers()) == 3, 20 * SLOW)
    assert refused(node.proxy, "127.0.0.5")
    for worker in node.workers():
        os.kill(worker, signal.SIGKILL)
    for client in clients:
        assert client.ends(10 * SLOW)
        client.close()
    wait_until(lambda: len(node.workers()) == 3, 20 * SLOW)
    for _ in range(4):
        assert not refused(node.proxy, "127.0.0.5", b"GET / HTTP/1.1\r\nHost: nobody.example.com\r\nConnection: close\r\n\r\n")


def test_limit_connections_a_second(new_node):
    node = new_node(config="proxy:\n  limits:\n    max_connection_rate: 5\n")
    wire = b"GET / HTTP/1.1\r\nHost: nobody.example.com\r\nConnection: close\r\n\r\n"
    started = time.monotonic()
    served = sum(not refused(node.proxy, wire=wire) for _ in range(40))
    seconds = time.monotonic() - started
    assert 5 <= served <= 6 + 5 * seconds
    assert refusals(node, "rate") == 40 - served
    wait_until(lambda: not refused(node.proxy, wire=wire), 10 * SLOW)
