"""A server that is pid 1, or that is given others' orphans in another way: it reaps them, and takes its signals."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from peer.http1 import request, wait_until
from programs import LIBC, descendants

PR_SET_CHILD_SUBREAPER = 36
# Three orphans, then the server in the shell's own place.
SCRIPT = 'sh -c "sleep 0.1 & sleep 0.5 & sleep 1 & exit" </dev/null >/dev/null 2>&1; exec "$@"'


def zombies(parent):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fields[0] == "Z" and int(fields[1]) == parent:
                found.append(int(entry))
    return found


def missing():
    """Why there can be no namespace of processes here; None when there can."""
    if not shutil.which("unshare") or not shutil.which("nsenter"):
        return "needs unshare and nsenter (util-linux)"
    tried = subprocess.run(["unshare", "--fork", "--pid", "--mount-proc", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"this machine allows no process namespaces: {tried.stderr.strip()}"


def test_reaps_orphans(new_node):
    node = new_node(arguments=["--log.level", "debug"], before_exec=lambda: LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1),
                    command=lambda *words: ["sh", "-c", SCRIPT, "sh", *words])
    wait_until(lambda: len(node.logged("reaped an orphan")) == 3, 10, lambda: node.tail())
    # Its own are heard of as ever, orphans or not.
    victim = node.workers()[0]
    os.kill(victim, signal.SIGKILL)
    node.wait_log("worker ended", pid=victim, status="signal 9")
    wait_until(lambda: len(node.workers()) == 2, what="two workers again")
    wait_until(lambda: zombies(node.pid) == [], what="no zombies")
    assert len(node.logged("reaped an orphan")) == 3


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_pid_1(new_node, tunnel, host, name):
    reason = missing()
    if reason:
        pytest.skip(reason)
    node = new_node(arguments=["--log.level", "debug"],
                    command=lambda *words: ["unshare", "--fork", "--kill-child", "--pid", "--mount-proc",
                                            "sh", "-c", SCRIPT, "sh", *words])
    assert node.logged("starting server", pid=1)
    server = descendants(node.pid)[0]
    wait_until(lambda: len(node.logged("reaped an orphan")) == 3, 10, lambda: node.tail())
    # One more, from outside: a process that enters and leaves a child behind.
    subprocess.run(["nsenter", "-t", str(server), "-p", "sh", "-c", "sleep 0.2 & exit"], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    wait_until(lambda: len(node.logged("reaped an orphan")) == 4, 10, lambda: node.tail())
    assert zombies(server) == []
    tunnel(node)
    assert request(node.proxy, host=host).status == 200
    # From inside the namespace, where pid 1 gets no signal that it does not ask for.
    subprocess.run(["nsenter", "-t", str(server), "-p", "-m", "sh", "-c", f"kill -{name} 1"], check=True)
    assert node.wait() == 0
    assert node.logged("server ended")
