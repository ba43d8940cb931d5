"""The proxy port, well-behaved clients: routing, bodies, framing, headers, errors. The agent is the Python peer, so that
what reaches a service is seen byte for byte."""

import asyncio
import json
import random
import socket
import threading
import time

import pytest

from peer import agent as agents
from peer import http1, yamux
from peer.http1 import chunk, request, response, wait_until
from programs import SLOW, scaled


def test_request_and_answer(node, tunnel, endpoint, host):
    recorder = agents.Recorder(body=b"hello from the service")
    tunnel(node, recorder)
    answer = request(node.proxy, "GET", "/path?query=1&x=%20", [("User-Agent", "test"), ("Accept", "a"), ("Accept", "b")], host=host)
    assert (answer.status, answer.body) == (200, b"hello from the service")
    assert answer.get("content-type") == "text/plain"
    (seen,) = recorder.requests
    assert (seen.method, seen.target, seen.version) == ("GET", "/path?query=1&x=%20", "1.1")
    assert seen.all("host") == [host] and seen.get("user-agent") == "test" and seen.all("accept") == ["a", "b"]
    assert seen.get("x-forwarded-for") == "127.0.0.1"


def test_endpoint_header_beats_host(node, tunnel, endpoint):
    recorder = agents.Recorder()
    tunnel(node, recorder)
    for host in ("other.example.com", "127.0.0.1:8000", "localhost", "[::1]:80"):
        assert request(node.proxy, host=host, headers=[("x-piko-endpoint", endpoint)]).status == 200
        assert recorder.requests[-1].all("host") == [host]


@pytest.mark.parametrize("host_form", ["{}.example.com", "{}.example.com:8000", "{}.b"])
def test_endpoint_by_host(node, tunnel, endpoint, host_form):
    tunnel(node)
    assert request(node.proxy, host=host_form.format(endpoint)).status == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.1:8000", "[::1]", "[::1]:8000", "localhost:80"])
def test_missing_endpoint(node, host):
    with http1.Connection(node.proxy) as client:
        answer = client.request(host=host)
        assert answer.status == 400 and json.loads(answer.body) == {"error": "missing endpoint id"}
        assert answer.get("content-type").startswith("application/json")
        assert client.request(host=host).status == 400, "the connection stays usable"


def test_no_available_upstreams(node):
    answer = request(node.proxy, host="nobody.example.com")
    assert answer.status == 502 and json.loads(answer.body) == {"error": "no available upstreams"}
    assert answer.get("content-type").startswith("application/json")
    assert answer.get("x-content-type-options") == "nosniff"


def test_upstream_unreachable(node, tunnel, endpoint, host):
    """The agent refuses each stream: a request with a body that may not be repeated fails with 502."""
    async def refuse(stream):
        await stream.reset()
    tunnel(node, refuse)
    answer = request(node.proxy, "POST", host=host, body=b"x")
    assert answer.status == 502 and json.loads(answer.body)["error"] in ("upstream unreachable", "no available upstreams")


def test_upstream_timeout(new_node, tunnel, host):
    """proxy.timeout bounds the time to the head only: a body may take as long as it makes progress."""
    node = new_node(arguments=["--proxy.timeout", "1s"])

    async def handler(stream):
        request = await http1.read_message(stream)
        if request.target == "/never":
            await asyncio.sleep(60)
        await stream.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for index in range(6):
            await asyncio.sleep(0.3)
            await stream.write(chunk(b"part %d\n" % index))
        await stream.write(b"0\r\n\r\n")
        await stream.finish()
    tunnel(node, handler)
    began = time.monotonic()
    answer = request(node.proxy, target="/never", host=host)
    assert answer.status == 504 and json.loads(answer.body) == {"error": "upstream timeout"}
    assert 0.9 < time.monotonic() - began < 5 * SLOW
    assert request(node.proxy, target="/slow-body", host=host).body.count(b"part") == 6


@pytest.mark.parametrize("size", [0, 1, 1000, 65536, 262144, 262145, 3_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_bodies_both_ways(node, tunnel, host, size, framing):
    data = random.Random(size).randbytes(size)
    recorder = agents.Recorder()

    def respond(seen):
        if framing == "length":
            return response(body=seen.body)
        pieces = [seen.body[at:at + 50_000] for at in range(0, len(seen.body), 50_000)]
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(map(chunk, pieces)) + b"0\r\n\r\n"
    recorder.respond = respond
    tunnel(node, recorder)
    with http1.Connection(node.proxy, timeout=30 * SLOW) as client:
        for _ in range(2):
            if framing == "length":
                client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\n\r\n".encode())
                sender = threading.Thread(target=client.send, args=(data,))
            else:
                client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n")
                wire = b"".join(chunk(data[at:at + 7777]) for at in range(0, size, 7777)) + b"0\r\n\r\n"
                sender = threading.Thread(target=client.send, args=(wire,))
            sender.start()
            answer = client.read_response("POST")
            sender.join()
            assert answer.status == 200 and answer.body == data
            assert recorder.requests[-1].body == data
            assert answer.chunked == (framing == "chunked")


def test_chunked_with_trailers_both_ways(node, tunnel, host):
    recorder = agents.Recorder(lambda seen: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Digest\r\n\r\n"
                               + chunk(b"abc") + b"0\r\nDigest: of-the-answer\r\nServer-Timing: x\r\n\r\n")
    tunnel(node, recorder)
    with http1.Connection(node.proxy) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nTrailer: Digest\r\nTE: trailers\r\n\r\n")
        client.send(chunk(b"hello ") + chunk(b"world") + b"0\r\nDigest: of-the-request\r\n\r\n")
        answer = client.read_response("POST")
        assert answer.body == b"abc" and answer.trailer("digest") == "of-the-answer" and answer.trailer("server-timing") == "x"
        assert recorder.requests[0].body == b"hello world"
        assert recorder.requests[0].trailer("digest") == "of-the-request"
        assert client.request(host=host).status == 200


@pytest.mark.parametrize("extension", [b";a=b", b';a="b c"', b";a;b=c"])
def test_chunk_extensions_are_read_and_dropped(node, tunnel, host, extension):
    recorder = agents.Recorder()
    tunnel(node, recorder)
    with http1.Connection(node.proxy) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(chunk(b"hello", extension) + b"0\r\n\r\n")
        assert client.read_response("POST").status == 200
    assert recorder.requests[0].body == b"hello"


def test_every_split_of_a_request(node, tunnel, host):
    """Whatever TCP does to a request, the same request arrives."""
    recorder = agents.Recorder()
    tunnel(node, recorder)
    wire = (f"POST /x HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            + chunk(b"hello") + chunk(b"world") + b"0\r\nA: b\r\n\r\n")
    with http1.Connection(node.proxy) as client:
        for at in range(1, len(wire), 3):
            client.send(wire[:at])
            time.sleep(0.001)
            client.send(wire[at:])
            assert client.read_response("POST").status == 200
            assert recorder.requests[-1].body == b"helloworld"
        for at in range(len(wire)):
            client.send(wire[at:at + 1])
        assert client.read_response("POST").status == 200
        assert recorder.requests[-1].body == b"helloworld"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "BREW"])
def test_methods(node, tunnel, host, method):
    recorder = agents.Recorder(lambda seen: response(body=b"" if seen.method == "HEAD" else b"body"))
    tunnel(node, recorder)
    assert request(node.proxy, method, host=host).status == 200
    assert recorder.requests[0].method == method


def test_head_keeps_length_and_connection(node, tunnel, host):
    recorder = agents.Recorder(lambda seen: b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" if seen.method == "HEAD" else response(body=b"x"))
    tunnel(node, recorder)
    with http1.Connection(node.proxy) as client:
        answer = client.request("HEAD", host=host)
        assert answer.get("content-length") == "1000" and answer.body == b""
        assert client.request(host=host).body == b"x"


def test_head_of_a_chunked_answer(node, tunnel, host):
    recorder = agents.Recorder(lambda seen: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" if seen.method == "HEAD" else response(body=b"x"))
    tunnel(node, recorder)
    with http1.Connection(node.proxy) as client:
        assert client.request("HEAD", host=host).status == 200
        assert client.request(host=host).body == b"x"


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_body(node, tunnel, host, status):
    recorder = agents.Recorder(lambda seen: response(status, "Nothing", [("ETag", '"x"')], length=False))
    tunnel(node, recorder)
    with http1.Connection(node.proxy) as client:
        for _ in range(3):
            answer = client.request(host=host)
            assert answer.status == status and answer.get("etag") == '"x"' and not answer.has("content-length")


def test_304_may_name_a_length(node, tunnel, host):
    recorder = agents.Recorder(lambda seen: b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n")
    tunnel(node, recorder)
    with http1.Connection(node.proxy) as client:
        for _ in range(2):
            assert client.request(host=host).status == 304


def test_answer_until_close(node, tunnel, host):
    """A body that ends with the stream reaches the client whole, framed or followed by the end of the connection."""
    async def handler(stream):
        await http1.read_message(stream)
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Type: x/y\r\n\r\n" + b"0123456789" * 10_000)
        await stream.finish()
    tunnel(node, handler)
    assert request(node.proxy, host=host).body == b"0123456789" * 10_000
    with http1.Connection(node.proxy) as client:
        assert client.request(host=host, version="1.0").body == b"0123456789" * 10_000
        assert client.ends()


def test_answer_cut_short(node, tunnel, host):
    """The service dies in the body: the client must be able to see that the body is not whole."""
    async def handler(stream):
        seen = await http1.read_message(stream)
        if seen.target == "/length":
            await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
        else:
            await stream.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"only this"))
        await (stream.finish() if seen.get("x-how") == "finish" else stream.reset())
    tunnel(node, handler)
    for target in ("/length", "/chunked"):
        for how in ("finish", "reset"):
            with pytest.raises((EOFError, ConnectionError)):
                request(node.proxy, target=target, headers=[("x-how", how)], host=host)


@pytest.mark.parametrize("status", [100, 102, 103])
def test_informational_answers_pass(node, tunnel, host, status):
    recorder = agents.Recorder(lambda seen: f"HTTP/1.1 {status} Early\r\nLink: </x>; rel=preload\r\n\r\n".encode() * 2 + response(body=b"final"))
    tunnel(node, recorder)
    with http1.Connection(node.proxy) as client:
        answer = client.request(host=host, headers=[("Expect", "100-continue")] if status == 100 else [])
        assert answer.body == b"final"
        if status != 100:
            assert [one.status for one in answer.informational] == [status, status]
            assert answer.informational[0].get("link") == "</x>; rel=preload"
        assert client.request(host=host).body == b"final"


def test_informational_answers_do_not_reach_http_1_0(node, tunnel, host):
    recorder = agents.Recorder(lambda seen: b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + response(body=b"final"))
    tunnel(node, recorder)
    answer = request(node.proxy, host=host, version="1.0")
    assert answer.body == b"final" and answer.informational == []


def test_expect_continue(node, tunnel, host):
    async def handler(stream):
        head = await stream.read_until(b"\r\n\r\n")
        assert b"100-continue" in head
        await stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await stream.read_exactly(5) == b"hello"
        await stream.write(response(body=b"thanks"))
        await stream.finish()
    tunnel(node, handler)
    with http1.Connection(node.proxy) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        client.send(b"hello")
        assert client.read_response("POST").body == b"thanks"


def test_early_final_answer_to_expect(node, tunnel, host):
    """A final status without reading the body leaves nothing that could be taken for a request."""
    recorder = []

    async def handler(stream):
        head = await stream.read_until(b"\r\n\r\n")
        recorder.append(head)
        await stream.write(response(417, "No") if b"POST" in head else response(body=b"next"))
        await stream.finish()
    tunnel(node, handler)
    with http1.Connection(node.proxy) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 30\r\nExpect: 100-continue\r\n\r\n")
        answer = client.read_response("POST")
        assert answer.status == 417
        if "close" not in answer.options():
            client.send(b"GET /smuggled HTTP/1.1\r\nHost: x\r\n"[:30].ljust(30, b"x"))
            assert client.request(host=host).body == b"next"
        else:
            assert client.ends()
    assert request(node.proxy, host=host).body == b"next"
    assert not any(b"smuggled" in head for head in recorder)


def test_early_answer_to_a_large_upload(node, tunnel, host):
    """The service answers 413 and reads no more: the client gets the answer although it is still sending."""
    async def handler(stream):
        await stream.read_until(b"\r\n\r\n")
        await stream.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
        await stream.finish()
        await asyncio.sleep(0.2)
        await stream.reset()
    tunnel(node, handler)
    with http1.Connection(node.proxy) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000000\r\n\r\n")
        client.send(b"x" * 100_000)
        answer = client.read_response("POST")
        assert answer.status == 413 and answer.body == b"big"


def test_keep_alive_and_many_requests(node, tunnel, host):
    recorder = agents.Recorder(lambda seen: response(body=seen.target.encode()))
    tunnel(node, recorder)
    with http1.Connection(node.proxy) as client:
        for index in range(200):
            assert client.request(target=f"/{index}", host=host).body == f"/{index}".encode()
    assert [seen.target for seen in recorder.requests] == [f"/{index}" for index in range(200)]


def test_pipelining_keeps_order(node, tunnel, host):
    async def respond(seen):
        await asyncio.sleep(0.05 if seen.target == "/0" else 0)
        return response(body=seen.target.encode())
    recorder = agents.Recorder(respond)
    tunnel(node, recorder)
    with http1.Connection(node.proxy) as client:
        client.send("".join(f"GET /{index} HTTP/1.1\r\nHost: {host}\r\n\r\n" for index in range(50)))
        for index in range(50):
            assert client.read_response().body == f"/{index}".encode()


def test_pipelining_with_bodies_and_several_endpoints(node, tunnel, endpoint):
    first, second = agents.Recorder(lambda seen: response(body=b"1" + seen.body)), agents.Recorder(lambda seen: response(body=b"2" + seen.body))
    tunnel(node, first, name=endpoint + "a")
    tunnel(node, second, name=endpoint + "b")
    with http1.Connection(node.proxy) as client:
        wire = b""
        for index in range(20):
            name = endpoint + "ab"[index % 2]
            if index % 3:
                wire += f"POST / HTTP/1.1\r\nHost: {name}.x.y\r\nContent-Length: 4\r\n\r\nb{index:03}".encode()
            else:
                wire += (f"POST / HTTP/1.1\r\nHost: {name}.x.y\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
                         + chunk(b"c%03d" % index) + b"0\r\n\r\n")
        client.send(wire)
        for index in range(20):
            expected = f"{index % 2 + 1}{'b' if index % 3 else 'c'}{index:03}"
            assert client.read_response("POST").body == expected.encode()


def test_connection_close_is_kept(node, tunnel, host):
    tunnel(node)
    with http1.Connection(node.proxy) as client:
        answer = client.request(host=host, headers=[("Connection", "close")])
        assert answer.body == b"hello" and "close" in answer.options() and client.ends()


def test_http_1_0(node, tunnel, host):
    tunnel(node)
    with http1.Connection(node.proxy) as client:
        answer = client.request(host=host, version="1.0")
        assert answer.body == b"hello" and not answer.chunked and client.ends()
    with http1.Connection(node.proxy) as client:
        answer = client.request(host=host, version="1.0", headers=[("Connection", "keep-alive")])
        assert answer.body == b"hello"
        if "keep-alive" in answer.options():
            assert client.request(host=host, version="1.0").body == b"hello"
        assert client.ends()


def test_http_1_0_gets_no_chunks(node, tunnel, host):
    tunnel(node, agents.Recorder(lambda seen: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"abc") + chunk(b"def") + b"0\r\n\r\n"))
    with http1.Connection(node.proxy) as client:
        answer = client.request(host=host, version="1.0", headers=[("Connection", "keep-alive")])
        assert answer.body == b"abcdef" and not answer.chunked


def test_hop_by_hop_fields_are_dropped(node, tunnel, host):
    recorder = agents.Recorder(lambda seen: response(headers=[("Connection", "X-Once"), ("X-Once", "1"), ("Keep-Alive", "timeout=5"),
                                                              ("Proxy-Authenticate", "Basic"), ("X-Kept", "1")], body=b"x"))
    tunnel(node, recorder)
    answer = request(node.proxy, host=host, headers=[
        ("Connection", "X-Drop, keep-alive"), ("X-Drop", "1"), ("Keep-Alive", "timeout=5"), ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic x"), ("TE", "gzip"), ("Upgrade", "h2c"), ("X-Keep", "1")])
    (seen,) = recorder.requests
    for name in ("x-drop", "keep-alive", "proxy-connection", "te", "upgrade"):
        assert not seen.has(name), name
    assert seen.get("x-keep") == "1"
    assert not answer.has("x-once") and not answer.has("keep-alive") and answer.get("x-kept") == "1"


def test_own_headers_do_not_leak(node, tunnel, endpoint, host):
    """`x-piko-forward: true` is the server's own word to services."""
    recorder = agents.Recorder()
    tunnel(node, recorder)
    request(node.proxy, host=host, headers=[("x-piko-authorization", "Bearer secret"), ("X-Piko-Endpoint", endpoint),
                                            ("x-piko-forward", "spoofed"), ("x-piko-node", "n; t=1; mac=x"), ("Authorization", "Basic for-the-service")])
    (seen,) = recorder.requests
    assert not seen.has("x-piko-authorization") and not seen.has("x-piko-endpoint") and not seen.has("x-piko-node")
    assert seen.all("x-piko-forward") in (["true"], [])
    assert seen.get("authorization") == "Basic for-the-service"


def test_x_forwarded_for_is_appended(node, tunnel, host):
    recorder = agents.Recorder()
    tunnel(node, recorder)
    request(node.proxy, host=host, headers=[("X-Forwarded-For", "1.2.3.4")])
    request(node.proxy, host=host, headers=[("X-Forwarded-For", "1.2.3.4, 5.6.7.8"), ("X-Forwarded-For", "9.9.9.9")])
    values = [", ".join(seen.all("x-forwarded-for")) for seen in recorder.requests]
    assert values == ["1.2.3.4, 127.0.0.1", "1.2.3.4, 5.6.7.8, 9.9.9.9, 127.0.0.1"]


def test_multiple_field_lines_keep_order_and_bytes(node, tunnel, host):
    cookies = [("Set-Cookie", f"c{index}=v; Path=/") for index in range(5)]
    recorder = agents.Recorder(lambda seen: response(headers=cookies + [("X-Bytes", "caf\xe9"), ("X-Empty", "")], body=b"x"))
    tunnel(node, recorder)
    answer = request(node.proxy, host=host, headers=[("X-Bytes", "caf\xe9"), ("x-lower", "a"), ("X-UPPER", "b"), ("X-Empty", "")])
    assert answer.all("set-cookie") == [value for _, value in cookies]
    assert answer.get("x-bytes") == "caf\xe9" and answer.get("x-empty") == ""
    (seen,) = recorder.requests
    assert seen.get("x-bytes") == "caf\xe9" and seen.get("x-empty") == "" and ("x-lower", "a") in seen.headers and ("X-UPPER", "b") in seen.headers


def test_nothing_is_added_or_inflated(node, tunnel, host):
    """No Accept-Encoding of our own, a body that claims gzip passes as it is."""
    recorder = agents.Recorder(lambda seen: response(headers=[("Content-Encoding", "gzip")], body=b"not gzip at all"))
    tunnel(node, recorder)
    answer = request(node.proxy, host=host)
    assert answer.body == b"not gzip at all" and answer.get("content-encoding") == "gzip"
    names = {name.lower() for name, _ in recorder.requests[0].headers}
    assert names <= {"host", "x-forwarded-for", "x-piko-forward", "traceparent", "x-request-id", "connection"}, names


def test_load_is_spread_over_tunnels(node, tunnel, host):
    recorders = [agents.Recorder() for _ in range(4)]
    for recorder in recorders:
        tunnel(node, recorder)
    for _ in range(80):
        request(node.proxy, host=host)
    counts = [len(recorder.requests) for recorder in recorders]
    assert sum(counts) == 80 and min(counts) >= 5, counts


def test_retry_on_another_tunnel(node, tunnel, host):
    """One tunnel resets every stream unread: what may be repeated is tried on the other one, and no client sees it."""
    async def refuse(stream):
        await stream.reset()
    tunnel(node, refuse)
    recorder = agents.Recorder()
    tunnel(node, recorder)
    for _ in range(30):
        assert request(node.proxy, host=host).body == b"hello"
    assert len(recorder.requests) == 30


def test_go_away_loses_no_request(node, tunnel, peers, host):
    """After a go-away new requests take the other tunnel, the running one is finished, and the
    endpoint stays registered."""
    release = []

    async def slow(stream):
        seen = await http1.read_message(stream)
        event = asyncio.Event()
        release.append((asyncio.get_running_loop(), event))
        await event.wait()
        await stream.write(response(body=b"slow"))
        await stream.finish()
    first = tunnel(node, slow)
    with http1.Connection(node.proxy) as client:
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
        wait_until(lambda: release, what="the request at the first agent")
        recorder = agents.Recorder(body=b"second")
        tunnel(node, recorder)
        peers.call(first.session.go_away())
        peers.call(first.session.ping(1))
        for _ in range(20):
            assert request(node.proxy, host=host).body == b"second"
        loop, event = release[0]
        loop.call_soon_threadsafe(event.set)
        assert client.read_response().body == b"slow"


def test_large_heads(node, tunnel, host):
    recorder = agents.Recorder(lambda seen: response(headers=[("X-Large", "y" * 30_000)], body=b"x"))
    tunnel(node, recorder)
    answer = request(node.proxy, host=host, target="/" + "p" * 4000, headers=[("X-Large", "z" * 30_000)])
    assert answer.status == 200 and len(answer.get("x-large")) == 30_000
    assert len(recorder.requests[0].get("x-large")) == 30_000 and len(recorder.requests[0].target) == 4001


def test_oversize_head_is_refused(node, host):
    """A bounded head, answered with 431 (or 400/414) and a close."""
    with http1.Connection(node.proxy, timeout=30 * SLOW) as client:
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n")
        try:
            for _ in range(3000):
                client.send(b"X-Fill: " + b"f" * 1000 + b"\r\n")
        except ConnectionError:
            pass
        try:
            assert client.read_response().status in (400, 431)
        except ConnectionError:
            pass


def test_server_sent_events_arrive_at_once(node, tunnel, host):
    steps = []

    async def handler(stream):
        await http1.read_message(stream)
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for index in range(5):
            event = asyncio.Event()
            await stream.write(chunk(b"data: %d\n\n" % index))
            steps.append((asyncio.get_running_loop(), event))
            await event.wait()
        await stream.write(b"0\r\n\r\n")
        await stream.finish()
    tunnel(node, handler)
    with http1.Connection(node.proxy) as client:
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n")
        client.read_until(b"\r\n\r\n")
        for index in range(5):
            assert client.read_until(b"\n\n\r\n").endswith(b"data: %d\n\n\r\n" % index)
            wait_until(lambda: len(steps) > index, what="the event's turn")
            loop, event = steps[index]
            loop.call_soon_threadsafe(event.set)
        assert client.read_until(b"0\r\n\r\n") == b"0\r\n\r\n"


def test_client_that_leaves_frees_the_stream(node, tunnel, peers, host):
    """A client that goes away in an endless answer ends the stream to the agent."""
    ended = threading.Event()

    async def handler(stream):
        await http1.read_message(stream)
        await stream.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                await stream.write(chunk(b"tick" * 100))
                await asyncio.sleep(0.005)
        except ConnectionError:
            ended.set()
            raise
    agent = tunnel(node, handler)
    for how in ("reset", "close"):
        ended.clear()
        client = http1.Connection(node.proxy)
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
        client.read_until(b"tick")
        getattr(client, how)()
        assert ended.wait(10 * SLOW), f"the stream goes on after the client's {how}"
    wait_until(lambda: not agent.session.streams, what="no stream left")


def test_client_that_leaves_before_the_answer(node, tunnel, host):
    arrived, ended = threading.Event(), threading.Event()

    async def handler(stream):
        await http1.read_message(stream)
        arrived.set()
        try:
            while await stream.read():
                pass
        finally:
            ended.set()
    tunnel(node, handler)
    client = http1.Connection(node.proxy)
    client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
    assert arrived.wait(10)
    client.reset()
    assert ended.wait(10 * SLOW)


def test_half_closed_client_gets_its_answer(node, tunnel, host):
    async def respond(seen):
        await asyncio.sleep(0.2)
        return response(body=b"late")
    tunnel(node, agents.Recorder(respond))
    with http1.Connection(node.proxy) as client:
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
        client.finish()
        assert client.read_response().body == b"late"
        assert client.ends()


def test_slow_reader_blocks_only_itself(node, tunnel, host):
    """Back-pressure: an answer without end to a client that does not read stops at the agent within the windows; others go on."""
    sent = [0]

    async def handler(stream):
        seen = await http1.read_message(stream)
        if seen.target == "/small":
            await stream.write(response(body=b"small"))
            await stream.finish()
            return
        await stream.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await stream.write(chunk(b"x" * 60_000))
            sent[0] += 60_000
    tunnel(node, handler)
    with http1.Connection(node.proxy, receive_buffer=8192) as client:
        client.send(f"GET /endless HTTP/1.1\r\nHost: {host}\r\n\r\n")
        client.read_until(b"\r\n\r\n")
        deadline, last = time.monotonic() + 10 * SLOW, -1
        while sent[0] != last and time.monotonic() < deadline:
            last = sent[0]
            time.sleep(0.5)
        assert sent[0] == last, f"the agent is still sending after {last} bytes"
        assert sent[0] < 16 << 20, f"{sent[0]} bytes are buffered for a client that does not read"
        for _ in range(20):
            assert request(node.proxy, target="/small", host=host).body == b"small"
        client.reset()


def test_upload_to_a_slow_service(node, tunnel, host):
    """The other direction: a service that does not read stops the client within the windows; memory does not grow."""
    size = 100_000_000
    release = threading.Event()
    got = []

    async def handler(stream):
        await stream.read_until(b"\r\n\r\n")
        while not release.is_set():
            await asyncio.sleep(0.02)
        got.append(len(await stream.read_exactly(size)))
        await stream.write(response(body=b"done"))
        await stream.finish()
    tunnel(node, handler)
    with http1.Connection(node.proxy, timeout=30 * SLOW) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\n\r\n")
        client.socket.settimeout(1.0)
        total = 0
        try:
            while total < size:
                total += client.socket.send(b"u" * min(65536, size - total))
        except TimeoutError:
            pass
        # What the sockets of the way hold, which the kernel lets grow: two connections, or three and a pipe.
        assert total < 64 << 20, f"{total} bytes were taken for a service that does not read"
        client.socket.settimeout(30 * SLOW)
        release.set()
        while total < size:
            total += client.socket.send(b"u" * min(65536, size - total))
        assert client.read_response("POST").body == b"done" and got == [size]


def test_concurrent_requests(node, tunnel, host):
    """Many clients at once through few tunnels, over both workers."""
    async def respond(seen):
        await asyncio.sleep(random.random() / 50)
        return response(body=seen.target.encode())
    for _ in range(3):
        tunnel(node, agents.Recorder(respond))
    failures = []

    def client(number):
        try:
            with http1.Connection(node.proxy, timeout=30 * SLOW) as connection:
                for index in range(10):
                    assert connection.request(target=f"/{number}/{index}", host=host).body == f"/{number}/{index}".encode()
        except Exception as error:
            failures.append(error)
    threads = [threading.Thread(target=client, args=(number,)) for number in range(scaled(200, 60))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_ipv6_and_default_address(new_node, tunnel, endpoint):
    """`:PORT` means all addresses, IPv4 and IPv6."""
    node = new_node(host="")
    recorder = agents.Recorder()
    node.upstream = ("127.0.0.1", node.upstream[1])
    tunnel(node, recorder)
    for address in ("127.0.0.1", "::1"):
        assert request((address, node.proxy[1]), host=f"{endpoint}.a.b").status == 200
    assert [seen.get("x-forwarded-for") for seen in recorder.requests] == ["127.0.0.1", "::1"]
