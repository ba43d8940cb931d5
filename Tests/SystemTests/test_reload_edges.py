"""Reload and upgrade at their edges: who leaves, reads slowly or has not finished in the middle of one; names in place of
addresses; programs behind symbolic links.

Whether an old worker waits for what it still holds is seen by a further reload: a worker that thinks that it holds nothing has
ended when that is done.
"""

import array
import asyncio
import fcntl
import json
import os
import random
import shutil
import socket
import termios
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from conftest import connection
from peer import agent as agents
from peer import http1
from peer.http1 import request, response, wait_until
from programs import BIN, SLOW, SOAK, Program, address_of, descriptors, metric, scaled
from test_reload import changed, command, configure, free_port, generations, wait_for_generations

# Where the transport makes no difference, or the matter is the session's. (An endpoint that had data connections is forgotten
# 5 s after the last of them.)
once = pytest.mark.parametrize("transport", ["mux"])


def asked(node, name):
    """What the node says on its control socket."""
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(20 * SLOW)
        end.connect(str(node.control_socket))
        end.sendall(json.dumps({"command": name}).encode() + b"\n")
        return json.loads(end.makefile().readline())


def reload_and_meanwhile(node, peers, msg, count, action):
    """Reloads; the coroutine `action` runs as soon as the node has logged so many lines `msg`."""
    mark = node.mark()

    async def act():
        while len(node.logged(msg, after=mark)) < count:
            await asyncio.sleep(0)
        await action()
    acting = peers.start(asyncio.wait_for(act(), 30 * SLOW))
    try:
        changed(node, "reload")
    finally:
        acting.result(40 * SLOW)


def queues(address):
    """{port of the other side: (bytes that were not taken there, bytes that were not read here)} of the connections of a
    listener on IPv4."""
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].split(":")[1], 16) == address[1]:
            sending, receiving = fields[4].split(":")
            found[int(fields[2].split(":")[1], 16)] = (int(sending, 16), int(receiving, 16))
    return found


def pending(end, what):
    """Bytes of a socket: to be read (FIONREAD), or that the other side has not taken (TIOCOUTQ)."""
    number = array.array("i", [0])
    fcntl.ioctl(end, what, number)
    return number[0]


def settled(measure, quiet=0.3):
    """Waits until what is measured has been the same for so long. (Too early a moment makes a test see less, and not fail.)"""
    seen = [measure(), time.monotonic()]

    def is_quiet():
        now = measure()
        if now != seen[0]:
            seen[:] = now, time.monotonic()
        return time.monotonic() - seen[1] > quiet
    wait_until(is_quiet, 20 * SLOW, lambda: f"nothing moves: {seen[0]}")
    return seen[0]


# ---- Names ----


@once
def test_host_names_in_place_of_addresses(backend, tunnel, host, tmp_path):
    """A port may move to a host's name; one that means nothing changes nothing."""
    file, port = tmp_path / "server.yaml", free_port()

    def write(proxy):
        file.write_text(f"proxy: {{bind_addr: '{proxy}'}}\n")
    write("127.0.0.1:0")
    own = Program([BIN / "piko", "server", "--config.path", file, "--server.control-socket", tmp_path / "own.sock",
                   "--io-backend", backend, "--server.workers", 2, "--upstream.bind-addr", "127.0.0.1:0",
                   "--admin.bind-addr", "127.0.0.1:0", "--cluster.gossip.bind-addr", "127.0.0.1:0"], name="own server")
    own.control_socket = tmp_path / "own.sock"
    own.expected_errors.append("not reloaded")
    try:
        own.upstream = address_of(own.wait_log("server ready")["upstream_addr"])
        tunnel(own)
        write(f"localhost:{port}")
        assert "proxy.bind_addr" in changed(own, "reload")
        with http1.Connection(("127.0.0.1", port)) as kept:
            assert kept.request(host=host).status == 200
            wait_for_generations(own, 1)
            before = asked(own, "info")
            write(f"no-such-host.invalid:{port}")
            status, text = command(own, "reload")
            assert status == 1 and "proxy.bind_addr: cannot listen on no-such-host.invalid" in text, text
            after = asked(own, "info")
            assert after["generation"] == before["generation"] and after["listeners"] == before["listeners"]
            assert [worker["pid"] for worker in after["workers"]] == [worker["pid"] for worker in before["workers"]]
            assert kept.request(host=host).status == 200
            assert request(("127.0.0.1", port), host=host).status == 200
            # It is still able to.
            write(f"127.0.0.1:{port}")
            changed(own, "reload")
            assert kept.request(host=host).status == 200
            assert request(("127.0.0.1", port), host=host).status == 200
    finally:
        assert own.stop() == 0
    own.check_log()


@once
def test_programs_in_different_folders(new_node, tunnel, host, tmp_path):
    """An upgrade to symbolic links: the worker is the one that was named and rehearsed, not one beside the supervisor's file."""
    node = new_node()
    tunnel(node)
    files = {}
    (tmp_path / "links").mkdir()
    for name in ["piko", "piko-supervisor", "piko-worker"]:
        (tmp_path / f"of-{name}").mkdir()
        files[name] = tmp_path / f"of-{name}" / name
        shutil.copy(BIN / name, files[name])
        (tmp_path / "links" / name).symlink_to(files[name])
    with connection(node) as kept:
        assert kept.request(host=host).status == 200
        status, text = command(node, "upgrade", "--binary", tmp_path / "links")
        assert status == 0, text
        assert kept.request(host=host).status == 200
        for kind in ["upgrade", "reload"]:
            if kind == "reload":
                changed(node, kind)
            wait_for_generations(node, 1)
            assert os.readlink(f"/proc/{node.pid}/exe") == str(files["piko-supervisor"])
            assert {os.readlink(f"/proc/{worker['pid']}/exe") for worker in asked(node, "workers")["workers"]} == {str(files["piko-worker"])}
            assert kept.request(host=host).status == 200


# ---- Agents in the middle of a reload ----


@once
def test_agents_that_leave_in_the_middle(new_node, tunnel, peers, endpoint):
    """Whether its session is still there, on its way or has arrived: of an agent that is gone nothing is left."""
    node = new_node(arguments=["--log.level", "debug"])
    for turn in range(scaled(10, 3)):
        leaving = [tunnel(node, agents.Recorder(), f"{endpoint}-{turn}-{number}") for number in range(scaled(300, 30))]
        wait_until(lambda: asked(node, "info")["endpoints"] == len(leaving), 20 * SLOW, "all endpoints")
        random.shuffle(leaving)

        async def leave():
            for agent in leaving:
                agent.session.abort()
                await asyncio.sleep(0)
        reload_and_meanwhile(node, peers, "^retiring$", 1, leave)

        def is_clean():
            info = asked(node, "info")
            return info["endpoints"] == info["upstreams"] == 0 and [worker["state"] for worker in info["workers"]] == ["ready"] * 2
        wait_until(is_clean, 20 * SLOW, lambda: f"nothing left: {asked(node, 'info')}")


@once
def test_agents_that_say_go_away_in_the_middle(new_node, tunnel, peers, endpoint):
    """They may stay for what runs, and get nothing new: another agent serves."""
    node = new_node(arguments=["--log.level", "debug"])
    for turn in range(scaled(5, 2)):
        names = [f"{endpoint}-{turn}-{number}" for number in range(scaled(300, 30))]
        going = [tunnel(node, agents.Recorder(body=b"going"), name) for name in names]
        wait_until(lambda: asked(node, "info")["endpoints"] == len(names), 20 * SLOW, "all endpoints")

        async def go():
            for agent in going:
                await agent.session.go_away()
                await asyncio.sleep(0)
        reload_and_meanwhile(node, peers, "^worker ready$", 2, go)

        async def is_heard(agent):
            await agent.session.ping()
            agent.session.go_away_sent_seen = True      # from now on a stream is a violation

        async def are_heard():
            await asyncio.gather(*map(is_heard, going))
        peers.call(are_heard(), 30 * SLOW)
        assert not any(agent.session.ended for agent in going)
        wait_until(lambda: asked(node, "info")["endpoints"] == 0, 20 * SLOW, lambda: f"no endpoint: {asked(node, 'info')}")
        serving = [tunnel(node, agents.Recorder(body=b"serving"), name) for name in names]
        wait_until(lambda: asked(node, "info")["endpoints"] == len(names), 20 * SLOW, "all endpoints")
        for name in names:
            for _ in range(4):
                answer = request(node.proxy, host=f"{name}.example.com")
                assert (answer.status, answer.body) == (200, b"serving"), name

        async def close():
            await asyncio.gather(*(agent.close() for agent in going + serving))
        peers.call(close())
        wait_until(lambda: asked(node, "info")["upstreams"] == 0, 20 * SLOW, "no agent")


# ---- Bytes that are still queued ----


def test_slow_readers_of_a_last_response(new_node, tunnel, host):
    """A response with `Connection: close` whose exchange is over waits in the worker for its client to read: that worker
    ends no sooner."""
    node = new_node(workers=1)
    served = set()

    async def handler(stream):
        message = await http1.read_message(stream)
        size = int(message.target[1:])
        await stream.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size)
        await stream.write(b"x" * size)
        await stream.finish()
        assert not await stream.read()
        served.add(size)      # the worker has taken all of it
    tunnel(node, handler)

    # What the kernel holds of a response is up to the kernel: one of many sizes is a little more.
    clients = {}
    for size in range(200_000, 2_000_000, 50_000):
        clients[size] = client = connection(node, receive_buffer=4096, timeout=20 * SLOW)
        client.send(f"GET /{size} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")

    def waiting_in_worker():
        """The sizes of the responses that are over for the worker and not yet with the kernel."""
        there = queues(node.proxy)
        return [size for size in sorted(served) if size - pending(clients[size].socket, termios.FIONREAD)
                - there.get(clients[size].socket.getsockname()[1], (size, 0))[0] > 50_000]
    found = wait_until(waiting_in_worker, 20 * SLOW, "responses that wait in the worker")
    # Whoever else is still being served would keep the worker, too.
    for size in set(clients) - set(found):
        clients.pop(size).reset()
    worker = asked(node, "workers")["workers"][0]["generation"]
    changed(node, "reload")
    changed(node, "reload")
    assert worker in generations(node)
    for size, client in clients.items():
        answer = client.read_response()
        assert answer.status == 200 and answer.body == b"x" * size
        assert client.ends()
        client.close()
    wait_for_generations(node, 1)


@once
@pytest.mark.parametrize("kind", ["tcp", "upgrade"])
def test_uploads_after_the_end_of_the_service(new_node, tunnel, endpoint, host, kind):
    """Half-closed by the service, all of the client's bytes and its end in the worker of before, and the agent takes its time:
    that worker ends no sooner than they are on their way."""
    node = new_node(workers=1)
    gate, received = threading.Event(), {}

    async def handler(stream):
        if kind == "upgrade":
            await stream.read_until(b"\r\n\r\n")
            await stream.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: proto/2\r\n\r\n")
        await stream.finish()
        while not gate.is_set():
            await asyncio.sleep(0.01)
        size = int(await stream.read_exactly(8))
        received[size] = 8
        try:
            while data := await stream.read():
                received[size] += len(data)
            received[size] = "all" if received[size] == size else f"an end after {received[size]}"
        except OSError as error:
            received[size] = f"{error!r} after {received[size]}"
    tunnel(node, handler)
    # More than the agent's window and the bridge between the workers hold, and what the worker of before still takes.
    clients = {}
    for size in [600_000, 650_000, 700_000]:
        clients[size] = client = connection(node, timeout=20 * SLOW)
        if kind == "upgrade":
            client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: proto/2\r\n\r\n")
        else:
            client.send(f"GET /_piko/v1/tcp/{endpoint} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: piko-raw/1\r\n\r\n")
        assert client.read_response().status == 101
        assert client.read_to_end() == b""
    worker = asked(node, "workers")["workers"][0]["generation"]
    changed(node, "reload")
    for size, client in clients.items():
        client.send(b"%8d" % size + b"y" * (size - 8))
        client.finish()

    def left():
        """{size: bytes that the worker has not read}"""
        there = queues(node.proxy)
        return {size: pending(client.socket, termios.TIOCOUTQ) + there.get(client.socket.getsockname()[1], (0, 0))[1]
                for size, client in clients.items()}
    before = settled(left)
    # Whoever else is there would keep the worker, too.
    for size in [size for size in clients if before[size]]:
        clients.pop(size).reset()
    assert clients, before
    changed(node, "reload")
    assert worker in generations(node)
    gate.set()
    wait_until(lambda: all(isinstance(received.get(size), str) for size in clients), 20 * SLOW, lambda: f"the ends: {received}")
    assert {size: received[size] for size in clients} == dict.fromkeys(clients, "all")
    wait_for_generations(node, 1)
    for client in clients.values():
        client.close()


# ---- Other edges ----


def test_421_of_a_service(new_node, peers, endpoint, host):
    """It is an answer like any other, also when one worker relays the request to another."""
    node = new_node(workers=2)
    seen = Counter()

    def misdirected(message):
        seen[message.target] += 1
        return response(421, "Misdirected Request", [("X-Of", "service")], b"not here")
    # No data connection waits: requests go over the session of one worker, through a relay from the other.
    agent = peers.call(agents.Agent.connect(node.upstream, endpoint, agents.Recorder(misdirected), transport="direct", waiting=0))
    try:
        for number in range(scaled(200, 12)):
            method = ["GET", "DELETE", "POST"][number % 3]
            answer = request(node.proxy, method, f"/{number}", host=host, body=b"body" if method == "POST" else b"")
            assert (answer.status, answer.reason, answer.get("x-of"), answer.body) == (421, "Misdirected Request", "service", b"not here")
            assert seen[f"/{number}"] == 1, f"{method} reached the service {seen[f'/{number}']} times"
        wait_until(lambda: metric(node, "piko_connections_relayed_total") > 0, 10 * SLOW, "relayed requests")
    finally:
        peers.call(agent.close())
    assert agent.violations == [] and agent.failures == []


@once
def test_a_deadline_outlives_an_upgrade(new_node, tunnel, endpoint):
    """A worker of too many generations has 10 seconds left; the program that takes over may not give it more."""
    node = new_node(workers=1, config="reload: {max_generations: 2}\n")
    tunnel(node, agents.echo)
    client = connection(node, timeout=20 * SLOW)
    client.send(f"GET /_piko/v1/tcp/{endpoint} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: piko-raw/1\r\n\r\nhello")
    assert client.read_response().status == 101
    assert client.read_exactly(5) == b"hello"
    worker = asked(node, "workers")["workers"][0]["generation"]

    def states():
        return [one["state"] for one in asked(node, "workers")["workers"] if one["generation"] == worker]
    changed(node, "reload")
    assert states() == ["retiring"]
    changed(node, "reload")
    assert states() == ["draining"]
    # For the next program alone there are not too many.
    configure(node, "reload: {max_generations: 8}\n")
    changed(node, "upgrade")
    assert states() == ["draining"]
    client.send("again")
    assert client.read_exactly(5) == b"again"
    if SOAK:
        wait_for_generations(node, 1, timeout=20)
        assert client.ends(within=10)
    client.close()


def test_upgrades_leave_no_descriptors(new_node):
    """A helper thread that looks names up has a descriptor of its own, which an exec must close as all the others."""
    node = new_node(arguments=["--cluster.join", "localhost:1", "--cluster.abort-if-join-fails=false"])
    changed(node, "upgrade")
    wait_for_generations(node, 1)
    before = len(descriptors(node.pid))
    for _ in range(6):
        changed(node, "upgrade")
    wait_for_generations(node, 1)
    wait_until(lambda: len(descriptors(node.pid)) <= before + 1, 10 * SLOW, what=lambda: f"{before} as before: {descriptors(node.pid)}")
