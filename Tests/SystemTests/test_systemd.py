"""The units for systemd: they are understood without a complaint, and are as closed as they should be."""

import os
import re
import shutil
import subprocess

import pytest

from programs import BIN, ROOT

UNITS = sorted(path.name for path in (ROOT / "packaging" / "systemd").iterdir())


@pytest.fixture(scope="module")
def analyze():
    """systemd-analyze, from Debian's systemd, which is installed where that may be done."""
    if shutil.which("systemd-analyze") is None:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            pytest.skip("no systemd-analyze here, and nobody who may install it")
        line = ["apt-get", "install", "-y", "--no-install-recommends", "systemd"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (line, ["apt-get", "update", "-qq"], line):
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)
            if shutil.which("systemd-analyze"):
                break
        else:
            pytest.skip(f"systemd-analyze can't be installed: {done.stderr.strip()[-200:]}")
    return lambda *words: subprocess.run(["systemd-analyze", *map(str, words)], capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The units as an installation would have them, with the programs that were built."""
    folder = tmp_path_factory.mktemp("units")
    for name in UNITS:
        text = (ROOT / "packaging" / "systemd" / name).read_text()
        (folder / name).write_text(text.replace("/usr/bin/piko", str(BIN / "piko")))
    return folder


def test_are_there():
    assert {"piko-agent.service", "piko-server.service", "piko-server.socket"} <= set(UNITS)


@pytest.mark.parametrize("name", UNITS)
def test_verify(analyze, folder, name):
    done = analyze("verify", "--man=no", "--recursive-errors=one", folder / name)
    assert done.returncode == 0, done.stderr
    # An unknown key is only warned of.
    ours = [line for line in done.stderr.splitlines() if "piko" in line]
    assert ours == [], done.stderr


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".service")])
def test_security(analyze, folder, name):
    """The exposure that systemd reckons with is at most 2 of 10 ("OK" begins at 2, "MEDIUM" at 5)."""
    done = analyze("security", "--offline=true", "--threshold=20", folder / name)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".service")])
def test_filters_permit_what_is_used(analyze, name):
    """What the programs call is in the sets that the unit permits, and is not taken out again."""
    text = (ROOT / "packaging" / "systemd" / name).read_text()
    sets = {}

    def members(word):
        if not word.startswith("@"):
            return {word}
        if word not in sets:
            done = analyze("syscall-filter", word)
            if done.returncode != 0:
                pytest.skip(f"systemd-analyze does not know {word}")
            inner = [line.strip() for line in done.stdout.splitlines()[1:] if line.strip() and not line.strip().startswith("#")]
            sets[word] = set().union(*(members(one) for one in inner))
        return sets[word]
    permitted = set()
    for value in re.findall(r"^SystemCallFilter=(.+)$", text, re.M):
        found = set().union(*(members(word) for word in value.lstrip("~").split()))
        permitted = permitted - found if value.startswith("~") else permitted | found
    used = """io_uring_setup io_uring_enter io_uring_register epoll_create1 epoll_ctl epoll_pwait accept4 bind connect listen socket
        socketpair sendmsg recvmsg splice pipe2 signalfd4 clone3 pidfd_send_signal execve execveat close_range memfd_create mmap
        munmap mprotect getrandom prlimit64 sched_getaffinity rt_sigprocmask futex eventfd2 timerfd_create waitid wait4 dup2 fcntl
        prctl kill unlink chmod mkdir""".split()
    # Workers give up what capabilities there are.
    used += ["capset"] if name == "piko-server.service" else []
    assert [call for call in used if call not in permitted] == []


@pytest.mark.parametrize("name, key", [("piko-agent.service", "agent"), ("piko-server.service", "server")])
def test_stop_takes_longer_than_the_grace_period(name, key):
    text = (ROOT / "packaging" / "systemd" / name).read_text()
    document = (ROOT / "docs/configuration.md").read_text()
    grace = re.search(rf"<!-- keys of {key}.*?\| `grace_period` \| `DURATION` \| `(\d+)m0s` \|", document, re.S)
    assert int(re.search(r"^TimeoutStopSec=(\d+)s$", text, re.M)[1]) > 60 * int(grace[1])
    assert re.match(rf"/usr/bin/piko(-agent)? {key} ", re.search(r"^ExecStart=(.+)$", text, re.M)[1])
