"""What TLS costs: handshakes, records, and what others feel of handshakes. Ours beside haproxy, in the manner of scenarios.py.

Both systems have the same certificates (an RSA key of 2048 bits and a P-256 key), versions, ciphers and their order, and curves; both are
two hops in front of the service, and TLS is spoken in front of the first. `agreed` compares what a client gets from each.
"""

import socket
import ssl
import subprocess

from . import loads
from .processes import Failure, free_port
from .scenarios import Scenario, Variant
from .systems import System

RATE_BESIDE = 200         # handshakes a second beside plain requests
# Variant -> what tls_load is told.
HANDSHAKES = {
    "TLS 1.3, P-256": ["--key", "ecdsa"], "TLS 1.3, RSA 2048": ["--key", "rsa"], "TLS 1.3, P-256, resumed": ["--key", "ecdsa", "--resumed"],
    "TLS 1.2, P-256": ["--key", "ecdsa", "--version", "1.2"]}


def make_certificates(folder):
    """rsa and ecdsa: .pem, .key, and -both.pem with one behind the other, as haproxy wants it."""
    for name, kind in {"rsa": ["rsa:2048"], "ecdsa": ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]}.items():
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        subprocess.run(["openssl", "req", "-x509", "-newkey", *kind, "-nodes", "-keyout", key, "-out", certificate, "-days", "30",
                        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
        (folder / f"{name}-both.pem").write_bytes(certificate.read_bytes() + key.read_bytes())


def flags_of(folder, port):
    return [f"--{port}.tls.cert", folder / "rsa.pem", f"--{port}.tls.key", folder / "rsa.key",
            f"--{port}.tls.certs", f"{folder / 'ecdsa.pem'}:{folder / 'ecdsa.key'}"]


class Bench:
    """Makes the systems of this file; `bench` is that of systems.py."""

    def __init__(self, bench):
        self.bench, self.tools, self.service_port = bench, bench.tools, bench.service_port
        make_certificates(bench.folder)

    def system(self, name):
        if name.startswith("haproxy"):
            return self.haproxy(name)
        return self.piko(name)

    def piko(self, name):
        """piko-direct, piko-mux: TLS on the proxy port. piko-admin: TLS on the admin port, the proxy port is plain."""
        transport, tls_port = ("direct", "admin") if name == "piko-admin" else (name.removeprefix("piko-"), "proxy")
        server, proxy_port, upstream_port = self.bench.start_server(flags=flags_of(self.bench.folder, tls_port))
        agent = self.bench.start_agent("http", "perf", upstream_port, transport)
        agent.wait_for('"connected"')
        system = System(name, proxy_port, {"server": server, "agent": agent}, "https" if tls_port == "proxy" else "http")
        system.tls_port = server.ports[tls_port]
        return system

    def haproxy(self, name):
        """haproxy-tls: TLS on its port. haproxy-plain: the same, and the load comes to the plain one."""
        agent, agent_port = self.bench.peer_hop("haproxy-http", "agent", self.service_port, 1)
        plain_port = free_port()
        server, tls_port = self.bench.peer_hop("haproxy-tls", "server", agent_port, self.bench.threads, plain_port=plain_port,
                                               certificates=self.bench.folder)
        roles = {"server": server, "agent": agent}
        system = System(name, tls_port, roles, "https") if name == "haproxy-tls" else System(name, plain_port, roles)
        system.tls_port = tls_port
        return system


def agreed(system):
    """Version and cipher that a client of OpenSSL gets."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", system.tls_port), 10) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as one:
            return one.version(), one.cipher()[0]


def check_agreed(system):
    found = agreed(system)
    if found != ("TLSv1.3", "TLS_AES_128_GCM_SHA256"):
        raise Failure(f"{system.name}: {found} was agreed upon")


def tls_load(bench, system, seconds, words):
    command = [bench.tools / "tls_load", "--port", system.tls_port, "--seconds", seconds, *words]
    return loads.sampled(command, system)


# ---- Scenarios ----

def handshakes(options):
    """The rate is what client and server reach together on this machine; `server µs` is the server's part of one handshake."""
    def variant(name, words):
        def measure(bench, system):
            result, shares = tls_load(bench, system, options.seconds, words)
            found = loads.figures(result, {"server": shares["server"], "agent": shares["agent"]})
            return {**found, "per_cpu_second": 1e6 / found["server_us"]}

        def check(bench, system):
            check_agreed(system)
            tls_load(bench, system, 0.5, words)
        return Variant(name, measure, check)
    return Scenario("tls-handshakes", "a new connection for each, ended after it; 8 at a time", ["piko-direct", "haproxy-tls"],
                    [variant(name, words) for name, words in HANDSHAKES.items()],
                    ["per_cpu_second", "rate", "server_us", "p50", "p99"], ["server_us", "rate"])


def bulk(options):
    def variant(size, label, connections):
        path = f"/bytes/{size}"

        def measure(bench, system):
            result, shares = loads.wrk(bench, system, path, connections, options.seconds, size)
            return loads.figures(result, shares, bulk=True)

        def check(bench, system):
            check_agreed(system)
            loads.check_bodies(bench, system, path)
        return Variant(f"{label}, {connections} connection{'s' * (connections > 1)}", measure, check)
    return Scenario("tls-bulk", "large responses, connections kept", [*(f"piko-{transport}" for transport in options.transports), "haproxy-tls"],
                    [variant(16 << 20, "16 MiB", 1), variant(1 << 20, "1 MiB", 16)], ["gb_s", "server_s_gb", "agent_s_gb", "cpu_s_gb"], ["cpu_s_gb", "server_s_gb", "gb_s"])


def beside(options):
    """Plain requests without and with handshakes at another port of the same processes, one behind the other in each round."""
    def variant(key):
        def plain(bench, system):
            result, _ = loads.load(bench, system, "http", options.seconds, connections=32, bytes=loads.SMALL_BYTES, path="/small", rate=2000)
            return result

        def measure(bench, system):
            before = plain(bench, system)
            command = [bench.tools / "tls_load", "--port", system.tls_port, "--key", key, "--rate", RATE_BESIDE, "--seconds", options.seconds + 3]
            process = loads.start(command)
            try:
                process.stdout.readline()
                during = plain(bench, system)
                ended = process.poll() is not None
            except BaseException:
                process.kill()
                process.wait()
                raise
            made = loads.finish(process, system)
            if ended:
                raise Failure(f"{system.name}: the handshakes ended before the requests")
            rate = made["exchanges"] / made["seconds"]
            if rate < 0.95 * RATE_BESIDE:
                raise Failure(f"{system.name}: {rate:.0f} handshakes a second instead of {RATE_BESIDE}")
            return {"rate": rate, "p99_before": before["p99"], "p99": during["p99"], "p50_before": before["p50"], "p50": during["p50"],
                    "slower": during["p99"] / before["p99"]}
        return Variant(f"{RATE_BESIDE} handshakes a second with {'RSA 2048' if key == 'rsa' else 'P-256'}", measure)
    return Scenario("tls-beside", "2,000 plain requests a second beside handshakes", ["piko-admin", "haproxy-plain"],
                    [variant("ecdsa"), variant("rsa")], ["rate", "p50_before", "p50", "p99_before", "p99", "slower"], ["p99", "slower"])


ALL = {"tls-handshakes": handshakes, "tls-bulk": bulk, "tls-beside": beside}
