"""What the real program (PIKO_BIN) says of a server.yaml that the chart wrote, and of the seccomp profile beside it.

`piko server check` reads the file with its paths moved into a temporary folder, in which the keys and certificates that it names are made.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

ENVIRONMENT = {"POD_NAME": "piko-0", "POD_IP": "10.1.2.3", "PATH": os.environ.get("PATH", "")}
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


def check(text, config, arguments):
    """What is wrong with the file, line by line."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in paths(config):
            make(folder / path.lstrip("/"), folder)
            text = text.replace(path, f"{folder}{path}")
        file = folder / "server.yaml"
        file.write_text(text)
        done = subprocess.run([piko(), "server", "check", "--config.path", str(file), "--config.expand-env", *arguments],
                              capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    if done.returncode != 0:
        return [f"piko server check: {line}" for line in (done.stdout + done.stderr).strip().splitlines()[:5]]
    if not re.search(r'node_id: "?piko-0', done.stdout):
        return ["piko server check: the node's name is not the pod's"]
    return []


def check_seccomp(profile):
    """Every system call of a server that starts, reloads and ends is in the profile, as far as strace sees it. io_uring is in it, too."""
    allowed = {name for group in json.loads(profile.read_text())["syscalls"] if group["action"] == "SCMP_ACT_ALLOW" for name in group["names"]}
    missing = {"io_uring_setup", "io_uring_enter", "io_uring_register"} - allowed
    if missing:
        return [f"has not {sorted(missing)}"]
    if not shutil.which("strace"):
        print("strace is missing: what the server calls was not compared with files/seccomp-io-uring.json")
        return []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "server.yaml"
        file.write_text("".join(f"{port}: {{bind_addr: '127.0.0.1:0'}}\n" for port in ("proxy", "upstream", "admin"))
                        + f"cluster: {{gossip: {{bind_addr: '127.0.0.1:0'}}}}\nserver: {{workers: 1, control_socket: {folder}/server.sock}}\n"
                        + "grace_period: 1s\n")
        server = subprocess.Popen(["strace", "-f", "-qq", "-o", str(folder / "trace"), piko(), "server", "--config.path", str(file)],
                                  stderr=subprocess.DEVNULL)
        try:
            until = time.monotonic() + 60
            while time.monotonic() < until:
                done = subprocess.run([piko(), "server", "reload", "--server.control-socket", str(folder / "server.sock")],
                                      capture_output=True, text=True)
                if done.returncode == 0:
                    break
                time.sleep(0.5)
            else:
                return [f"the server to be watched did not reload: {done.stderr.strip()}"]
        finally:
            # strace passes no signal on: the server is the first process that it saw.
            first = (folder / "trace").read_text(errors="replace").split(None, 1)[0]
            os.kill(int(first), 15)
            server.wait(60)
        called = set(re.findall(r"^\d+ +([a-z_0-9]+)\(", (folder / "trace").read_text(errors="replace"), re.M))
    # clone3 is refused so that the C library takes clone; what strace sees here is its first try.
    return [f"has not {name}, which the server calls" for name in sorted(called - allowed - {"clone3"})]
