"""Clusters of nodes as a test handles them: started one after the other on loopback, asked through their admin ports.

A node is a `programs.Node` with `id`; its gossip port is from the kernel, as its others are. What a node knows is asked of it
and waited for, never slept for.
"""

import asyncio
import contextlib
import json
import socket
import struct
import threading

from peer import http1
from peer.http1 import Connection, request, wait_until
from programs import SLOW, address_of


def get(node, target):
    return request(node.admin, target=target, host="admin")


def status(node, path):
    """The document at /status/PATH; None when there is none."""
    answer = get(node, f"/status/{path}")
    assert answer.status in (200, 404), answer
    return json.loads(answer.body) if answer.status == 200 else None


def seen(node):
    """{id: status} of all nodes that the node knows, itself among them."""
    return {one["id"]: one["status"] for one in status(node, "cluster/nodes")}


def endpoints(node, other):
    """{endpoint: listeners} of another node, as the node knows them; None when it does not know that node."""
    found = status(node, f"cluster/nodes/{other}")
    return found and found["endpoints"]


def wait_seen(nodes, expected, timeout=15):
    """Waits until each of the nodes sees exactly this."""
    for node in nodes:
        wait_until(lambda: seen(node) == expected, timeout * SLOW, lambda: f"{node.id} sees {seen(node)}, not {expected}\n{node.tail(30)}")


def wait_all_active(nodes, timeout=15):
    wait_seen(nodes, {node.id: "active" for node in nodes}, timeout)


def counter(node, name, **labels):
    """The value of one series; 0 when there is none."""
    wanted = name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "")
    for line in get(node, "/metrics").body.decode().splitlines():
        series, _, value = line.rpartition(" ")
        if series == wanted:
            return float(value)
    return 0.0


def dropped(node, *reasons):
    return sum(counter(node, "piko_gossip_dropped_total", reason=reason) for reason in reasons)


REASONS = ("envelope", "cluster", "signature", "replay", "recipient", "malformed", "oversized", "too_long", "late", "crowded")


def knowledge(node):
    """What a node knows of others by gossip, without what time alone changes."""
    return {one["id"]: [entry for entry in status(node, f"gossip/nodes/{one['id']}")["Entries"]] for one in status(node, "gossip/nodes")}


class Clusters:
    """Makes nodes that join each other."""

    def __init__(self, new_node):
        self.new_node = new_node
        self.count = 0

    def node(self, join=(), id=None, arguments=(), gossip="127.0.0.1:0", workers=1, wait=True, **options):
        self.count += 1
        id = id or f"n{self.count}"
        line = ["--cluster.node-id", id, *arguments]
        for one in join:
            line += ["--cluster.join", one if isinstance(one, str) else f"{one.gossip[0]}:{one.gossip[1]}"]
        node = self.new_node(workers=workers, arguments=line, gossip=gossip, wait=wait, **options)
        node.id = id
        node.name = id
        return node

    def start(self, count, **options):
        """So many nodes, of which each but the first joins the first; all see each other."""
        nodes = [self.node(**options)]
        for _ in range(count - 1):
            nodes.append(self.node(join=nodes[:1], **options))
        wait_all_active(nodes)
        return nodes


class Balancer:
    """One address in front of several: connections go to `targets` in turn, which a test changes as it likes."""

    def __init__(self, peers, targets):
        self.peers, self.targets, self.turn = peers, list(targets), 0
        self.server = peers.call(self._start())
        self.address = self.server.sockets[0].getsockname()

    async def _start(self):
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _serve(self, reader, writer):
        for _ in range(len(self.targets)):
            self.turn += 1
            try:
                back, forth = await asyncio.open_connection(*self.targets[self.turn % len(self.targets)])
                break
            except OSError:
                continue
        else:
            writer.close()
            return

        async def carry(source, sink):
            try:
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
                sink.write_eof()
            except OSError:
                sink.transport.abort()
        await asyncio.gather(carry(reader, forth), carry(back, writer), return_exceptions=True)
        writer.close()
        forth.close()

    def close(self):
        async def stop():
            self.server.close()
        self.peers.call(stop())


class Load:
    """Clients that ask one node for an endpoint until they are told to stop; `inside`: the namespace that they are in."""

    def __init__(self, node, host, method="GET", body=b"", count=4, inside=contextlib.nullcontext):
        self.node, self.host, self.method, self.body, self.inside = node, host, method, body, inside
        self.failures, self.answers = [], 0
        self.is_over = False
        self.threads = [threading.Thread(target=self._run) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _run(self):
        with self.inside():
            self._ask()

    def _ask(self):
        connection = None
        while not self.is_over:
            try:
                connection = connection or Connection(self.node.proxy, timeout=30 * SLOW)
                answer = connection.request(self.method, host=self.host, body=self.body)
                self.answers += 1
                if answer.status != 200:
                    self.failures.append((answer.status, answer.body))
                if "close" in answer.options():
                    connection.close()
                    connection = None
            except (OSError, EOFError, http1.BadMessage) as error:
                self.failures.append(error)
                connection = None
        if connection:
            connection.close()

    def more(self, count=200):
        goal = self.answers + count
        wait_until(lambda: self.answers >= goal or self.failures, 60 * SLOW, lambda: f"{self.answers} of {goal} answers")

    def stop(self):
        self.is_over = True
        for thread in self.threads:
            thread.join()


class Tap:
    """Copies of the gossip packets that pass loopback, for those that replay them. Needs root."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.bind(("lo", 0))
        self.socket.settimeout(5)

    def packets(self, to_port, count):
        """So many packets to the port: (from port, bytes)."""
        found = []
        while len(found) < count:
            frame, (_, _, kind, *_) = self.socket.recvfrom(65536)
            # Loopback shows each twice; ours is the one that comes in.
            if kind == socket.PACKET_OUTGOING or frame[12:14] != b"\x08\x00" or frame[23] != 17:
                continue
            start = 14 + (frame[14] & 15) * 4
            source, target, length = struct.unpack("!HHH", frame[start:start + 6])
            if target == to_port:
                found.append((source, frame[start + 8:start + length]))
        return found

    def close(self):
        self.socket.close()


__all__ = ["Balancer", "Clusters", "Load", "Tap", "REASONS", "address_of", "counter", "dropped", "endpoints", "get", "knowledge", "seen",
           "status", "wait_all_active", "wait_seen"]
