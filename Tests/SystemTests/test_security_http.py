"""Hostile requests on the proxy port: the rows of the security table that concern HTTP/1, each with its number.

"Reject" means: an answer of the 4xx/5xx class (or none at all) and the end of the connection, and nothing of it ever reaches
the service, where a recording agent looks. The marker is a second request pipelined behind: it must never be served.
"""

import asyncio
import json
import time

import pytest

from peer import agent as agents
from peer import http1
from peer.http1 import chunk, request, response
from programs import SLOW

SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n"


@pytest.fixture
def recorder(node, tunnel):
    recorder = agents.Recorder()
    tunnel(node, recorder)
    return recorder


def assert_rejected(node, recorder, host, wire, statuses=(400, 414, 417, 431, 501, 505), forwarded=0):
    """Sends bytes and sees an error and the end; whatever was pipelined behind never arrives."""
    if isinstance(wire, str):
        wire = wire.encode("latin-1")
    before = len(recorder.requests)
    with http1.Connection(node.proxy, timeout=10 * SLOW) as client:
        client.send(wire)
        data = b""
        try:
            data = client.read_to_end()
        except ConnectionError:
            pass
        except TimeoutError:
            client.finish()
            raise AssertionError(f"the connection stays open after {wire[:200]!r}; answered {data + client.buffer!r}") from None
    if data:
        head = data.split(b"\r\n\r\n")[0]
        status = int(head.split(b" ")[1])
        assert status in statuses, data
        assert data.count(b"HTTP/1.1 ") == 1, data
        assert b"connection: close" in head.lower()
    assert recorder.bad == []
    assert len(recorder.requests) - before <= forwarded, recorder.requests[before:]
    assert not any("smuggled" in seen.target or b"smuggled" in seen.body for seen in recorder.requests)
    assert request(node.proxy, host=host).status == 200, "others go on"


def test_row_01_cl_te(node, recorder, host):
    assert_rejected(node, recorder, host, f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG"
                    + SMUGGLED.format(host=host))
    assert_rejected(node, recorder, host, f"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG"
                    + SMUGGLED.format(host=host))


@pytest.mark.parametrize("fields", [
    "Transfer-Encoding: xchunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity, chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding:\r\n chunked",
    "Transfer-Encoding: \x0bchunked", "Transfer-Encoding: \xa0chunked\xa0", "Transfer-Encoding: ,chunked", "Transfer-Encoding: chunked,",
    "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked;q=1", "Transfer-Encoding: \"chunked\"", "Transfer-Encoding:",
    "Transfer-Encoding : chunked", "Transfer-Encoding: identity", "Transfer-Encoding: chunked\0", "X: 1\r\n\tTransfer-Encoding: chunked",
])
def test_row_02_te_variants(node, recorder, host, fields):
    assert_rejected(node, recorder, host, f"POST / HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n\r\n0\r\n\r\n" + SMUGGLED.format(host=host))


@pytest.mark.parametrize("value", ["+1", "+1_0", "-1", "5 6", "", "0x5", "18446744073709551616", "99999999999999999999999", "1,2", "1, ", "5;", "5.0",
                                   "\x0b5", "1e1", "5\r\nContent-Length: 6", "6\r\nContent-Length: 5", "5, 6"])
def test_row_03_content_length(node, recorder, host, value):
    assert_rejected(node, recorder, host, f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {value}\r\n\r\nhello" + SMUGGLED.format(host=host))


@pytest.mark.parametrize("value", ["5\r\nContent-Length: 5", "5, 5", "0005"])
def test_row_03_harmless_or_rejected(node, recorder, host, value):
    """Identical doubles may be merged and leading zeros read as decimal, or refused; nothing in between."""
    with http1.Connection(node.proxy) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {value}\r\n\r\nhello")
        answer = client.read_response("POST")
        if answer.status == 400:
            assert client.ends() and recorder.requests == []
        else:
            assert answer.status == 200 and recorder.requests[0].body == b"hello"
            assert recorder.requests[0].all("content-length") == ["5"]


@pytest.mark.parametrize("body", [
    b"0x5\r\nhello\r\n0\r\n\r\n", b"0_5\r\nhello\r\n0\r\n\r\n", b"+5\r\nhello\r\n0\r\n\r\n", b"-1\r\nhello\r\n0\r\n\r\n", b"\r\nhello\r\n0\r\n\r\n",
    b"00000000000000005\r\nhello\r\n0\r\n\r\n", b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n", b"5\rhello\r\n0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello0\r\n\r\n", b"5\r\nhelloX\r\n0\r\n\r\n",
    b"5;a\x01=b\r\nhello\r\n0\r\n\r\n", b"5;\r\nhello\r\n0\r\n\r\n", b"5;a=b\nc\r\nhello\r\n0\r\n\r\n", b"5 \r\nhello\r\n0\r\n\r\n",
    b" 5\r\nhello\r\n0\r\n\r\n", b"5;a=\"unclosed\r\nhello\r\n0\r\n\r\n", b"5g\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\r\nBad Trailer: x\r\n\r\n", b"5\r\nhello\r\n0\r\n folded\r\n\r\n", b"5\r\nhello\r\n0\nX: y\r\n\r\n", b"0\r\nX: a\x00b\r\n\r\n",
    b"5;" + b"e" * 100_000 + b"\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n" + b"X: " + b"t" * 2_000_000 + b"\r\n\r\n",
])
def test_row_04_chunks(node, recorder, host, body):
    """The head may have gone on before the body turns out to be wrong; the request must not be completed."""
    assert_rejected(node, recorder, host, f"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + body
                    + SMUGGLED.format(host=host).encode(), statuses=(400, 413, 431, 501, 502))


@pytest.mark.parametrize("name", ["Content-Length: 5", "Transfer-Encoding: chunked", "Host: evil", "Connection: close", "x-piko-endpoint: e", "Authorization: x"])
def test_row_04_forbidden_trailers_do_not_pass(node, recorder, host, name):
    """RFC 9110 6.5.1: framing, routing and authorisation are no trailers: refused, or dropped."""
    with http1.Connection(node.proxy) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n{name}\r\nX-Fine: 1\r\n\r\n")
        answer = client.read_response("POST")
        if answer.status == 200:
            assert recorder.requests[0].trailers in ([("X-Fine", "1")], [])
        else:
            assert answer.status == 400 and recorder.requests == []


def test_row_05_te_on_http_1_0(node, recorder, host):
    assert_rejected(node, recorder, host, f"POST / HTTP/1.0\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n0\r\n\r\n"
                    + SMUGGLED.format(host=host))


def test_row_05_no_close_delimited_request(node, recorder, host):
    """Bytes after a request without a length are the next request, never its body."""
    with http1.Connection(node.proxy) as client:
        client.send(f"POST /one HTTP/1.1\r\nHost: {host}\r\n\r\nGET /two HTTP/1.1\r\nHost: {host}\r\n\r\n")
        assert client.read_response("POST").status == 200 and client.read_response().status == 200
    assert [(seen.target, seen.body) for seen in recorder.requests] == [("/one", b""), ("/two", b"")]


def test_row_06_upgrade_smuggling(node, tunnel, host):
    """No tunnel until 101: what is pipelined behind an upgrade that was answered 200 is a request like any other."""
    recorder = agents.Recorder(lambda seen: response(body=seen.target.encode()))
    tunnel(node, recorder)
    with http1.Connection(node.proxy) as client:
        client.send(f"GET /upgrade HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
                    "GET /second HTTP/1.1\r\nHost: nobody.example.com\r\n\r\n")
        assert client.read_response().body == b"/upgrade"
        try:
            assert client.read_response().status == 502, "the second request is routed by its own Host"
        except (EOFError, ConnectionError):
            pass
    assert [seen.target for seen in recorder.requests] == ["/upgrade"]


@pytest.mark.parametrize("case", ["502", "400", "early"])
def test_row_07_unread_body_is_never_a_request(node, tunnel, host, case):
    async def early(stream):
        head = await stream.read_until(b"\r\n\r\n")
        heads.append(head)
        await stream.write(response(404, "No", body=b"no"))
        await stream.finish()
    heads = []
    tunnel(node, early)
    target = {"502": "nobody.example.com", "400": "localhost", "early": host}[case]
    inner = SMUGGLED.format(host=host).encode()
    with http1.Connection(node.proxy) as client:
        client.send(f"POST / HTTP/1.1\r\nHost: {target}\r\nContent-Length: {len(inner)}\r\n\r\n")
        answer = client.read_response("POST")
        assert answer.status in (502, 400, 404)
        try:
            client.send(inner)
            client.send(f"GET /proper HTTP/1.1\r\nHost: {host}\r\n\r\n")
            assert client.read_response().status == 404
        except (EOFError, ConnectionError):
            pass
    assert not any(b"smuggled" in head for head in heads)


def test_row_07_large_unread_body(node, host):
    """A body that is too long to be drained: an answer, and soon the end of the connection, however fast the client sends."""
    with http1.Connection(node.proxy) as client:
        client.send("POST / HTTP/1.1\r\nHost: nobody.example.com\r\nContent-Length: 1000000000000\r\n\r\n")
        answer = client.read_response("POST")
        assert answer.status == 502 and "close" in answer.options()
        deadline = time.monotonic() + 15 * SLOW
        try:
            while time.monotonic() < deadline:
                client.send(b"x" * 65536)
        except (ConnectionError, TimeoutError):
            return
        raise AssertionError("an unwanted body is read for ever")


def test_row_08_unknown_expectation(node, recorder, host):
    answer = request(node.proxy, "POST", host=host, body=b"x", headers=[("Expect", "something-else")])
    assert answer.status in (200, 417)


@pytest.mark.parametrize("head", [
    "GET / HTTP/1.1\r\nHost: {host}\r\nX: a\x00b\r\n\r\n", "GET / HTTP/1.1\r\nHost: {host}\r\nX: a\rb\r\n\r\n", "GET / HTTP/1.1\r\nHost: {host}\r\nX: a\nY: b\r\n\r\n",
    "GET / HTTP/1.1\nHost: {host}\n\n", "GET /a\x00b HTTP/1.1\r\nHost: {host}\r\n\r\n", "GET /a\rb HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "GET /a b HTTP/1.1\r\nHost: {host}\r\n\r\n", "GET  / HTTP/1.1\r\nHost: {host}\r\n\r\n", "GET /\tx HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "G\x00T / HTTP/1.1\r\nHost: {host}\r\n\r\n", "GET / HTTP/1.1\r\nHost: {host}\r\nX\x00: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: {host}\r\nX: \x7f\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: {host}\r\nX: a\x01b\r\n\r\n",
])
def test_row_09_injection_in_requests(node, recorder, host, head):
    assert_rejected(node, recorder, host, head.format(host=host) + SMUGGLED.format(host=host))


@pytest.mark.parametrize("answer", [
    b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", b"HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n folded: x\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 0\r\n\r\n", b"HTTP/2 200 OK\r\n\r\n", b"nonsense\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\nx",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", b"",
])
def test_row_09_bad_answers_become_502(node, tunnel, host, answer):
    async def handler(stream):
        await http1.read_message(stream)
        await stream.write(answer)
        await stream.finish()
    tunnel(node, handler)
    got = request(node.proxy, "POST", host=host, body=b"x")
    assert got.status == 502 and "error" in json.loads(got.body)


def test_row_09_answer_split_by_its_service(node, tunnel, host):
    """A second response that nobody asked for is never given to the next client."""
    recorder = agents.Recorder(lambda seen: response(body=b"one") + response(body=b"poison"))
    tunnel(node, recorder)
    for _ in range(5):
        with http1.Connection(node.proxy) as client:
            for _ in range(2):
                try:
                    assert client.request(host=host).body == b"one"
                except (EOFError, ConnectionError):
                    break


@pytest.mark.parametrize("field", ["Content-Length : 5", " Content-Length: 5", ": empty", "Content Length: 5", "Content\x0bLength: 5", "X(y): 5", "no colon at all",
                                   "\x85X: 5", "X\xe9: 5"])
def test_row_10_names(node, recorder, host, field):
    assert_rejected(node, recorder, host, f"POST / HTTP/1.1\r\nHost: {host}\r\n{field}\r\n\r\nhello" + SMUGGLED.format(host=host))
    assert_rejected(node, recorder, host, f"POST / HTTP/1.1\r\n{field}\r\nHost: {host}\r\n\r\nhello" + SMUGGLED.format(host=host))


@pytest.mark.parametrize("field", ["Content_Length: 5", "Transfer_Encoding: chunked", "X_Piko_Endpoint: other", "x_piko_authorization: x"])
def test_row_10_underscores(node, recorder, host, field):
    """Services read `_` as `-` (CGI): a framing or internal name written so is refused, or has no effect and does not pass."""
    with http1.Connection(node.proxy) as client:
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n{field}\r\n\r\n")
        if client.read_response().status == 200:
            assert not recorder.requests[0].has(field.split(":")[0])
        else:
            assert recorder.requests == []


@pytest.mark.parametrize("fields", [
    "Host: {host}\r\nHost: {host}", "Host: {host}\r\nHost: other.example.com", "Host: {host}@evil", "Host: user@{host}", "Host: {host}:port", "Host: {host}:80:80", "Host: {host}/x",
    "Host: {host}, {host}", "X: no host", "Host: {host} x", "Host: [::1",
    "Host: {host}:99999",
])
def test_row_11_host_confusion_is_refused(node, recorder, host, fields):
    assert_rejected(node, recorder, host, "GET / HTTP/1.1\r\n" + fields.format(host=host) + "\r\n\r\n" + SMUGGLED.format(host=host))


@pytest.mark.parametrize("fields", ["x-piko-endpoint: {name}\r\nx-piko-endpoint: b", "x-piko-endpoint: {name}\r\nx-piko-endpoint: {name}", "x-piko-endpoint: {name}, b",
                                    "x-piko-endpoint: b, {name}"])
def test_row_11_two_endpoints_are_refused(node, recorder, host, endpoint, fields):
    """400; the framing is in no doubt, so the connection may go on."""
    with http1.Connection(node.proxy) as client:
        client.send(f"GET /two HTTP/1.1\r\nHost: {host}\r\n{fields.format(name=endpoint)}\r\n\r\n")
        assert client.read_response().status == 400
    assert recorder.requests == []


def test_row_11_absolute_target_has_one_winner(node, recorder, host, endpoint):
    """An absolute-form target: RFC 9112 3.2.2 lets it win over Host; or it is refused. Never a third thing."""
    for target_host, host_field in ((host, "other.example.com"), ("other.example.com", host), (host, host)):
        with http1.Connection(node.proxy) as client:
            client.send(f"GET http://{target_host}/abs HTTP/1.1\r\nHost: {host_field}\r\n\r\n")
            answer = client.read_response()
            if target_host == host_field:
                assert answer.status in (200, 400)
            elif answer.status == 200:
                seen = recorder.requests[-1]
                assert seen.get("host") == host == target_host
            else:
                assert answer.status in (400, 502)


def test_row_11_case_and_dot(node, recorder, host, endpoint):
    """Whatever is decided for upper case and a trailing dot, it is not an error of the server."""
    for form in (host.upper(), host + ".", host + ":80"):
        assert request(node.proxy, host=form).status in (200, 400, 502)


def test_row_11_long_and_odd_names(node):
    for name in ("a" * 300 + ".example.com", "xn--bcher-kva.example", "%41.example.com", "-.example.com", "a..b"):
        assert request(node.proxy, host=name).status in (400, 502)
    assert request(node.proxy, host="x.example.com", headers=[("x-piko-endpoint", "n" * 60_000)]).status in (400, 431, 502)


def test_row_13_connection_cannot_strip(node, recorder, host):
    """`Connection: x-forwarded-for` and the like: the internal fields that the server adds survive, Host too."""
    request(node.proxy, host=host, headers=[("Connection", "x-piko-forward, x-piko-authorization, x-forwarded-for, host, x-piko-endpoint, content-length"),
                                            ("X-Forwarded-For", "6.6.6.6")])
    (seen,) = recorder.requests
    assert seen.get("host") == host and seen.get("x-forwarded-for", "").endswith("127.0.0.1")


def test_row_13_connection_names_the_endpoint_field(node, recorder, endpoint):
    assert request(node.proxy, host="localhost", headers=[("Connection", "x-piko-endpoint"), ("x-piko-endpoint", endpoint)]).status in (200, 400)


def test_row_14_forward_is_not_believed(node, recorder, host):
    """A client's `x-piko-forward: true` neither widens nor narrows."""
    assert request(node.proxy, host=host, headers=[("x-piko-forward", "true")]).status == 200
    assert request(node.proxy, host="nobody.example.com", headers=[("x-piko-forward", "true")]).status == 502


def test_row_40_the_target_names_no_other_place(node, tunnel, real_agent, service, endpoint, backend):
    """The agent dials its own service whatever the request line says."""
    recorder = agents.Recorder()
    target = service(recorder)
    elsewhere = service(agents.Recorder())
    real_agent(node.upstream, "http", endpoint, target.port)
    evil = f"127.0.0.1:{elsewhere.port}"
    for line in (f"GET http://{evil}/ HTTP/1.1", f"CONNECT {evil} HTTP/1.1", f"GET //{evil}/ HTTP/1.1", f"OPTIONS * HTTP/1.1", f"GET {evil} HTTP/1.1"):
        with http1.Connection(node.proxy) as client:
            client.send(f"{line}\r\nHost: {evil}\r\nx-piko-endpoint: {endpoint}\r\n\r\n")
            try:
                client.read_response()
            except (EOFError, ConnectionError):
                pass
    assert elsewhere.connections == 0


@pytest.mark.parametrize("line", ["GET / HTTP/2.0", "GET / HTTP/1.2", "GET / HTTP/0.9", "GET /", "GET / http/1.1", "GET / HTTP/1.1 ", " GET / HTTP/1.1", "GET / HTTP/11", "PRI * HTTP/2.0",
                                  "GET", "G(T / HTTP/1.1", "GET / XTTP/1.1"])
def test_request_lines(node, recorder, host, line):
    with http1.Connection(node.proxy) as client:
        client.send(f"{line}\r\nHost: {host}\r\n\r\n")
        try:
            answer = client.read_response()
            assert answer.status in (400, 505) or (line == "GET / HTTP/1.2" and answer.status == 200)
        except (EOFError, ConnectionError):
            pass
    if line != "GET / HTTP/1.2":
        assert recorder.requests == []


def test_row_46_log_injection(node, tunnel, host, endpoint):
    """Whatever a client puts in path, agent name or endpoint: one valid JSON line each (the node's log is checked as a whole,
    here the line is looked up)."""
    tunnel(node)
    mark = node.mark()
    nasty = '/a"b\\c%0d%0a\x1b[31m{"level":"error"}'
    with http1.Connection(node.proxy) as client:
        client.send(f"GET /ok\xff\xfe HTTP/1.1\r\nHost: {host}\r\nUser-Agent: \"quoted\\ \xff\t x\r\n\r\n".encode("latin-1"))
        client.read_response()
    with http1.Connection(node.proxy) as client:
        client.send(f"GET {nasty} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"))
        try:
            client.read_response()
        except (EOFError, ConnectionError):
            pass
    request(node.proxy, host="a.b", headers=[("x-piko-endpoint", "q\"\\\t\xff'")])
    request(node.proxy, host=host, target="/end-of-injection")
    http1.wait_until(lambda: any("/end-of-injection" in text for _, text in node.lines[mark:]), what="the access log line")
    for parsed, text in node.lines[mark:]:
        assert parsed is not None, text
        assert "\x1b" not in text


def test_slow_head_is_cut(new_node, tunnel, host):
    """In small: a head that never ends is cut at the read-header timeout, others are served meanwhile."""
    node = new_node(arguments=["--proxy.http.read-header-timeout", "1s"])
    tunnel(node)
    with http1.Connection(node.proxy) as client:
        client.send("GET / HTTP/1.1\r\nHost: ")
        assert request(node.proxy, host=host).status == 200
        data = client.read_to_end()
        assert data == b"" or data.startswith(b"HTTP/1.1 408 ")


def test_idle_connection_is_closed(new_node, tunnel, host):
    node = new_node(arguments=["--proxy.http.idle-timeout", "1s"])
    tunnel(node)
    with http1.Connection(node.proxy) as client:
        assert client.request(host=host).status == 200
        assert client.ends(5 * SLOW)


def test_many_headers_are_bounded(node, host):
    wire = f"GET / HTTP/1.1\r\nHost: {host}\r\n" + "".join(f"X{index}: 1\r\n" for index in range(10_000)) + "\r\n"
    with http1.Connection(node.proxy) as client:
        try:
            client.send(wire)
            answer = client.read_response()
            assert answer.status in (400, 431)
        except ConnectionError:
            pass
