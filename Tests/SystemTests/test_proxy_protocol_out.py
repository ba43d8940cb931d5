"""The PROXY protocol towards a TCP service: whichever way a stream comes, the service is told who the client is."""

import socket
import struct

import pytest

from peer import http1
from programs import SLOW
from test_access import announced
from test_reload import changed, configure
from test_tcp_forward import TcpTunnel

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


class Announced:
    """A TCP service that keeps each connection's header and echoes what follows."""

    def __init__(self):
        self.headers = []

    async def __call__(self, stream):
        start = await stream.read_exactly(6)
        if start == b"PROXY ":
            line = await stream.read_until(b"\r\n")
            self.headers.append(tuple(line[:-2].decode().split(" ")))
        else:
            rest = start + await stream.read_exactly(10)
            assert rest[:12] == SIGNATURE, rest
            body = await stream.read_exactly(struct.unpack(">H", rest[14:])[0])
            family = {0x11: socket.AF_INET, 0x21: socket.AF_INET6}.get(rest[13])
            if family is None:
                self.headers.append((f"{rest[12]:x}", "none"))
            else:
                size = 4 if family == socket.AF_INET else 16
                ends = [socket.inet_ntop(family, body[at:at + size]) for at in (0, size)]
                self.headers.append((f"{rest[12]:x}", *ends, *map(str, struct.unpack(">HH", body[2 * size:2 * size + 4]))))
        while data := await stream.read():
            await stream.write(data)
        await stream.finish()


def talk(node, endpoint, source=None, headers=""):
    """One connection through the tunnel; the client's port."""
    client = TcpTunnel(node, endpoint, headers, source)
    assert client.answer.status == 101
    client.send(b"hello")
    assert client.read_exactly(5) == b"hello"
    port = client.connection.socket.getsockname()[1]
    client.connection.close()
    return port


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_proxy_protocol_out(node, service, real_agent, endpoint, version, transport):
    seen = Announced()
    one = service(seen)
    real_agent(node.upstream, "tcp", endpoint, f"127.0.0.1:{one.port}", "--proxy-protocol", version)
    first = "TCP4" if version == "v1" else "21"
    # The first comes through the session, the others mostly over data connections.
    for number in range(5):
        port = talk(node, endpoint, source="127.0.0.77" if number % 2 else None)
        assert seen.headers[-1] == (first, "127.0.0.77" if number % 2 else "127.0.0.1", "127.0.0.1", str(port), str(one.port))


def test_proxy_protocol_out_through_forward(node, service, real_agent, real_forward, endpoint):
    seen = Announced()
    one = service(seen)
    real_agent(node.upstream, "tcp", endpoint, f"127.0.0.1:{one.port}", "--proxy-protocol", "v1")
    forward = real_forward(node.proxy, endpoint)
    for _ in range(3):
        with socket.create_connection(forward.address, 10 * SLOW) as client:
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
    assert [header[:3] for header in seen.headers] == [("TCP4", "127.0.0.1", "127.0.0.1")] * 3


def test_proxy_protocol_out_says_whom_a_trusted_proxy_names(new_node, service, real_agent, endpoint):
    node = new_node(config="trusted_proxies: [127.0.0.8]\n")
    seen = Announced()
    one = service(seen)
    real_agent(node.upstream, "tcp", endpoint, f"127.0.0.1:{one.port}", "--proxy-protocol", "v1")
    for source, expected in (("127.0.0.8", "203.0.113.7"), ("127.0.0.9", "127.0.0.9"), ("127.0.0.8", "203.0.113.7")):
        talk(node, endpoint, source, "X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\n")
        assert seen.headers[-1][1] == expected


def test_proxy_protocol_in_and_out(new_node, service, real_agent, endpoint):
    """An IPv6 client of a load balancer, and a service that listens on IPv4."""
    node = new_node(config="trusted_proxies: [127.0.0.8]\nproxy:\n  proxy_protocol: true\n")
    seen = Announced()
    one = service(seen)
    real_agent(node.upstream, "tcp", endpoint, f"127.0.0.1:{one.port}", "--proxy-protocol", "v2")
    with http1.Connection(node.proxy, timeout=10 * SLOW, source="127.0.0.8") as client:
        client.send(b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n" + (
            f"GET /_piko/v1/tcp/{endpoint} HTTP/1.1\r\nHost: x\r\nUpgrade: piko-raw/1\r\nConnection: Upgrade\r\n\r\n").encode())
        assert client.read_response().status == 101
        client.send(b"hello")
        assert client.read_exactly(5) == b"hello"
    assert seen.headers == [("21", "2001:db8::7", "::ffff:127.0.0.1", "4711", str(one.port))]


def test_proxy_protocol_out_outlives_a_reload(new_node, service, real_agent, endpoint):
    """The session moves to a worker of the next generation, which knows that its streams begin with their client."""
    node = new_node(config="proxy: {}\n")
    seen = Announced()
    one = service(seen)
    real_agent(node.upstream, "tcp", endpoint, f"127.0.0.1:{one.port}", "--proxy-protocol", "v1")
    talk(node, endpoint, "127.0.0.5")
    configure(node, "proxy:\n  timeout: 20s\n")
    changed(node, "reload")
    for _ in range(3):
        talk(node, endpoint, "127.0.0.6")
    assert [header[1] for header in seen.headers] == ["127.0.0.5"] + ["127.0.0.6"] * 3


def test_proxy_protocol_out_of_a_server_that_does_not_say(python_server, service, real_agent, endpoint, peers, transport):
    """A public server opens a stream without a word about its client."""
    server = python_server()
    seen = Announced()
    one = service(seen)
    real_agent(server.upstream_address, "tcp", endpoint, f"127.0.0.1:{one.port}", "--proxy-protocol", "v1")

    async def use():
        stream = await (await server.tunnel(endpoint)).session.open()
        await stream.write(b"hello")
        data = await stream.read_exactly(5)
        await stream.finish()
        return data
    assert peers.call(use()) == b"hello"
    assert seen.headers == [("UNKNOWN",)]


def test_proxy_protocol_is_for_tcp_listeners(program, tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text("listeners:\n  - {endpoint_id: a, addr: 3000, proxy_protocol: v1}\n")
    one = program("agent", "start", "--config.path", path)
    assert one.wait() != 0 and "is for tcp listeners" in one.log + one.output


def test_proxy_protocol_health_checks_reach_http(new_node, tunnel, host):
    """What `announced` relies on: a header may come in one piece with the request, and the connection closes after it."""
    node = new_node(config="trusted_proxies: [127.0.0.8]\nproxy:\n  proxy_protocol: true\n")
    assert announced(node.proxy, b"PROXY UNKNOWN\r\n", host="nobody.example.com").status == 502
