"""Two hosts of a test's own: network namespaces joined by a pair of virtual cables, with a firewall between them.

    with hosts() as (server, agent):
        server.address, agent.address         # 10.87.x.1 and .2
        server.command("piko", …)             # the words that run a program there
        with server.inside(): …               # sockets of this thread are made there
        server.drop(source_port=1234)         # packets to the other side vanish without a word

Needs root, iproute2 and iptables; `missing()` says what is not there.
"""

import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
numbers = itertools.count(os.getpid() % 200)


def missing():
    """Why there can be no namespaces here; None when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "iptables"):
        if not shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
            return f"network namespaces need {program}"
    probe = f"piko-probe-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode != 0:
        return "this machine allows no network namespaces"
    subprocess.run(["ip", "netns", "del", probe], check=True, capture_output=True)
    return None


def run(*words):
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


class Host:
    def __init__(self, name, address):
        self.name, self.address = name, address

    def run(self, *words):
        run("ip", "netns", "exec", self.name, *words)

    def command(self, *words):
        return ["ip", "netns", "exec", self.name, *words]

    @contextlib.contextmanager
    def inside(self):
        """This thread's new sockets belong to the host; a namespace is a property of a thread."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            assert LIBC.setns(there, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            yield
        finally:
            assert LIBC.setns(before, CLONE_NEWNET) == 0
            os.close(before)
            os.close(there)

    def drop(self, port=None, peer_port=None, insert=True):
        """Silently loses what comes in for our `port` from `peer_port`, or (with `insert` false) no longer does."""
        rule = ["INPUT", "-i", "cable", "-p", "tcp"]
        if port is not None:
            rule += ["--dport", port]
        if peer_port is not None:
            rule += ["--sport", peer_port]
        self.run("iptables", "-I" if insert else "-D", *rule, "-j", "DROP")


@contextlib.contextmanager
def hosts():
    number = next(numbers) % 250
    pair = [Host(f"piko{os.getpid()}-{number}-{index}", f"10.87.{number}.{index + 1}") for index in range(2)]
    made = []
    try:
        for host in pair:
            run("ip", "netns", "add", host.name)
            made.append(host)
        run("ip", "link", "add", "cable", "netns", pair[0].name, "type", "veth", "peer", "name", "cable", "netns", pair[1].name)
        for host in pair:
            host.run("ip", "addr", "add", f"{host.address}/24", "dev", "cable")
            host.run("ip", "link", "set", "cable", "up")
            host.run("ip", "link", "set", "lo", "up")
        yield pair
    finally:
        for host in made:
            run("ip", "netns", "del", host.name)
