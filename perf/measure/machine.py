"""What the figures were measured on, and what has to be there: packages, our release build, the tools in C."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from .processes import Failure
from .systems import find_program

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"haproxy": "haproxy", "nginx": "nginx-light", "wrk": "wrk"}
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


def install_missing():
    """Debian's packages of the peers and of wrk. They are not left running as services."""
    missing = []
    for program, package in PACKAGES.items():
        try:
            find_program(program)
        except Failure:
            missing.append(package)
    if not STREAM_MODULE.exists():
        missing.append("libnginx-mod-stream")
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Failure(f"missing: {' '.join(missing)}. Install them and run this again.")
    print(f"perf: installing {' '.join(missing)}", file=sys.stderr)
    # RUNLEVEL=1 keeps Debian's scripts from starting what they install.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    if subprocess.run(install, env=environment, stdin=subprocess.DEVNULL, capture_output=True).returncode != 0:
        subprocess.run(["apt-get", "update", "-qq"], stdin=subprocess.DEVNULL, capture_output=True)
        done = subprocess.run(install, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failure(f"apt-get could not install {' '.join(missing)}:\n{done.stderr[-2000:]}")


def build_tools(folder, with_tls=False):
    """load, service and tunnels, from the C files beside us; also tls_load, which needs OpenSSL's headers as our programs do."""
    sources = ROOT / "perf"
    compiler = shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        raise Failure("no C compiler")
    tools = {"load": ["load.c", "load_options.c"], "service": ["service.c"], "tunnels": ["tunnels.c"]}
    if with_tls:
        tools["tls_load"] = ["tls_load.c"]
    for name, files in tools.items():
        command = [compiler, "-O2", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-o", str(folder / name), *(str(sources / file) for file in files)]
        command += ["-lssl", "-lcrypto", "-lpthread"] if name == "tls_load" else []
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def build_release():
    """The folder of the programs."""
    command = ["swift", "build", "-c", "release"]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")
    return Path(subprocess.run([*command, "--show-bin-path"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip())


def first_line(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError:
        return "?"
    return ((done.stdout + done.stderr).strip().splitlines() or ["?"])[0]


def describe(options):
    """What a reader needs to judge the figures."""
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?")
    memory = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    system = next((line.split("=", 1)[1].strip('"') for line in Path("/etc/os-release").read_text().splitlines() if line.startswith("PRETTY_NAME")), "?")
    commit = first_line(["git", "-C", str(ROOT), "describe", "--always", "--dirty"])
    return {
        "processor": model, "processors": os.cpu_count(), "memory_gb": round(memory / 1e6, 1), "system": system, "kernel": platform.release(),
        "load_average": os.getloadavg()[0], "commit": commit, "swift": first_line(["swift", "--version"]),
        "haproxy": first_line([find_program("haproxy"), "-v"]), "nginx": first_line([find_program("nginx"), "-v"]),
        "wrk": first_line([find_program("wrk"), "-v"]), "threads": options.threads, "rounds": options.rounds, "seconds": options.seconds,
    }
