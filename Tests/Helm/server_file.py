"""What the real program (PIKO_BIN) says of a server.yaml that the chart wrote, and of the seccomp profile beside it.

`piko server check` reads the file with its paths moved into a temporary folder, in which the keys and certificates that it names are made.
"""

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ENVIRONMENT = {"POD_NAME": "piko-0", "POD_IP": "10.1.2.3", "PATH": os.environ.get("PATH", "")}
SWITCH = Path("/proc/sys/kernel/io_uring_disabled")
UNRESTRICTED = not SWITCH.exists() or SWITCH.read_text().strip() == "0"
# What the kernel of this machine can do: io_uring, unless it is switched off for all.
BACKEND = "io_uring" if UNRESTRICTED else "epoll"
KEY_SET = {"keys": [{"kty": "oct", "kid": "one", "alg": "HS256", "k": "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3JldCE"}]}


def paths(value, key=""):
    """Every file that a configuration names."""
    if isinstance(value, dict):
        for name, below in value.items():
            yield from paths(below, name)
    elif isinstance(value, list):
        for below in value:
            yield from paths(below, key)
    elif isinstance(value, str) and re.match(r"(file://)?/", value):
        yield value.removeprefix("file://")


def piko():
    return str(Path(os.environ["PIKO_BIN"]) / "piko")


def run(*words, **options):
    return subprocess.run(words, capture_output=True, text=True, check=True, **options)


def make(path, folder):
    """A file of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name in ("tls.crt", "ca.crt"):
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=piko",
            "-addext", "subjectAltName=DNS:node.piko.example.com", "-keyout", path.parent / "tls.key", "-out", path)
    elif path.name == "rsa.pem":
        run("openssl", "genrsa", "-out", folder / "private", "2048")
        run("openssl", "pkey", "-in", folder / "private", "-pubout", "-out", path)
    elif path.name == "ecdsa.pem":
        run("openssl", "ecparam", "-genkey", "-name", "prime256v1", "-out", folder / "private")
        run("openssl", "pkey", "-in", folder / "private", "-pubout", "-out", path)
    elif path.name == "keys.json":
        path.write_text(json.dumps(KEY_SET))
    elif path.name not in ("tls.key", "server.sock"):
        path.write_text("a secret that is long enough to be one: " + path.name + "\n")


def moved(text, config, folder):
    """The file with its paths below a folder, in which they are made."""
    for path in paths(config):
        make(folder / path.lstrip("/"), folder)
        text = text.replace(path, f"{folder}{path}")
    return text


def check(text, config, arguments):
    """What is wrong with the file, line by line."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "server.yaml"
        file.write_text(moved(text, config, Path(name)))
        done = subprocess.run([piko(), "server", "check", "--config.path", str(file), "--config.expand-env", *arguments],
                              capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    if done.returncode != 0:
        return [f"piko server check: {line}" for line in (done.stdout + done.stderr).strip().splitlines()[:5]]
    if not re.search(r'node_id: "?piko-0', done.stdout):
        return ["piko server check: the node's name is not the pod's"]
    return []


def check_probes(text, config, probes):
    """A server that runs with the file answers the pod's probes with 200, and, where the admin port has keys, nothing else without a token.
    Only its ports are others, and it joins nobody."""
    if "tls" in config["admin"]:
        return []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = re.sub(r'bind_addr: ":\d+"', 'bind_addr: "127.0.0.1:0"', moved(text, config, folder))
        text = re.sub(r"(?m)^( *)join: .*$", r"\1join: []", text)
        text = re.sub(r"(?m)^shutdown_delay: .*$", 'shutdown_delay: "0s"', text)

        def ask():
            address = re.search(r'"server ready".*?"admin_addr":"([^"]+)"', (folder / "log").read_text()).group(1)
            wanted = {path: 200 for path in probes} | {"/metrics": 401 if "auth" in config["admin"] else 200}
            return [f"{path} answers {got}, not {status}" for path, status in wanted.items() if (got := status_of(f"http://{address}{path}")) != status]

        return try_server([], folder, text, ask)


def status_of(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def check_seccomp(profile):
    """A server starts, answers, reloads and ends under the profile, on io_uring; and whatever it calls without it, as far as strace sees, is
    in it."""
    allowed = {name for group in json.loads(profile.read_text())["syscalls"] if group["action"] == "SCMP_ACT_ALLOW" for name in group["names"]}
    missing = {"io_uring_setup", "io_uring_enter", "io_uring_register"} - allowed
    if missing:
        return [f"has not {sorted(missing)}"]
    found = []
    try:
        ctypes.CDLL("libseccomp.so.2")
        found += try_profile([sys.executable, str(Path(__file__).parent / "with_profile.py"), str(profile)])
    except OSError:
        print("libseccomp is missing: no server was tried under files/seccomp-io-uring.json")
    if shutil.which("strace"):
        with tempfile.TemporaryDirectory() as name:
            trace = Path(name) / "trace"
            found += try_profile(["strace", "-f", "-qq", "-o", str(trace)])
            called = set(re.findall(r"^\d+ +([a-z_0-9]+)\(", trace.read_text(errors="replace"), re.M))
        # clone3 is refused so that the C library takes clone; what strace sees here is its first try.
        found += [f"has not {name}, which the server calls" for name in sorted(called - allowed - {"clone3"})]
    else:
        print("strace is missing: what the server calls was not compared with files/seccomp-io-uring.json")
    return found


def try_profile(before):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        socket = folder / "server.sock"
        text = ("".join(f"{port}: {{bind_addr: '127.0.0.1:0'}}\n" for port in ("proxy", "upstream", "admin"))
                + "cluster: {gossip: {bind_addr: '127.0.0.1:0'}}\ngrace_period: 1s\n"
                + f"server: {{workers: 1, control_socket: {socket}, io_backend: {BACKEND}}}\n")
        control = ["--server.control-socket", str(socket)]

        def reload():
            done = subprocess.run([piko(), "server", "reload", *control], capture_output=True, text=True, timeout=60)
            return [f"a server does not reload: {done.stderr.strip()}"] if done.returncode != 0 else []

        return try_server(before, folder, text, reload)


def try_server(before, folder, text, use):
    """Starts a server behind the given words, uses it, and ends it. What went wrong, with its log."""
    (folder / "server.yaml").write_text(text)
    with open(folder / "log", "w") as log:
        server = subprocess.Popen([*before, piko(), "server", "--config.path", str(folder / "server.yaml"), "--config.expand-env"],
                                  stderr=log, stdout=log, env=os.environ | ENVIRONMENT, start_new_session=True)
    found = []
    until = time.monotonic() + 60
    while '"server ready"' not in (folder / "log").read_text():
        if time.monotonic() > until or server.poll() is not None:
            found.append("a server does not start")
            break
        time.sleep(0.2)
    else:
        found += use()
    try:
        # The group has the programs before it, too, which end with the server.
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    except ProcessLookupError:
        server.wait()
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        found.append("a server does not end")
    return [f"{line}: {(folder / 'log').read_text()[-600:]}" for line in found]
