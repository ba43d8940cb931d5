"""Scenarios about what the programs cost when little or nothing happens: idle tunnels, registration, the agent."""

import json
import os
import shutil
import subprocess
import threading
import time
import urllib.request

from .processes import Failure, cpu_seconds, family, memory

MEGABYTE = 1e6


class Footprint:
    """A scenario whose measurements start and end their own programs. `measures`: system -> function(bench) -> figures."""

    def __init__(self, name, title, variants, columns, compared=()):
        self.name, self.title, self.variants, self.columns, self.compared = name, title, variants, columns, compared

    def run(self, bench, rounds, report):
        for variant, measures in self.variants.items():
            values, failures = {system: [] for system in measures}, {}
            for _ in range(rounds):
                for system in list(values):
                    try:
                        values[system].append(measures[system](bench))
                    except Failure as failure:
                        failures[system] = str(failure)
                        del values[system]
            report.add(self, variant, values, failures)


def kernel_memory():
    """Memory of the kernel's slabs: sockets and what hangs on them."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Slab:"))


def with_tunnels(bench, count, measure):
    """Starts a server, opens tunnels, and gives measure(server, workers, tunnels, open seconds, samples)."""
    server, _, upstream_port = bench.start_server()
    tunnels = None
    try:
        workers = server.members[1:]
        if len(workers) != bench.threads:
            raise Failure(f"{len(workers)} workers instead of {bench.threads}")
        time.sleep(0.5)
        before = {"memory": {pid: memory(pid) for pid in server.members}, "kernel": kernel_memory(),
                  "cpu": {pid: cpu_seconds([pid]) for pid in server.members}}
        tunnels = bench.start("tunnels", [bench.tools / "tunnels", upstream_port, count])
        seconds = float(tunnels.wait_for(r"open (\S+)\n", tunnels.output_path, timeout=120).group(1))
        cpu = {pid: cpu_seconds([pid]) - before["cpu"][pid] for pid in server.members}
        time.sleep(1)
        if not tunnels.is_running() or family(server.pid) != server.members:
            raise Failure(f"the tunnels did not last: {tunnels.tail()}")
        found = measure(server, workers, before, seconds, cpu)
        if not tunnels.is_running():
            raise Failure(f"the tunnels did not last: {tunnels.tail()}")
        return found
    finally:
        if tunnels:
            tunnels.end()
        server.end()


def idle_tunnels(options):
    def measure_for(count):
        def measure(server, workers, before, seconds, cpu):
            def growth(kind, pids):
                return sum(memory(pid)[kind] - before["memory"][pid][kind] for pid in pids) / count
            return {"rss_bytes": growth("Rss", workers), "private_bytes": growth("Private_Dirty", workers), "supervisor_bytes": growth("Rss", [server.pid]),
                    "kernel_bytes": (kernel_memory() - before["kernel"]) / count}
        return lambda bench: with_tunnels(bench, count, measure)
    return Footprint("idle-tunnels", "memory that the server gains for each tunnel",
                     {f"{count} tunnels": {"piko-mux": measure_for(count)} for count in (1000, 10000)},
                     ["rss_bytes", "private_bytes", "supervisor_bytes", "kernel_bytes"])


def registration(options):
    count = 2000

    def measure(server, workers, before, seconds, cpu):
        return {"registrations": count / seconds, "cpu_tunnel_us": sum(cpu.values()) / count * 1e6, "supervisor_us": cpu[server.pid] / count * 1e6,
                "worker_us": sum(cpu[pid] for pid in workers) / count * 1e6}
    return Footprint("registration", "new tunnels, 64 at a time", {f"{count} tunnels": {"piko-mux": lambda bench: with_tunnels(bench, count, measure)}},
                     ["registrations", "cpu_tunnel_us", "supervisor_us", "worker_us"])


def stripped_bytes(bench, path):
    copy = bench.folder / "stripped"
    strip = shutil.which("strip") or shutil.which("llvm-strip")
    if strip is None:
        raise Failure("no strip")
    subprocess.run([strip, "-o", copy, path], check=True)
    return os.path.getsize(copy)


def admin_page(port, path):
    """With what Prometheus says that it takes."""
    accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept}), timeout=20) as answer:
        return answer.read()


class Scraper:
    """Asks for the metrics every second, as Prometheus does every fifteen."""

    def __init__(self, port):
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(port,), daemon=True)
        self.thread.start()

    def run(self, port):
        while not self.ended.wait(1):
            admin_page(port, "/metrics")

    def stop(self):
        self.ended.set()
        self.thread.join()


def scrape(options):
    """The metrics of a node with 10,000 endpoints, of which as many were used as are counted by themselves."""
    used = 1100

    def use_endpoints(bench, proxy_port, upstream_port):
        path = bench.folder / "scrape-agent.yaml"
        path.write_text(f"connect:\n  url: http://127.0.0.1:{upstream_port}\nlisteners:\n" + "".join(
            f"  - endpoint_id: used-{index}\n    addr: 127.0.0.1:{bench.service_port}\n    access_log:\n      disable: true\n    timeout: 10s\n" for index in range(used)))
        agent = bench.start("piko-agent-many", [bench.binaries / "piko-agent", "agent", "start", "--config.path", path])
        deadline = time.monotonic() + 60
        while agent.log_path.read_text(errors="replace").count('"connected"') < used:
            if time.monotonic() > deadline:
                raise Failure(f"not all listeners connected: {agent.tail()}")
            time.sleep(0.1)
        for index in range(used):
            request = urllib.request.Request(f"http://127.0.0.1:{proxy_port}/small", headers={"x-piko-endpoint": f"used-{index}"})
            urllib.request.urlopen(request, timeout=10).read()
        return agent

    def long_turns(port):
        """Turns of all workers' loops that took longer than 5 ms, and the longest."""
        loops = json.loads(admin_page(port, "/debug/loops"))["loops"]
        return sum(sum(count for bound, count in zip([*loop["turn_bounds_seconds"], 1e9], loop["turn_counts"]) if bound > 0.005) for loop in loops)

    def measure(bench):
        server, proxy_port, upstream_port = bench.start_server()
        tunnels = agent = None
        try:
            port = server.ports["admin"]
            tunnels = bench.start("tunnels", [bench.tools / "tunnels", upstream_port, 10000])
            tunnels.wait_for(r"open (\S+)\n", tunnels.output_path, timeout=120)
            agent = use_endpoints(bench, proxy_port, upstream_port)
            time.sleep(1)
            size = len(admin_page(port, "/metrics"))
            before, times = long_turns(port), []
            for _ in range(30):
                begun = time.monotonic()
                admin_page(port, "/metrics")
                times.append((time.monotonic() - begun) * 1000)
                time.sleep(0.05)
            times.sort()
            return {"p50_ms": times[15], "longest_ms": times[-1], "turns_over_5_ms": long_turns(port) - before, "kilobytes": size / 1000}
        finally:
            for program in (tunnels, agent, server):
                if program:
                    program.end()
    return Footprint("scrape", "the metrics, at 10,000 endpoints of which 1,100 were used", {"30 times": {"piko": measure}},
                     ["p50_ms", "longest_ms", "turns_over_5_ms", "kilobytes"])


def resident(programs):
    """Of all processes of a hop together."""
    found = [memory(pid) for program in programs for pid in family(program.pid)]
    return {"rss_mb": sum(each["Rss"] for each in found) / MEGABYTE, "pss_mb": sum(each["Pss"] for each in found) / MEGABYTE,
            "private_mb": sum(each["Private_Dirty"] for each in found) / MEGABYTE}


def agent(options):
    def ours(bench):
        server, _, upstream_port = bench.start_server()
        program = None
        try:
            program = bench.start_agent("http", "perf", upstream_port)
            program.wait_for('"connected"')
            connected = time.monotonic() - program.started_at
            time.sleep(1)
            starts = []
            for _ in range(10):
                begun = time.monotonic()
                subprocess.run([bench.binaries / "piko-agent", "agent", "--help"], check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
                starts.append(time.monotonic() - begun)
            return {**resident([program]), "binary_mb": stripped_bytes(bench, bench.binaries / "piko-agent") / MEGABYTE,
                    "start_ms": sorted(starts)[5] * 1000, "connected_ms": connected * 1000}
        finally:
            if program:
                program.end()
            server.end()

    def peer(name):
        def measure(bench):
            hop, _ = bench.peer_hop(name, "agent", bench.service_port, 1)
            try:
                connected = time.monotonic() - hop.started_at
                time.sleep(1)
                return {**resident([hop]), "binary_mb": stripped_bytes(bench, hop.command[0]) / MEGABYTE, "connected_ms": connected * 1000}
            finally:
                hop.end()
        return measure
    return Footprint("agent", "idle, with one listener", {"idle": {"piko-agent": ours, "haproxy-http": peer("haproxy-http"), "nginx-http": peer("nginx-http")}},
                     ["rss_mb", "pss_mb", "private_mb", "binary_mb", "start_ms", "connected_ms"], ["pss_mb"])
