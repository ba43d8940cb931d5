"""Rows of the security table that no other file has: one name for routing and all else, credentials, slow peers, dead peers,
compression, the admin port's reach, bounds of memory, descriptors between processes. docs/security.md has the table."""

import gzip
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

from peer import agent as agents
from peer import http1
from peer.http1 import request, response, wait_until
from programs import LIBC, SLOW, become, metric, resident_bytes


def test_row_12_one_name_is_used_everywhere(node, tunnel, endpoint):
    """The header beats Host, and what it names is routed, logged and forwarded; Connection takes it from nobody."""
    first, second = agents.Recorder(), agents.Recorder()
    tunnel(node, first, name=f"{endpoint}-a")
    tunnel(node, second, name=f"{endpoint}-b")
    for headers in ([("x-piko-endpoint", f"{endpoint}-b")], [("Connection", "x-piko-endpoint"), ("x-piko-endpoint", f"{endpoint}-b")],
                    [("x-piko-endpoint", f"{endpoint}-b"), ("Connection", "close, X-Piko-Endpoint, host")]):
        assert request(node.proxy, host=f"{endpoint}-a.example.com", headers=headers).status == 200
    assert len(first.requests) == 0 and len(second.requests) == 3
    assert all(seen.get("host") == f"{endpoint}-a.example.com" for seen in second.requests)
    double = [("x-piko-endpoint", f"{endpoint}-a"), ("x-piko-endpoint", f"{endpoint}-b")]
    assert request(node.proxy, host=f"{endpoint}-a.example.com", headers=double).status == 400
    assert len(first.requests) + len(second.requests) == 3


@pytest.mark.parametrize("kind", ["http", "upgrade"])
def test_row_16_credentials_for_the_gateway_stay_here(node, tunnel, host, kind):
    recorder = agents.Recorder()
    tunnel(node, recorder)
    headers = [("x-piko-authorization", "Bearer planted"), ("X-PIKO-AUTHORIZATION-X", "mine"), ("Authorization", "Basic theirs")]
    if kind == "upgrade":
        headers += [("Connection", "upgrade"), ("Upgrade", "x")]
    assert request(node.proxy, host=host, headers=headers).status == 200
    seen = recorder.requests[0]
    assert b"planted" not in seen.head_bytes and not seen.has("x-piko-authorization")
    assert seen.get("authorization") == "Basic theirs" and seen.get("x-piko-authorization-x") == "mine"


# ---- Slow peers ----

SLOW_CONFIG = """
proxy:
  timeout: 2s
  http: {read_header_timeout: 2s, read_timeout: 2s, write_timeout: 2s, idle_timeout: 3s, min_body_rate: 100}
"""


def slow_clients(kind, node, host, count):
    """So many connections that do one thing slowly: their sockets, and what to send on each every now and then."""
    address = {"agent-head": node.upstream, "admin-head": node.admin}.get(kind, node.proxy)
    wire = {
        "head": f"GET / HTTP/1.1\r\nHost: {host}\r\n", "agent-head": "GET /piko/v1/upstream/e HTTP/1.1\r\nHost: a\r\n",
        "admin-head": "GET /health HTTP/1.1\r\nHost: a\r\n", "body": f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000\r\n\r\n",
        "chunks": f"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n", "read": f"GET /large HTTP/1.1\r\nHost: {host}\r\n\r\n", "nothing": "",
    }[kind]
    drip = {"head": b"X: 1\r\n", "agent-head": b"X: 1\r\n", "admin-head": b"X: 1\r\n", "body": b"x", "chunks": b"1\r\nx\r\n"}.get(kind, b"")
    clients = []
    for _ in range(count):
        client = http1.Connection(address, timeout=30 * SLOW, receive_buffer=4096 if kind == "read" else None)
        client.send(wire)
        clients.append(client)
    return clients, drip


@pytest.mark.parametrize("kind", ["head", "agent-head", "admin-head", "body", "chunks", "read", "nothing"])
def test_row_28_slow_clients_are_cut_and_hurt_nobody(new_node, tunnel, host, kind):
    node = new_node(workers=1, config=SLOW_CONFIG)
    large = b"x" * 4_000_000

    def respond(seen):
        return response(body=large if seen.target == "/large" else b"ok")
    tunnel(node, agents.Recorder(respond))
    assert request(node.proxy, host=host).status == 200
    before = node.descriptor_counts()
    open_before = metric(node, "piko_connections_open")
    memory = sum(resident_bytes(pid) for pid in node.workers())

    def served(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert request(node.proxy, host=host, timeout=20 * SLOW).status == 200
    served(0.2)
    clients, drip = slow_clients(kind, node, host, 30 if kind == "read" else 150)
    stop = threading.Event()
    gone = set()

    def trickle():
        while not stop.wait(0.3):
            for client in clients:
                try:
                    if drip and client not in gone:
                        client.send(drip)
                except OSError:
                    gone.add(client)
    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        served(2)  # How fast: script/slow-clients.
        # A head from its first byte, a body or a reader from its last progress: 2 s, looked at now and then; and 10 s on the other ports.
        # An agent may have opened some data connections meanwhile.
        wait_until(lambda: metric(node, "piko_connections_open") <= open_before + 10, 25 * SLOW, what=lambda: f"{metric(node, 'piko_connections_open')} connections open")
    finally:
        stop.set()
        thread.join()
        for client in clients:
            client.close()
    # Their agent's streams stay with its session.
    node.assert_descriptors_return_to(before, more=12)
    assert sum(resident_bytes(pid) for pid in node.workers()) < memory + 60_000_000


def test_row_29_an_agent_that_vanished_is_noticed(new_node, tunnel, peers, endpoint, host):
    """Its kernel answers nothing more: the session's pings notice it, and requests go elsewhere. (test_lost_packets.py pulls cables.)"""
    node = new_node()
    agent = tunnel(node, agents.Recorder(), judged=False)
    assert request(node.proxy, host=host).status == 200
    peers.call(agent.abort())
    wait_until(lambda: request(node.admin, target="/status/upstream/endpoints", host="a").body == b"{}", 20 * SLOW)
    assert request(node.proxy, host=host, timeout=20 * SLOW).status == 502


# ---- Compression ----

@pytest.mark.parametrize("kind", ["bomb", "lie", "asked"])
def test_row_36_bodies_are_not_looked_into(node, real_agent, service, endpoint, host, kind):
    packed = gzip.compress(b"\0" * 10_000_000) if kind == "bomb" else b"this is no gzip"
    recorder = agents.Recorder(lambda seen: response(headers=[("Content-Encoding", "gzip")], body=packed))
    one = service(recorder)
    real_agent(node.upstream, "http", endpoint, f"127.0.0.1:{one.port}")
    asked = [("Accept-Encoding", "br;q=1, gzip")] if kind == "asked" else []
    before = sum(resident_bytes(pid) for pid in node.workers())
    answer = request(node.proxy, host=host, headers=asked)
    assert answer.body == packed and answer.get("content-encoding") == "gzip" and answer.get("content-length") == str(len(packed))
    assert recorder.requests[0].all("accept-encoding") == [value for _, value in asked]
    assert sum(resident_bytes(pid) for pid in node.workers()) < before + 8_000_000


# ---- The admin port ----

def test_row_38_forward_reaches_known_nodes_only(node):
    """`?forward=` takes names of nodes, not addresses: nothing is connected to."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.5)
        address = f"127.0.0.1:{trap.getsockname()[1]}"
        for target in (address, f"http://{address}", f"http:%2f%2f{address}", "localhost", "127.0.0.1:22", "..%2fetc", "%00", "a" * 5000, f"x@{address}"):
            for path in ("/health", "/status/upstream/endpoints", "/metrics"):
                answer = request(node.admin, target=f"{path}?forward={target}", host="a", timeout=20 * SLOW)
                assert answer.status in (400, 404, 414), (target, answer)
        with pytest.raises(TimeoutError):
            trap.accept()


# ---- Memory ----

def test_row_41_names_heads_and_methods_are_bounded(new_node, tunnel, host):
    node = new_node(workers=1)
    tunnel(node, agents.Recorder())
    for size in (300, 60_000):
        assert request(node.proxy, host="a", headers=[("x-piko-endpoint", "e" * size)]).status == 400
    with http1.Connection(node.proxy, timeout=20 * SLOW) as client:
        try:
            client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\nX: ")
            for _ in range(100):
                client.send(b"a" * 100_000)
            assert client.read_response().status == 431
        except ConnectionError:
            pass

    def names(start, count):
        with http1.Connection(node.proxy, timeout=20 * SLOW) as client:
            for number in range(start, start + count):
                assert client.request(f"M{number}", target=f"/{number}", host=f"nobody-{number}.example.com").status == 502
    names(0, 3_000)
    memory = sum(resident_bytes(pid) for pid in node.processes())
    names(3_000, 6_000)
    assert sum(resident_bytes(pid) for pid in node.processes()) < memory + 4_000_000
    text = request(node.admin, target="/metrics", host="a").body.decode()
    assert "nobody-" not in text and text.count("\n") < 2_000


# ---- Descriptors between processes ----

def test_row_43_the_control_socket_is_the_owners(new_node):
    """Only the server's user and root may talk to it: by its mode, and by what the kernel says of who connects."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    node = new_node()
    path = node.control_socket
    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b'{"command":"info"}\n')
        assert json.loads(client.recv(65536))["ready"]
    # As if somebody had opened the file for all.
    for place in (path, path.parent):
        place.chmod(0o777)
    ask = ("import socket, sys\nclient = socket.socket(socket.AF_UNIX)\nclient.settimeout(10)\ntry:\n    client.connect(sys.argv[1])\n"
           "    client.sendall(b'{\"command\":\"info\"}\\n')\n    print(client.recv(65536))\nexcept OSError as error:\n    print('refused', error)\n")
    done = subprocess.run([sys.executable, "-c", ask, str(path)], preexec_fn=lambda: become(12345), capture_output=True, text=True, timeout=30 * SLOW)
    assert done.returncode == 0 and "pid" not in done.stdout, done


def test_row_43_descriptors_sent_to_the_control_socket_are_not_kept(new_node):
    if LIBC.geteuid() != 0:
        pytest.skip("needs root")
    node = new_node()
    before = node.descriptor_counts()
    with open(os.devnull) as null, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(node.control_socket))
        for _ in range(50):
            client.sendmsg([b'{"command":"info"}\n'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("20i", *[null.fileno()] * 20))])
        received = b""
        while received.count(b"\n") < 50:
            received += client.recv(65536)
    node.assert_descriptors_return_to(before)


def test_row_47_lists_are_enforced_in_every_form(new_node, tmp_path):
    """A flag, a file, and a file with a variable: who may not come is refused in each."""
    def is_refused(node):
        try:
            with http1.Connection(node.proxy, timeout=10 * SLOW, source="127.0.0.9") as client:
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                return client.read_to_end() == b""
        except ConnectionError:
            return True
    assert is_refused(new_node(arguments=["--proxy.access.deny", "10.0.0.0/8,127.0.0.9"]))
    assert is_refused(new_node(config="proxy:\n  access: {deny: [127.0.0.9/32]}\n"))
    assert is_refused(new_node(config="proxy:\n  access:\n    deny: ['${PIKO_TEST_DENIED}']\n",
                               arguments=["--config.expand-env"], environment={"PIKO_TEST_DENIED": "127.0.0.8/31"}))
    # A flag wins over the file; it does not add to it.
    node = new_node(config="proxy:\n  access: {deny: [127.0.0.9]}\n", arguments=["--proxy.access.deny", "127.0.0.7"])
    assert not is_refused(node)
