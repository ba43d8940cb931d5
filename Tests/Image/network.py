"""A network of a test's own: a switch, hosts on it that are network namespaces, and a name server as the networks of containers
have one.

    network = Network()
    host = network.host("piko-0")               # 10.97.0.2, and so on
    network.names["piko-headless"] = [host.address]
    podman run --network host.option --dns network.address …
    with host.inside(): …                       # sockets of this thread are made there

The namespaces are named in a private /run/netns (Tests/Image/apart), so they end with the processes of the test.
"""

import contextlib
import ctypes
import http.client
import os
import select
import socket
import struct
import threading
import time

from engine import run

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
PREFIX = "10.97.0"
TYPE_A, ANSWER, AUTHORITATIVE, NO_SUCH_NAME = 1, 0x8000, 0x0400, 3


class Host:
    def __init__(self, name, address):
        self.name, self.address = name, address
        self.option = f"ns:/run/netns/{name}"

    @contextlib.contextmanager
    def inside(self):
        """This thread's new sockets belong to the host; a namespace is a property of a thread."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            if LIBC.setns(there, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            yield
        finally:
            LIBC.setns(before, CLONE_NEWNET)
            os.close(before)
            os.close(there)

    def get(self, address, path, headers=None, timeout=20):
        """Asks by HTTP from this host: status and body."""
        with self.inside():
            connection = http.client.HTTPConnection(*address, timeout=timeout)
            try:
                connection.request("GET", path, headers=headers or {})
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()

    def status(self, address, path, timeout=5):
        """The status of an answer, or None where none came: for asking until something is up."""
        try:
            return self.get(address, path, timeout=timeout)[0]
        except OSError:
            return None


class Network:
    def __init__(self):
        self.names = {}
        self.hosts = []
        self.address = f"{PREFIX}.1"
        run("ip", "netns", "add", "switch")
        self.switch("ip", "link", "add", "switch", "type", "bridge", "forward_delay", "0")
        self.switch("ip", "addr", "add", f"{self.address}/24", "dev", "switch")
        for device in ("lo", "switch"):
            self.switch("ip", "link", "set", device, "up")
        self.outside = Host("switch", self.address)
        with self.outside.inside():
            self.sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()]
        for one in self.sockets:
            one.bind((self.address, 53))
        self.sockets[1].listen()
        threading.Thread(target=self.serve_names, daemon=True).start()

    def switch(self, *words):
        run("ip", "netns", "exec", "switch", *words)

    def host(self, name):
        host = Host(name, f"{PREFIX}.{len(self.hosts) + 2}")
        self.hosts.append(host)
        port = f"port{len(self.hosts)}"
        run("ip", "netns", "add", name)
        self.switch("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        self.switch("ip", "link", "set", port, "master", "switch", "up")
        for words in (("addr", "add", f"{host.address}/24", "dev", "eth0"), ("link", "set", "eth0", "up"), ("link", "set", "lo", "up")):
            run("ip", "netns", "exec", name, "ip", *words)
        return host

    # ---- Names ----

    def serve_names(self):
        while True:
            for ready in select.select(self.sockets, [], [])[0]:
                with contextlib.suppress(OSError, IndexError, struct.error):
                    if ready is self.sockets[0]:
                        question, sender = ready.recvfrom(4096)
                        ready.sendto(self.answer(question), sender)
                    else:
                        with ready.accept()[0] as connection:
                            connection.settimeout(2)
                            length = struct.unpack(">H", connection.recv(2))[0]
                            answer = self.answer(connection.recv(length))
                            connection.sendall(struct.pack(">H", len(answer)) + answer)

    def answer(self, question):
        """One question, one answer: addresses of a known name, nothing for other types of it, no such name for all else."""
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1:at + 1 + question[at]].decode("ascii", "replace").lower())
            at += question[at] + 1
        kind = struct.unpack(">H", question[at + 1:at + 3])[0]
        addresses = self.names.get(".".join(labels))
        found = addresses if addresses and kind == TYPE_A else []
        flags = ANSWER | AUTHORITATIVE | (0 if addresses else NO_SUCH_NAME)
        records = b"".join(struct.pack(">HHHIH", 0xC00C, TYPE_A, 1, 5, 4) + socket.inet_aton(one) for one in found)
        return question[:2] + struct.pack(">HHHHH", flags, 1, len(found), 0, 0) + question[12:at + 5] + records


def wait_for_status(host, address, path, wanted=200, seconds=30):
    """Asks until the answer has that status; False when that takes too long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if host.status(address, path) == wanted:
            return True
        time.sleep(0.1)
    return False
