"""Processes that a measurement starts: their end, their CPU time, their memory.

CPU time comes from the kernel's CPU clock of each process, in nanoseconds and with every thread that it has or had, summed over
the process and all its descendants; children that ended meanwhile are counted through their parent. Nothing that was started
outlives the runner: each is ended by its own pid, and the kernel ends it when the runner dies.
"""

import ctypes
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1
TICK = 1 / os.sysconf("SC_CLK_TCK")


class Failure(Exception):
    """A measurement that can't be trusted, or did not happen."""


def free_port():
    """A port of 127.0.0.1 that is free now, for programs that can't take port 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def stat_fields(pid):
    """The fields of /proc/PID/stat after the name: [0] state, [1] parent, [13], [14] CPU ticks of ended children, [19] when it began."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def family(pid):
    """A process and its living descendants."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat_fields(entry)) and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(entry))
    found = [pid]
    for member in found:
        found.extend(children.get(member, []))
    return found


def cpu_seconds(pids):
    """CPU time of some processes, their threads and the children that they have waited for."""
    total = 0.0
    for pid in pids:
        try:
            total += time.clock_gettime(((~pid) << 3) | 2)    # the kernel's number for the CPU clock of a process
        except OSError:
            raise Failure(f"a process of a system under test ended while it was measured (pid {pid})") from None
        if fields := stat_fields(pid):
            total += (int(fields[13]) + int(fields[14])) * TICK
    return total


def memory(pid):
    """Bytes of a process by kind: Rss, Pss, Private_Dirty, Anonymous."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * 1024
    return found


class Program:
    """A started program; what it writes goes to files in the run's folder."""

    living = []

    def __init__(self, folder, name, command):
        self.name, self.command = name, [str(word) for word in command]
        self.log_path = Path(folder) / f"{name}.log"
        self.output_path = Path(folder) / f"{name}.out"
        self.started_at = time.monotonic()
        with open(self.log_path, "wb") as log, open(self.output_path, "wb") as output:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=output, stderr=log,
                                            preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM))
        self.pid = self.process.pid
        self.members = [self.pid]
        Program.living.append(self)

    def find_members(self):
        """The pids to account for, looked up once all are running."""
        self.members = family(self.pid)

    def is_running(self):
        return self.process.poll() is None

    def wait_for(self, pattern, path=None, timeout=30):
        """The first match of a pattern in the log (or in what it printed)."""
        path = path or self.log_path
        deadline = time.monotonic() + timeout
        while True:
            if match := re.search(pattern, path.read_text(errors="replace")):
                return match
            if not self.is_running() or time.monotonic() > deadline:
                raise Failure(f"{self.name} did not say {pattern!r}:\n{self.tail()}")
            time.sleep(0.002)

    def wait_port(self, port, timeout=20):
        """Until somebody accepts connections there."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if not self.is_running() or time.monotonic() > deadline:
                    raise Failure(f"{self.name} does not listen on {port}:\n{self.tail()}") from None
                time.sleep(0.01)

    def wait_children(self, count, timeout=20):
        """Until it has so many descendants."""
        deadline = time.monotonic() + timeout
        while len(family(self.pid)) - 1 != count:
            if not self.is_running() or time.monotonic() > deadline:
                raise Failure(f"{self.name} does not have {count} children:\n{self.tail()}")
            time.sleep(0.01)

    def tail(self):
        text = self.log_path.read_text(errors="replace") + self.output_path.read_text(errors="replace")
        return f"{' '.join(self.command)}\n{text[-2000:]}"

    def end(self):
        """Asks, waits, insists: the program itself and what is left of its children."""
        if self in Program.living:
            Program.living.remove(self)
        members = {pid: fields[19] for pid in family(self.pid) if (fields := stat_fields(pid))} if self.is_running() else {}
        self.process.stdin.close()
        if self.is_running():
            self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        deadline = time.monotonic() + 2
        for pid, born in members.items():
            while (fields := stat_fields(pid)) and fields[19] == born and fields[0] != "Z":
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.01)


def end_all():
    """Everything that still runs, the last started first."""
    for program in reversed(list(Program.living)):
        program.end()
