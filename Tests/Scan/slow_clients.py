"""Slow clients against a node, and what they do to others, to its memory and to its descriptors.

    slow_clients.py [--rounds N] [--connections N]

Each attack runs N times, each time behind some seconds of the same load without it: the p99 during it is divided by the p99 just
before, and the median of the rounds counts. The load is well-behaved HTTP clients on the proxy port that pause between requests, so
that what is measured is what waits for the node. Attacks are slowhttptest's, and TLS handshakes that stall. Bounds are the node's own:
see the table in `ATTACKS` and the constants below it.
"""

import argparse
import csv
import http.server
import os
import re
import selectors
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "Tests" / "SystemTests"))
sys.path.insert(0, str(ROOT / "Tests" / "Scan"))
from peer.http1 import wait_until  # noqa: E402
from programs import BIN, Node, Program, resident_bytes  # noqa: E402
from test_reload import Load  # noqa: E402
from tls_ports import make_certificates  # noqa: E402

TIMEOUT = 3               # of heads, bodies and readers at the proxy port
PORT_TIMEOUT = 10         # of heads and handshakes at the other ports: Worker/Entrance/Entrances.swift
SLACK = 2.5               # how much later than its time a connection may be gone: timers' steps, a busy machine, slowhttptest's clock
RATE = 100                # connections a second of an attack: twice what slowhttptest does by itself
QUIET_SECONDS = 4         # of load without an attack, in front of each
SLOWER_MAX = 2.0          # p99 during an attack, against the p99 before it
# What a connection may hold. One that does not read: what waits for it at most (Transport: high mark of 256 KiB and one read of
# 64 KiB more) in the worker; everyone else a head's beginning and the connection itself.
HELD_READER, HELD_OTHER = 384 << 10, 24 << 10
HELD_HANDSHAKE = 64 << 10   # a session of OpenSSL and its buffers
# The client's socket and, where a request runs, a data connection to the agent (or none, in a session) and a pipe of the pump.
DESCRIPTORS_EACH = 4
OWN_DESCRIPTORS = 100     # by which the load's connections, and those to the agent for them, come and go
OWN_CONNECTIONS = 8       # the load's that are opened for a request each
BASE_BYTES = 16 << 20     # the allocator's own, and the load


@dataclass
class Attack:
    name: str
    port: str
    arguments: list = field(default_factory=list)
    seconds: int = 10
    # From its connection on, when a client that stalls is cut; None: it gets an answer at once.
    cut_after: float = None
    held: int = HELD_OTHER
    path: str = "/"
    endpoint: str = "e"


ATTACKS = [
    Attack("slow heads (-H)", "proxy", ["-H", "-i", "1", "-x", "8"], 13, TIMEOUT),
    Attack("slow bodies (-B)", "proxy", ["-B", "-i", "1", "-s", "100000", "-x", "8"], 18, 2 * TIMEOUT, endpoint="slow"),
    # It takes something every 8 s.
    Attack("slow reading (-X)", "proxy", ["-X", "-n", "8", "-w", "1", "-y", "4", "-z", "1"], 22, 8 + TIMEOUT, HELD_READER, "/bytes/4000000"),
    Attack("ranges (-R)", "proxy", ["-R", "-t", "HEAD", "-a", "10", "-b", "3000"], 8),
    Attack("slow heads (-H)", "upstream", ["-H", "-i", "1", "-x", "8"], 20, PORT_TIMEOUT),
    Attack("slow bodies (-B)", "upstream", ["-B", "-i", "1", "-s", "100000", "-x", "8"], 8),
    Attack("slow reading (-X)", "upstream", ["-X", "-n", "8", "-w", "1", "-y", "4", "-z", "1"], 8),
    Attack("ranges (-R)", "upstream", ["-R", "-t", "HEAD", "-a", "10", "-b", "3000"], 8),
    Attack("stalled TLS handshakes", "TLS", [], 20, PORT_TIMEOUT, HELD_HANDSHAKE),
]


@dataclass
class Outcome:
    """Of one round of an attack."""
    before: float             # p99 of the load, ms
    during: float
    failures: int
    opened: int
    last_end: float           # seconds from the attack's begin until the last connection was gone; infinite: some were never
    grown: int                # bytes at most, over all the node's processes
    descriptors: int          # more at most


class Service(http.server.BaseHTTPRequestHandler):
    """Reads a body to its end before it answers."""
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_):
        pass


class QuietServer(http.server.ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True

    def handle_error(self, *_):
        pass    # connections that end early are what this is about


# ---- Attacks ----

def slowhttptest(attack, node, folder, count):
    """The process; what it says goes to files. It takes the node for its HTTP proxy, so that it can name an endpoint. It turns without
    pause where it leaves sockets unread, and an attacker has a machine of his own: it gets the processor's time that nobody else wants."""
    host, port = getattr(node, attack.port)
    prefix = folder / "slow"
    command = ["nice", "-n", "19", "slowhttptest", *attack.arguments, "-c", count, "-r", RATE, "-l", attack.seconds, "-p", "5", "-g", "-o", prefix, "-v", "1",
               "-d", f"{host}:{port}", "-u", f"http://{attack.endpoint}.example.com{attack.path}"]
    log = open(folder / "slowhttptest.log", "wb")
    return subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def slowhttptest_result(folder):
    """How many connections there were at least, and in which second all were gone. It ends as soon as none is open."""
    rows = [{key: int(value) for key, value in row.items()} for row in csv.DictReader(open(folder / "slow.csv"))]
    said = re.sub(r"\x1b\[[\d;]*m", "", (folder / "slowhttptest.log").read_text())
    ended = re.search(r"Test ended on (\d+)\w\w second\s+Exit status:\s*(.+)", said)
    assert rows and ended, said[-2000:]
    opened = max(row["Closed"] + row["Connected"] + row["Pending"] for row in rows)
    return opened, float(ended[1]) if "No open connections left" in ended[2] else float("inf")


class StalledHandshakes:
    """Connections to a port with TLS that say nothing, half of a ClientHello with a byte more each second, or a whole one."""

    def __init__(self, address, count):
        self.address, self.count, self.began = address, count, time.monotonic()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context()
        try:
            context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
        except ssl.SSLWantReadError:
            pass
        self.hello = outgoing.read()
        self.open, self.sent, self.opened, self.last_end = {}, {}, 0, 0.0
        self.selector = selectors.DefaultSelector()

    def connect(self):
        one = socket.create_connection(self.address, 5)
        one.setblocking(False)
        kind = self.opened % 3
        first = [b"", self.hello[:100], self.hello][kind]
        one.send(first)
        self.selector.register(one, selectors.EVENT_READ)
        self.open[one] = (kind, time.monotonic())
        self.sent[one] = len(first)
        self.opened += 1

    def drop(self, one):
        self.selector.unregister(one)
        del self.open[one]
        one.close()
        self.last_end = time.monotonic() - self.began

    def step(self):
        """A tenth of a second of it."""
        until = time.monotonic() + 0.1
        due = min(self.count, int((time.monotonic() - self.began) * RATE) + 1)
        while self.opened < due:
            self.connect()
        for one, (kind, at) in list(self.open.items()):
            if kind == 1 and self.sent[one] < 100 + int(time.monotonic() - at):
                try:
                    one.send(self.hello[self.sent[one]:self.sent[one] + 1])
                    self.sent[one] += 1
                except OSError:
                    self.drop(one)
        while (left := until - time.monotonic()) > 0:
            for key, _ in self.selector.select(left):
                try:
                    if not key.fileobj.recv(65536):
                        self.drop(key.fileobj)
                except OSError:
                    self.drop(key.fileobj)

    def result(self):
        left = len(self.open)
        for one in list(self.open):
            one.close()
        return self.opened, float("inf") if left else self.last_end


# ---- One round ----

def held_by(node):
    processes = node.processes()
    return sum(map(resident_bytes, processes)), sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in processes)


def connections_at(address):
    """Those that are open at a port, on the node's side."""
    command = ["ss", "-tnH", "state", "established", f"( sport = :{address[1]} )"]
    return len(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines())


def run(attack, node, load, folder, count, number):
    """Quiet seconds, the attack, and until the node has let go of it."""
    load.phase(f"{number}-before")
    time.sleep(QUIET_SECONDS)
    bytes_before, descriptors_before = held_by(node)
    connections_before = connections_at(node.proxy)
    load.phase(f"{number}-during")
    bytes_most, descriptors_most = bytes_before, descriptors_before
    stalled = StalledHandshakes(node.upstream, count) if attack.port == "TLS" else None
    process = None if stalled else slowhttptest(attack, node, folder, count)
    began, gone = time.monotonic(), None
    end, deadline = began + attack.seconds, began + attack.seconds + 20
    while (time.monotonic() < end) if stalled else (process.poll() is None):
        assert time.monotonic() < deadline, f"slowhttptest does not end: {(folder / 'slowhttptest.log').read_text()[-1000:]}"
        if stalled:
            stalled.step()
        else:
            time.sleep(0.2)
        now_bytes, now_descriptors = held_by(node)
        bytes_most, descriptors_most = max(bytes_most, now_bytes), max(descriptors_most, now_descriptors)
        if attack.port == "proxy" and connections_at(node.proxy) <= connections_before + OWN_CONNECTIONS:
            gone = gone or time.monotonic() - began
        else:
            gone = None
    load.phase(f"{number}-after")
    opened, last_end = stalled.result() if stalled else slowhttptest_result(folder)
    # slowhttptest sees a reset only when it reads again: what the node has let go of at its proxy port counts, too, if the attack still ran.
    if gone is not None and gone < attack.seconds - 1:
        last_end = min(last_end, gone)
    wait_until(lambda: held_by(node)[1] <= descriptors_before + OWN_DESCRIPTORS, 20, lambda: f"descriptors: {held_by(node)[1]} after {descriptors_before}")
    return opened, last_end, bytes_most - bytes_before, descriptors_most - descriptors_before


def measure(attacks, node, arguments, folder, options):
    """[(attack, its outcomes)]."""
    if not attacks:
        return []
    demo = Program([BIN / "piko-demo-service", "--listen", "127.0.0.1:0"], name="demo service")
    address = wait_until(lambda: re.findall(r"127\.0\.0\.1:\d+", demo.output), what="the demo service's port")[0]
    service = QuietServer(("127.0.0.1", 0), Service)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    agents = [Program([BIN / "piko", "agent", "http", endpoint, target, "--connect.url", *arguments, "--access-log.disable"], name="agent")
              for endpoint, target in (("e", address), ("slow", str(service.server_address[1])))]
    for agent in agents:
        agent.wait_log("connected")
    load = Load(node, "e", kept=24, fresh=8, pause=0.1, bodies="0,0,100,3000")
    time.sleep(1)
    runs = {}
    for number in range(options.rounds):
        for index, attack in enumerate(attacks):
            print(f"round {number + 1}: {attack.port}: {attack.name}", file=sys.stderr, flush=True)
            runs[number, index] = run(attack, node, load, folder, options.connections, f"{number}-{index}")
    report = load.stop()
    for failure in report["first"]:
        print(f"a well-behaved client failed: {failure}")
    outcomes = {}
    for (number, index), (opened, last_end, grown, more) in runs.items():
        before, during = (report["phases"][f"{number}-{index}-{name}"] for name in ("before", "during"))
        assert min(before["requests"], during["requests"]) >= 200, f"too few requests to speak of a p99: {before} {during}"
        outcomes.setdefault(index, []).append(Outcome(before["p99_ms"], during["p99_ms"], before["failures"] + during["failures"],
                                                      opened, last_end, grown, more))
    assert not node.logged("worker ended"), node.tail()
    for program in [*agents, demo]:
        program.stop()
    service.shutdown()
    return [(attack, outcomes[index]) for index, attack in enumerate(attacks)]


# ---- Judging ----

def misses(attack, outcomes, count):
    """What did not hold, in words."""
    found = []
    if statistics.median(one.during / one.before for one in outcomes) > SLOWER_MAX:
        found.append("others slower")
    if any(one.failures for one in outcomes):
        found.append("others failed")
    allowed = count / RATE + (attack.cut_after or 0) + SLACK
    if attack.cut_after and any(one.opened < count for one in outcomes):
        found.append("not all connected")
    if attack.cut_after and any(one.last_end > allowed for one in outcomes):
        found.append(f"not cut within {allowed:.1f} s")
    if any(one.grown > BASE_BYTES + count * attack.held for one in outcomes):
        found.append("memory")
    if any(one.descriptors > count * DESCRIPTORS_EACH + OWN_DESCRIPTORS for one in outcomes):
        found.append("descriptors")
    return ", ".join(found)


def gone(attack, outcomes):
    return f"{max(one.last_end for one in outcomes):.1f} s" if attack.cut_after else "answered"


def table(results, count):
    """Prints it. True: no bound was missed."""
    print(f"\n{'port':9} {'attack':24} {'p99 before':>10} {'during':>8}  {'ratio, its range':17} {'all gone':>8} {'memory':>8} {'descriptors':>11}")
    is_good = True
    for attack, outcomes in results:
        ratios = [one.during / one.before for one in outcomes]
        missed = misses(attack, outcomes, count)
        is_good = is_good and not missed
        print(f"{attack.port:9} {attack.name:24} {statistics.median(one.before for one in outcomes):7.2f} ms "
              f"{statistics.median(one.during for one in outcomes):5.2f} ms  "
              f"{statistics.median(ratios):4.2f} ({min(ratios):.2f}-{max(ratios):.2f})  {gone(attack, outcomes):>8} "
              f"{max(one.grown for one in outcomes) / 1e6:5.1f} MB {max(one.descriptors for one in outcomes):11}  {'MISSED: ' + missed if missed else 'holds'}")
    return is_good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", metavar="WORD", help="attacks with the word in their name or port")
    parser.add_argument("--connections", type=int, default=600, help="of each attack (default 600)")
    options = parser.parse_args()
    began = time.monotonic()
    attacks = [attack for attack in ATTACKS if options.only in f"{attack.port} {attack.name}"]
    plain, secure = [one for one in attacks if one.port != "TLS"], [one for one in attacks if one.port == "TLS"]
    times = [word for name in ("read-header-timeout", "read-timeout", "write-timeout") for word in (f"--proxy.http.{name}", f"{TIMEOUT}s")]
    common = [*times, "--proxy.http.min-body-rate", "1000", "--upstream.direct.idle-timeout", "2s", "--proxy.access-log.disable"]
    results = []
    try:
        with tempfile.TemporaryDirectory(prefix="piko-slow-") as name:
            folder = Path(name)
            make_certificates(folder)
            node = Node(arguments=common)
            results += measure(plain, node, [node.upstream_url], folder, options)
            node.stop()
            node = Node(arguments=[*common, "--upstream.tls.cert", folder / "rsa.pem", "--upstream.tls.key", folder / "rsa.key"])
            url = [f"https://localhost:{node.upstream[1]}", "--connect.tls.root-cas", folder / "authority.pem"]
            results += measure(secure, node, url, folder, options)
            node.stop()
    finally:
        for program in reversed(list(Program.living)):
            program.stop()
    is_good = table(results, options.connections)
    print(f"{options.connections} connections each, {options.rounds} rounds, {time.monotonic() - began:.0f} s, load average {os.getloadavg()[1]:.1f}")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
