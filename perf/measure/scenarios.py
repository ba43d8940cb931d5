"""What is measured. A scenario is a list of variants; a variant names its systems and measures one of them once.

The systems of a scenario are started together and stay up; rounds go over them in turn (A B C A B C), so that what changes on the
machine in the meantime meets all of them, and a ratio is made of two figures of the same round. A system that fails in a variant is
reported as failed there; the others go on.
"""

from . import footprint, loads
from .processes import Failure

TCP_PEERS = ["haproxy-tcp", "nginx-stream"]
HTTP_PEERS = ["haproxy-http", "haproxy-tcp", "nginx-http", "nginx-stream"]


class Variant:
    """`measure(bench, system)` gives figures. `check(bench, system)` runs once for each system, before."""

    def __init__(self, name, measure, check=None):
        self.name, self.measure, self.check = name, measure, check


class Scenario:
    """`columns`: the figures of the table. `compared`: those of which ratios are made."""

    def __init__(self, name, title, systems, variants, columns, compared):
        self.name, self.title, self.systems, self.variants = name, title, systems, variants
        self.columns, self.compared = columns, compared

    def run(self, bench, rounds, report):
        systems = [bench.system(name) for name in self.systems]
        try:
            for variant in self.variants:
                values, failures = {system.name: [] for system in systems}, {}
                for round in range(rounds + 1):
                    for system in systems:
                        if system.name in failures:
                            continue
                        try:
                            if round > 0:
                                values[system.name].append(variant.measure(bench, system))
                            elif variant.check:
                                variant.check(bench, system)
                        except Failure as failure:
                            failures[system.name] = str(failure)
                            del values[system.name]
                report.add(self, variant.name, values, failures)
        finally:
            for system in reversed(systems):
                system.end()


def both_ways(options):
    """Our systems for raw TCP: through the proxy port, and through forward."""
    return [name for transport in options.transports for name in (f"piko-{transport}", f"piko-{transport}-forward")]


def tcp_bulk(options):
    def variant(direction, streams):
        def measure(bench, system):
            result, shares = loads.load(bench, system, direction, options.seconds, connections=streams)
            return loads.figures(result, shares, bulk=True)

        def warm(bench, system):
            loads.load(bench, system, direction, 0.5, connections=streams)
        return Variant(f"{direction}, {streams} stream{'s' * (streams > 1)}", measure, check=warm)
    ours = both_ways(options)
    return Scenario("tcp-bulk", "raw bytes in one direction", ["direct", *ours, *TCP_PEERS],
                    [variant(direction, streams) for streams in (1, 16) for direction in ("up", "down")],
                    ["gb_s", "server_s_gb", "agent_s_gb", "cpu_s_gb", "forward_s_gb"], ["cpu_s_gb", "gb_s"])


def tcp_pingpong(options):
    def variant(size, connections):
        def measure(bench, system):
            result, shares = loads.load(bench, system, "echo", options.seconds, connections=connections, bytes=size)
            return loads.figures(result, shares)

        def warm(bench, system):
            loads.load(bench, system, "echo", 0.5, connections=connections, bytes=size)
        return Variant(f"{size} B, {connections} connection{'s' * (connections > 1)}", measure, check=warm)
    ours = both_ways(options)
    return Scenario("tcp-pingpong", "a message there and back, again and again", ["direct", *ours, *TCP_PEERS],
                    [variant(size, connections) for size in (64, 1024) for connections in (1, 64, 512)],
                    ["rate", "server_us", "agent_us", "cpu_us", "forward_us", "p50", "p99", "p999"], ["cpu_us", "rate", "p99"])


def http_systems(options):
    return ["direct", *(f"piko-{transport}" for transport in options.transports), *HTTP_PEERS]


HTTP_COLUMNS = ["rate", "server_us", "agent_us", "cpu_us", "p50", "p99", "p999"]


def http_small(options):
    def variant(connections):
        def measure(bench, system):
            return loads.figures(*loads.wrk(bench, system, "/small", connections, options.seconds, loads.SMALL_BYTES))

        def check(bench, system):
            loads.check_bodies(bench, system, "/small")
            # wrk opens all its connections at once; this opens them a few at a time, and leaves every system warm.
            loads.load(bench, system, "http", 0.5, connections=connections, bytes=loads.SMALL_BYTES, path="/small")
        return Variant(f"{connections} connection{'s' * (connections > 1)}", measure, check)
    return Scenario("http-small", "responses of 13 bytes, connections kept", http_systems(options),
                    [variant(connections) for connections in (1, 64, 512)], HTTP_COLUMNS, ["cpu_us", "rate", "p99"])


def http_latency(options):
    """The rate is half of what the slowest proxy of the run carries at most, the same for every system."""
    rate = 0

    def choose(bench, system):
        nonlocal rate
        if system.name == "direct":
            return
        result, _ = loads.wrk(bench, system, "/small", 64, options.seconds, loads.SMALL_BYTES)
        half = result["exchanges"] / result["seconds"] / 2
        rate = min(rate, half) if rate else half

    def measure(bench, system):
        result, shares = loads.load(bench, system, "http", options.seconds, connections=64, bytes=loads.SMALL_BYTES, path="/small", rate=int(rate))
        return loads.figures(result, shares)
    return Scenario("http-latency", "responses of 13 bytes at half of the load that saturates the slowest", http_systems(options),
                    [Variant("64 connections", measure, check=choose)], HTTP_COLUMNS, ["p50", "p99", "p999", "cpu_us"])


def http_body(options):
    def variant(size, label):
        path = f"/bytes/{size}"

        def measure(bench, system):
            return loads.figures(*loads.wrk(bench, system, path, 16, options.seconds, size))
        return Variant(f"{label}, 16 connections", measure, check=lambda bench, system: loads.check_bodies(bench, system, path))
    return Scenario("http-body", "responses with a large body, connections kept", http_systems(options),
                    [variant(65536, "64 KiB"), variant(1048576, "1 MiB")], HTTP_COLUMNS, ["cpu_us", "rate", "p99"])


def http_connect(options):
    def measure(bench, system):
        result, shares = loads.load(bench, system, "close", options.seconds, connections=16, bytes=loads.SMALL_BYTES, path="/small")
        return loads.figures(result, shares)
    return Scenario("http-connect", "responses of 13 bytes, a new connection for each", http_systems(options),
                    [Variant("16 at a time", measure)], HTTP_COLUMNS, ["cpu_us", "rate", "p99"])


def observed(options):
    """What watching costs: the full access log (to a file), and a scrape of the metrics every second, beside neither."""
    def measure(bench, system):
        watch = footprint.Scraper(system.roles["server"].ports["admin"]) if system.name.endswith("-scraped") else None
        try:
            return loads.figures(*loads.wrk(bench, system, "/small", 64, options.seconds, loads.SMALL_BYTES))
        finally:
            if watch:
                watch.stop()
    names = [f"piko-{transport}{kind}" for transport in options.transports for kind in ("", "-scraped", "-logged")]
    return Scenario("observed", "responses of 13 bytes; scraped every second, or with the full access log", names,
                    [Variant("64 connections", measure, lambda bench, system: loads.check_bodies(bench, system, "/small"))],
                    HTTP_COLUMNS, ["server_us", "cpu_us", "rate"])


ALL = {"tcp-bulk": tcp_bulk, "tcp-pingpong": tcp_pingpong, "http-small": http_small, "http-latency": http_latency, "http-body": http_body,
       "http-connect": http_connect, "observed": observed, "scrape": footprint.scrape, "idle-tunnels": footprint.idle_tunnels, "registration": footprint.registration, "agent": footprint.agent}
