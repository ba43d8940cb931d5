"""Runs one load against one system, and turns what it counted and the CPU time used meanwhile into figures.

CPU per exchange is (CPU seconds / seconds between the two samples) / (exchanges / seconds of the load): the two intervals are
nearly the same one, and dividing each by its own length takes out what is left of the difference.
"""

import hashlib
import json
import ssl
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

from .processes import LIBC, PR_SET_PDEATHSIG, Failure, cpu_seconds
from .systems import find_program

HERE = Path(__file__).resolve().parents[1]
SIGKILL = 9
HOST = "perf.example"    # its first label is the endpoint
SMALL_BYTES = 13


class Sample:
    """CPU seconds by role, and when."""

    def __init__(self, system):
        self.time = time.monotonic()
        self.cpu = {role: cpu_seconds(program.members) for role, program in system.roles.items()}

    def shares_since(self, before):
        """Processors in use by each role."""
        return {role: (self.cpu[role] - before.cpu[role]) / (self.time - before.time) for role in self.cpu}


def figures(result, shares, bulk=False):
    """What a table shows, of a load's result."""
    seconds = result["seconds"]
    found = {}
    if bulk:
        found["gb_s"] = result["bytes"] / seconds / 1e9
        scale, suffix = 1 / found["gb_s"], "s_gb"
    else:
        found["rate"] = result["exchanges"] / seconds
        scale, suffix = 1e6 / found["rate"], "us"
        for name in ("p50", "p99", "p999"):
            found[name] = result[name]
    for role, share in shares.items():
        found[f"{role}_{suffix}"] = share * scale
    if "server" in shares:
        found[f"cpu_{suffix}"] = (shares["server"] + shares["agent"]) * scale
    return found


def start(command):
    return subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, SIGKILL))


def finish(process, system):
    """The last line as JSON. A load that hangs is ended."""
    guard = threading.Timer(120, process.kill)
    guard.start()
    try:
        output, errors = process.stdout.read(), process.stderr.read()
        status = process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        guard.cancel()
        process.stdout.close()
        process.stderr.close()
    system.check_members()
    if status != 0:
        raise Failure(f"{system.name}: {errors.strip() or f'the load ended with status {status}'}")
    return json.loads(output.strip().splitlines()[-1])


def load(bench, system, mode, seconds, **options):
    """perf/load.c: result and processors in use by role."""
    command = [bench.tools / "load", "--port", system.port, "--mode", mode, "--seconds", seconds, "--host", HOST]
    for name, value in options.items():
        command += [f"--{name}", value]
    return sampled(command, system)


def sampled(command, system):
    """A load that prints "begin" and "end": result and processors in use by role in between."""
    process = start(command)
    samples = []
    try:
        # An empty line is its end; then finish says why.
        for _ in ("begin", "end"):
            process.stdout.readline()
            samples.append(Sample(system))
    except BaseException:
        process.kill()
        process.wait()
        raise
    result = finish(process, system)
    return result, samples[1].shares_since(samples[0])


def wrk(bench, system, path, connections, seconds, body_bytes):
    """wrk: result and processors in use by role. It runs a second longer than is sampled: half of it before, half after."""
    whole = max(1, round(seconds)) + 1
    process = start([find_program("wrk"), "-t1", f"-c{connections}", f"-d{whole}s", "--timeout", "20s", "-H", f"Host: {HOST}", "-s", HERE / "wrk.lua",
                     f"{system.scheme}://127.0.0.1:{system.port}{path}"])
    try:
        time.sleep(0.5)
        before = Sample(system)
        time.sleep(whole - 1)
        after = Sample(system)
    except BaseException:
        process.kill()
        process.wait()
        raise
    result = finish(process, system)
    if result["errors"]:
        raise Failure(f"{system.name}: wrk counted errors: {result['failures']}")
    # Every response is its body and a head of some hundred bytes; some are under way at the end.
    least, most = result["exchanges"] * body_bytes, (result["exchanges"] + connections) * (body_bytes + 1024)
    if not result["exchanges"] or not least <= result["bytes"] <= most:
        raise Failure(f"{system.name}: {result['bytes']} bytes for {result['exchanges']} responses of {body_bytes}")
    return result, after.shares_since(before)


def body_digest(port, path, scheme="http"):
    """The digest of one response's body."""
    request = urllib.request.Request(f"{scheme}://127.0.0.1:{port}{path}", headers={"Host": HOST})
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting)]
    with urllib.request.build_opener(*handlers).open(request, timeout=20) as response:
        return hashlib.sha256(response.read()).hexdigest()


def check_bodies(bench, system, path):
    """The service's body must come through unchanged."""
    try:
        same = body_digest(system.port, path, system.scheme) == body_digest(bench.service_port, path)
    except OSError as error:
        raise Failure(f"{system.name}: no body for {path}: {error}") from None
    if not same:
        raise Failure(f"{system.name}: another body than the service's for {path}")
