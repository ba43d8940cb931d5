"""Sends the same bytes to haproxy, to nginx and to us, and compares what reaches the service behind each.

    grid.py [--seed N] [--count N] [--seconds N] [--case NAME]

The rule: of a case, no more requests reach the service through us than through the stricter of the others, and the bodies are the
same. Where RFC 9112 or 9110 lets a request through that one of them refuses, `exceptions.py` says which section does. A
finding is printed with its bytes; the exit is then 1.
"""

import argparse
import re
import socket
import sys
import threading
import time
from dataclasses import dataclass, field

import cases
import exceptions
import proxies

LAST = f"GET /{{name}}-last HTTP/1.1\r\nHost: {cases.HOST}\r\nConnection: close\r\n\r\n"


@dataclass
class Outcome:
    """What became of a case at one proxy."""
    statuses: list = field(default_factory=list)
    reached: list = field(default_factory=list)
    timed_out: bool = False

    @property
    def count(self):
        return len(self.reached)

    @property
    def bodies(self):
        return [entry[3] for entry in self.reached if entry[0] == "request"]


def send(proxy, wire, patience):
    """The case, and a last request that ends the connection; reads to the end."""
    outcome, answer = Outcome(), b""
    with socket.create_connection(proxy.address, 5) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(patience)
        try:
            client.sendall(wire)
            while data := client.recv(65536):
                answer += data
        except TimeoutError:
            outcome.timed_out = True
        except OSError:
            pass
    at = 0
    while (at := answer.find(b"HTTP/1.", at)) >= 0:
        outcome.statuses.append(answer[at + 9:at + 12].decode("latin-1"))
        at += 8
    return outcome


def settle(proxy, outcome, name):
    """Waits until the proxy sends nothing more, and takes what reached the service, but for the last request."""
    if outcome.timed_out:
        time.sleep(0.1)
    for entry in proxy.service.take():
        if entry[0] == "request" and entry[2].endswith(f"/{name}-last") and entry[3] == b"":
            continue
        outcome.reached.append(entry)


def run(all_proxies, name, text, patience=0.7):
    """{proxy: outcome}"""
    wire = cases.wire(name, text) + LAST.format(name=name).encode()
    outcomes = {}

    def one(proxy):
        outcome = send(proxy, wire, patience)
        settle(proxy, outcome, name)
        outcomes[proxy.name] = outcome
    threads = [threading.Thread(target=one, args=(proxy,)) for proxy in all_proxies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def judge(outcomes, text):
    """What is wrong, or None."""
    ours = outcomes["piko"]
    for entry in ours.reached:
        if entry[0] == "unreadable":
            return f"what reached the service can't be read: {entry[1]}"
    for name, theirs in outcomes.items():
        if name == "piko":
            continue
        whole = [entry for entry in ours.reached if entry[0] == "request"]
        if len(whole) > theirs.count and not exceptions.explains(name, text):
            return f"{len(whole)} requests reached the service through us, {theirs.count} through {name}"
        readable = all(entry[0] == "request" for entry in theirs.reached)
        if not readable or len(whole) != theirs.count or ours.bodies == theirs.bodies:
            continue
        # As many, but others: each of the two let through what the other refused.
        are_others = [entry[1] for entry in whole] != [entry[1] for entry in theirs.reached]
        if not are_others or not exceptions.explains(name, text):
            return f"the bodies differ from those through {name}"
    return None


def check(all_proxies, name, text, report):
    outcomes = run(all_proxies, name, text)
    verdict = judge(outcomes, text)
    if verdict:
        # Once more, with time: the machine may have been busy.
        outcomes = run(all_proxies, name, text, patience=3)
        verdict = judge(outcomes, text)
    if verdict:
        report(name, text, verdict, outcomes)
    return verdict is None


def print_finding(name, text, verdict, outcomes):
    shown = re.sub(r"(.)\1{40,}", lambda run: f"{run[1] * 8}…", repr(cases.wire(name, text)))
    print(f"\n{name}: {verdict}\n    {shown[:1500]}")
    for proxy, outcome in outcomes.items():
        print(f"    {proxy:8} {' '.join(outcome.statuses) or '-':16} {'timeout ' if outcome.timed_out else ''}{outcome.reached}"[:600])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", default="1")
    parser.add_argument("--count", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--case", action="append", default=[])
    options = parser.parse_args()
    started = time.monotonic()
    all_proxies = [proxies.haproxy(), proxies.nginx(), proxies.piko()]
    findings = done = 0
    try:
        listed = [(name, text) for name, text in cases.listed()]
        stream = listed + [cases.generated(options.seed, index) for index in range(options.count)]
        for name, text in stream:
            if options.case and name not in options.case:
                continue
            if time.monotonic() - started > options.seconds:
                break
            done += 1
            findings += not check(all_proxies, name, text, print_finding)
    finally:
        for proxy in all_proxies:
            proxy.stop()
    print(f"\n{done} cases with seed {options.seed}, {findings} findings, {time.monotonic() - started:.0f} s")
    return 1 if findings or not done else 0


if __name__ == "__main__":
    sys.exit(main())
