"""The way to the server through an HTTP proxy (`connect.proxy_url`, its file, HTTP_PROXY and HTTPS_PROXY): agent and forward."""

import base64
import os
import random
import re
import signal
import socket
import threading
from pathlib import Path

import pytest

from agent_life import agent_file, listeners  # noqa: F401
from peer import agent as agents
from peer import http1
from peer.connect_proxy import ConnectProxy
from peer.http1 import request, wait_until
from programs import SLOW, command_of
from test_tls import certificates, port_tls, secure_request, client_context  # noqa: F401

# Only the proxy knows it: a program that looked it up itself would find nothing.
NAME = "piko.invalid"
PASSWORD = "p%40ss:w/rd"
USER = "us er"
CREDENTIALS = f"{USER}:{PASSWORD}"
URL_CREDENTIALS = "us%20er:p%2540ss%3Aw%2Frd"
NO_ENVIRONMENT = {name: "" for word in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY") for name in (word, word.lower())}


def environment(**variables):
    return {**NO_ENVIRONMENT, **variables}


@pytest.fixture
def connect_proxy(peers):
    proxies = []

    def make(host="127.0.0.1", **options):
        proxy = peers.call(ConnectProxy(**options).start(host))
        proxies.append(proxy)
        return proxy
    yield make
    for proxy in proxies:
        peers.call(proxy.stop())


def url(address, host=NAME, scheme="http"):
    return f"{scheme}://{host}:{address[1]}"


def assert_hidden(*programs):
    """The password, in whatever form, is in no line of the programs."""
    for one in programs:
        shown = one.log + one.output
        for secret in (PASSWORD, URL_CREDENTIALS, "p%2540ss", base64.b64encode(CREDENTIALS.encode()).decode(), USER):
            assert secret not in shown, f"{one.name} shows {secret!r}:\n{one.tail()}"


# ---- The tunnel ----

def test_agent(node, connect_proxy, real_agent, service, endpoint, host, transport):
    """Sessions and data connections; the proxy looks the server's name up."""
    proxy = connect_proxy()
    recorder = agents.Recorder(lambda seen: http1.response(body=seen.body[::-1]))
    agent = real_agent(url(node.upstream), "http", endpoint, service(recorder).port, "--connect.proxy-url", proxy.url(),
                       environment=environment(NO_PROXY="*"))
    line = agent.wait_log("^connecting through a proxy$")
    assert line["from"] == "connect.proxy_url" and line["proxy"] == f"127.0.0.1:{proxy.port}"
    connected = agent.wait_log("^connected$")
    assert connected["addr"] == f"{NAME}:{node.upstream[1]}" and connected["proxy"] == f"127.0.0.1:{proxy.port}"
    assert connected["transport"] == transport
    for size in (0, 1, 100_000, 2_000_000):
        data = random.randbytes(size)
        answer = request(node.proxy, "POST", host=host, body=data, timeout=30 * SLOW)
        assert answer.status == 200 and answer.body == data[::-1]
    if transport == "direct":
        wait_until(lambda: len(proxy.tunnels) > 1, 20 * SLOW, "a data connection through the proxy")
    assert set(proxy.targets) == {f"{NAME}:{node.upstream[1]}"}
    assert "authorization" not in "".join(proxy.heads).lower()


def test_tcp_through_two_proxies(node, connect_proxy, real_agent, real_forward, service, peers, endpoint):
    """Forward and agent, with half-close all the way."""
    async def handler(stream):
        await stream.write((await stream.read_to_end())[::-1])
        await stream.finish()
    before, behind = connect_proxy(credentials=CREDENTIALS), connect_proxy()
    real_agent(url(node.upstream), "tcp", endpoint, service(handler).port, "--connect.proxy-url", behind.url())
    forward = real_forward((NAME, node.proxy[1]), endpoint, "--connect.proxy-url", before.url(URL_CREDENTIALS), "--log.level", "debug")
    data = random.randbytes(300_000)
    for _ in range(3):
        with socket.create_connection(forward.address, timeout=20 * SLOW) as client:
            def send():
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
            sender = threading.Thread(target=send)
            sender.start()
            got = b"".join(iter(lambda: client.recv(65536), b""))
            sender.join()
        assert got == data[::-1]
    assert before.tunnels == [f"{NAME}:{node.proxy[1]}"] * 3
    assert_hidden(forward)


def test_tls_inside(new_node, certificates, connect_proxy, real_agent, real_forward, service, endpoint, host):  # noqa: F811
    """The name that the server must prove is its own and not the proxy's, which the certificate has as well."""
    node = new_node(arguments=port_tls(certificates, "proxy", "upstream"))
    proxy = connect_proxy(credentials=CREDENTIALS)
    flags = ["--connect.proxy-url", proxy.url(URL_CREDENTIALS), "--connect.tls.root-cas", certificates / "authority.pem"]
    agent = real_agent(url(node.upstream, "node.example.com", "https"), "http", endpoint, service(agents.Recorder(body=b"x" * 200_000)).port, *flags)
    context = client_context(certificates)
    for _ in range(3):
        assert secure_request(node.proxy, context, host=host).body == b"x" * 200_000
    assert set(proxy.tunnels) == {f"node.example.com:{node.upstream[1]}"}
    stranger = real_agent(url(node.upstream, NAME, "https"), "http", f"{endpoint}-s", service().port, *flags, wait=False)
    assert "certificate" in stranger.wait_log("^connect failed$")["err"]
    assert_hidden(agent, stranger)


def test_forward_over_tls(new_node, certificates, connect_proxy, program, backend, tunnel, endpoint):  # noqa: F811
    node = new_node(arguments=port_tls(certificates, "proxy"))
    tunnel(node, agents.echo)
    proxy = connect_proxy()
    forward = program("forward", "tcp", "127.0.0.1:0", endpoint, "--io-backend", backend, "--connect.url",
                      url(node.proxy, "node.example.com", "https"), "--connect.tls.root-cas", certificates / "authority.pem",
                      environment=environment(https_proxy=proxy.url()))
    address = forward.wait_log("^listening$")["addr"].rpartition(":")
    with socket.create_connection((address[0], int(address[2])), timeout=20 * SLOW) as client:
        client.sendall(b"ping")
        assert client.recv(4, socket.MSG_WAITALL) == b"ping"
    assert proxy.tunnels == [f"node.example.com:{node.proxy[1]}"]


def test_proxy_with_an_ipv6_address(node, connect_proxy, real_agent, service, endpoint, host):
    try:
        proxy = connect_proxy("::1")
    except OSError:
        pytest.skip("no IPv6 here")
    real_agent(url(node.upstream, "[2001:db8::7]"), "http", endpoint, service().port, "--connect.proxy-url", proxy.url())
    assert request(node.proxy, host=host).status == 200
    assert set(proxy.targets) == {f"[2001:db8::7]:{node.upstream[1]}"}


def test_bytes_behind_the_head_are_the_tunnels(node, connect_proxy, real_agent, service, endpoint):
    proxy = connect_proxy()
    proxy.behind = b"HTTP/1.1 503 Full\r\nContent-Length: 5\r\n\r\nearly"
    agent = real_agent(url(node.upstream), "http", endpoint, service().port, "--connect.proxy-url", proxy.url(), wait=False)
    assert agent.wait_log("^connect failed$")["err"] == "status 503: early"
    proxy.behind = b""
    agent.wait_log("^connected$", timeout=40)


def test_keep_alive(node, connect_proxy, real_agent, service, endpoint):
    """The connection to the proxy is probed, as one to the server is."""
    proxy = connect_proxy()
    agent = real_agent(url(node.upstream), "http", endpoint, service().port, "--connect.proxy-url", proxy.url())
    rows = [line.split() for line in Path(f"/proc/{agent.pid}/net/tcp").read_text().splitlines()[1:]]
    timers = [row[5].split(":")[0] for row in rows if int(row[2].split(":")[1], 16) == proxy.port and row[3] == "01"]
    assert timers and set(timers) <= {"01", "02"} and "02" in timers, timers


# ---- Credentials ----

def test_credentials_and_their_file(node, connect_proxy, real_agent, service, endpoint, host, tmp_path):
    """None, the wrong ones, and the right ones, in a file that is read for each connection."""
    proxy = connect_proxy(credentials=CREDENTIALS)
    path = tmp_path / "proxy"
    agent = real_agent(url(node.upstream), "http", endpoint, service().port, "--connect.proxy-url-file", path, "--log.level", "debug", wait=False)
    assert "connect.proxy_url_file" in agent.wait_log("^connect failed$")["err"], "there is no file"

    def failure_with(text):
        mark = agent.mark()
        path.with_suffix(".new").write_text(text)
        os.rename(path.with_suffix(".new"), path)
        return lambda words: wait_until(lambda: [line for line in agent.logged("^connect failed$", after=mark) if words in line["err"]],
                                        40 * SLOW, lambda: f"{words!r}\n{agent.tail()}")[0]
    line = failure_with(f"{proxy.url()}\n")("asks for credentials: status 407; write them into connect.proxy_url_file")
    assert line["level"] == "warn" and line["err"].startswith(f"proxy 127.0.0.1:{proxy.port} (connect.proxy_url_file)") and "backoff" in line
    failure_with(proxy.url("us%20er:wr%6Fng"))("does not take the credentials: status 407; correct them in connect.proxy_url_file")
    failure_with(proxy.url(URL_CREDENTIALS).replace("http:", "socks5:"))(f"connect.proxy_url_file: {path}: the URL is a SOCKS proxy's")
    path.write_text(f" {proxy.url(URL_CREDENTIALS)}\n")
    agent.wait_log("^connected$", timeout=60)
    assert request(node.proxy, host=host).status == 200
    assert PASSWORD not in command_of(agent.pid) and "p%2540ss" not in command_of(agent.pid)
    assert "wrong" not in agent.log and "wr%6Fng" not in agent.log
    assert_hidden(agent)


# ---- Proxies that fail ----

FAILURES = {
    "refuses": (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "did not connect to .*: status 403 Forbidden; it must allow CONNECT"),
    "can not": (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "did not connect to .*: status 502 Bad Gateway; it must be able"),
    "missing": (b"HTTP/1.1 404 Not Found\r\n\r\n<html>", "status 404 Not Found$"),
    "closes": (b"", "closed the connection before it answered CONNECT"),
    "closes inside": (b"HTTP/1.1 200 Conn", "closed the connection before it answered CONNECT"),
    "closes behind": (b"HTTP/1.1 200 OK\r\n\r\n", "connection closed|connection reset"),
    "garbage": (b"SSH-2.0-OpenSSH_9.2\r\n", "the answer to CONNECT is not HTTP: invalid status line; is it an HTTP proxy"),
    "endless": (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5_000, "longer than 16384 bytes"),
    "silent": (None, "did not answer CONNECT in time"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_failures_are_tried_again(node, connect_proxy, real_agent, service, endpoint, host, kind):
    answer, words = FAILURES[kind]
    proxy = connect_proxy(answers=[answer] * 3)
    agent = real_agent(url(node.upstream), "http", endpoint, service().port, "--connect.proxy-url", proxy.url(URL_CREDENTIALS),
                       "--connect.timeout", f"{2 * SLOW:g}s", wait=False)
    wait_until(lambda: len(agent.logged("^connect failed$")) == 3, 60 * SLOW, agent.tail)
    for line in agent.logged("^connect failed$"):
        assert re.search(words, line["err"]) and line["level"] == "warn" and "backoff" in line, line
        if kind != "closes behind":
            assert line["err"].startswith(f"proxy 127.0.0.1:{proxy.port} (connect.proxy_url)"), line
    agent.wait_log("^connected$", timeout=60)
    assert request(node.proxy, host=host).status == 200
    assert_hidden(agent)


def test_nobody_listens(node, program, connect_proxy, peers, backend, tunnel, endpoint):
    """Forward tells its client by a reset, and the log why."""
    tunnel(node, agents.echo)
    proxy = connect_proxy()
    peers.call(proxy.stop())
    forward = program("forward", "tcp", "127.0.0.1:0", endpoint, "--io-backend", backend, "--connect.url", url(node.proxy),
                      "--connect.proxy-url", proxy.url(URL_CREDENTIALS))
    address = forward.wait_log("^listening$")["addr"].rpartition(":")
    # Connecting may end with the reset already.
    with pytest.raises(ConnectionResetError), socket.create_connection((address[0], int(address[2])), timeout=20 * SLOW) as client:
        client.recv(1)
    line = forward.wait_log("^connect failed$")
    assert line["err"] == f"proxy 127.0.0.1:{proxy.port} (connect.proxy_url): connect: Connection refused", line
    assert_hidden(forward)


def test_end_while_the_proxy_is_silent(connect_proxy, real_agent, service, endpoint):
    proxy = connect_proxy(answers=[None] * 10)
    agent = real_agent(f"http://{NAME}:1", "http", endpoint, service().port, "--connect.proxy-url", proxy.url(), wait=False)
    wait_until(lambda: proxy.targets, 20 * SLOW, "CONNECT")
    assert agent.stop(signal.SIGTERM, timeout=10) == 0


# ---- The environment ----

# 0.0.0.0 is this machine, too, but no loopback address: one for which the variables count.
ROWS = {
    "capitals": ({"HTTP_PROXY": "{}"}, "0.0.0.0", "HTTP_PROXY"),
    "small": ({"http_proxy": "{}"}, "0.0.0.0", "http_proxy"),
    "name": ({"http_proxy": "{}"}, NAME, "http_proxy"),
    "other scheme": ({"HTTPS_PROXY": "{}"}, "0.0.0.0", None),
    "loopback": ({"HTTP_PROXY": "{}"}, "127.0.0.1", None),
    "excepted block": ({"HTTP_PROXY": "{}", "NO_PROXY": "example.com,0.0.0.0/8"}, "0.0.0.0", None),
    "excepted port": ({"HTTP_PROXY": "{}", "no_proxy": "0.0.0.0:PORT"}, "0.0.0.0", None),
    "other port": ({"HTTP_PROXY": "{}", "NO_PROXY": "0.0.0.0:1"}, "0.0.0.0", "HTTP_PROXY"),
    "all excepted": ({"HTTP_PROXY": "{}", "NO_PROXY": "*"}, "0.0.0.0", None),
    "none": ({"HTTP_PROXY": "{}"}, "0.0.0.0", None, "--connect.proxy-url", "none"),
    "direct": ({"HTTP_PROXY": "{}"}, "0.0.0.0", None, "--connect.proxy-url", "direct"),
    "key wins": ({"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "*"}, "0.0.0.0", "connect.proxy_url", "--connect.proxy-url", "{}"),
}


@pytest.mark.parametrize("row", ROWS)
def test_environment(node, connect_proxy, real_agent, service, endpoint, host, row):
    variables, server, source, *flags = ROWS[row]
    proxy = connect_proxy(credentials=CREDENTIALS)

    def filled(text):
        return text.replace("{}", proxy.url(URL_CREDENTIALS)).replace("PORT", str(node.upstream[1]))
    agent = real_agent(url(node.upstream, server), "http", endpoint, service().port, *(filled(flag) for flag in flags),
                       environment=environment(**{name: filled(value) for name, value in variables.items()}))
    assert request(node.proxy, host=host).status == 200
    assert [line["from"] for line in agent.logged("^connecting through a proxy$")] == ([source] if source else [])
    assert set(proxy.tunnels) == ({f"{server}:{node.upstream[1]}"} if source else set())
    assert_hidden(agent)


@pytest.mark.parametrize("value", ["socks5://us%20er:p%2540ss%3Aw%2Frd@p:1", "https://us%20er:p%2540ss%3Aw%2Frd@p:1"])
@pytest.mark.parametrize("line", [("agent", "http", "e", "1"), ("forward", "1", "e")])
def test_what_can_not_be_used_is_said(program, line, value):
    """In the environment as in a flag: nothing goes past a proxy that somebody meant."""
    for flags, variables, words in (
            ((), {"HTTP_PROXY": value}, "config: HTTP_PROXY of the environment: the value is a"),
            (("--connect.proxy-url", value), {}, "config: --connect.proxy-url: the value is a"),
            (("--connect.proxy-url", "http://p", "--connect.proxy-url-file", "f"), {}, "config: connect.proxy_url_file: connect.proxy_url is set, too")):
        one = program(*line, "--connect.url", f"http://{NAME}:1", *flags, environment=environment(**variables))
        assert one.wait() == 1
        assert words in one.log and "p%2540ss" not in one.log, one.log


def test_help_tells(program):
    for command in ("agent", "forward"):
        one = program(command, "start", "--help")
        assert one.wait() == 0
        assert "--connect.proxy-url URL|none" in one.output and "--connect.proxy-url-file" in one.output and "NO_PROXY" in one.output


# ---- Reload and upgrade ----

def settings(node, proxy, endpoint, port):
    return listeners((endpoint, port)) + f"connect:\n  url: {url(node.upstream)}\n  proxy_url: {proxy.url(URL_CREDENTIALS)}\n"


def test_reload_is_for_connections_to_come(node, connect_proxy, peers, agent_file, service, endpoint, host):  # noqa: F811
    first, second = connect_proxy(credentials=CREDENTIALS), connect_proxy(credentials=CREDENTIALS)
    port = service().port
    agent = agent_file(None, settings(node, first, endpoint, port))
    agent.wait_log("^connected$")
    line = agent.reload(settings(node, second, endpoint, port))
    assert (line["listeners_kept"], line["listeners_changed"]) == (1, 0)
    assert request(node.proxy, host=host).status == 200 and len(agent.logged("^connected$")) == 1
    before = len(first.targets)
    mark = agent.mark()
    peers.call(first.cut())
    assert agent.wait_log("^connected$", after=mark)["proxy"] == f"127.0.0.1:{second.port}"
    assert second.tunnels and len(first.targets) == before
    wait_until(lambda: request(node.proxy, host=host).status == 200, 20 * SLOW, "the new way")
    agent.expected_errors.append("reload failed")
    failed = agent.reload(settings(node, second, endpoint, port).replace("http://us", "https://us"), "^reload failed")
    assert "connect.proxy_url: the value is an https URL" in failed["err"]
    assert request(node.proxy, host=host).status == 200
    assert_hidden(agent.program)


@pytest.mark.parametrize("way", ["file", "environment"])
def test_upgrade_keeps_it(node, connect_proxy, agent_file, service, endpoint, host, way):  # noqa: F811
    proxy = connect_proxy(credentials=CREDENTIALS)
    port = service().port
    if way == "file":
        agent = agent_file(None, settings(node, proxy, endpoint, port))
    else:
        agent = agent_file((NAME, node.upstream[1]), listeners((endpoint, port)), environment=environment(HTTP_PROXY=proxy.url(URL_CREDENTIALS)))
    agent.wait_log("^connected$")
    mark = agent.mark()
    old = agent.upgrade()
    assert agent.logged("^connected$", after=mark)[0]["proxy"] == f"127.0.0.1:{proxy.port}"
    agent.wait_gone(old)
    assert request(node.proxy, host=host).status == 200
    assert set(proxy.targets) == {f"{NAME}:{node.upstream[1]}"}
    assert_hidden(agent.program)
