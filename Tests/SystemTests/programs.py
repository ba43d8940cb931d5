"""The real binaries as a test handles them: started with ports from the kernel, watched, ended by their own pid only.

Invariants: nothing that was started outlives its test (the kernel kills it when the test process dies, too); every stderr
line of a program is kept, and must be one JSON object; a condition is waited for with a deadline, never slept for.
"""

import ctypes
import errno
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from peer.http1 import request, wait_until

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("PIKO_BIN", ROOT / ".build" / "debug"))
SOAK = os.environ.get("PIKO_SOAK") == "1"
LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1
# Sanitizers make everything slower; deadlines grow with this factor.
SLOW = float(os.environ.get("PIKO_SLOW", "1"))
# A program that is linked statically does not find by itself what writes its backtraces.
BACKTRACE = Path(shutil.which("swift") or "/usr/bin/swift").resolve().parent.parent / "libexec/swift/linux/swift-backtrace"
ENVIRONMENT = {**os.environ}
if BACKTRACE.exists():
    ENVIRONMENT["SWIFT_BACKTRACE"] = ("enable=yes,color=no,interactive=no,registers=none,images=none,threads=crashed,timeout=5s,"
                                      f"swift-backtrace={BACKTRACE}")


def scaled(soak, normal):
    """A size or count: `soak` in script/soak, `normal` in the everyday run."""
    return soak if SOAK else normal


def descendants(pid):
    """All living processes below a pid."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(entry))
    found, queue = [], [pid]
    while queue:
        for child in children.get(queue.pop(), []):
            found.append(child)
            queue.append(child)
    return found


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def resident_bytes(pid):
    """Resident memory without the pages of files (code): what the program itself holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def descriptors(pid):
    """{number: what it is} of a process."""
    found = {}
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
            except FileNotFoundError:
                pass
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def address_of(text):
    host, _, port = text.rpartition(":")
    return (host.strip("[]") or "127.0.0.1", int(port))


class Program:
    """A started program with its log."""

    living = []

    def __init__(self, arguments, name=None, environment=None, before_exec=None, descriptors_max=None, stdin=None, inherits=()):
        self.arguments = [str(argument) for argument in arguments]
        self.name = name or Path(self.arguments[0]).name
        self.lines = []              # (parsed or None, text)
        self.condition = threading.Condition()
        self.family = set()          # every descendant that was ever seen
        self.expected_errors = []    # patterns of log lines at level error that the test provokes
        self.stdout_file = tempfile.TemporaryFile()

        def prepare():
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if descriptors_max:
                import resource
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors_max, descriptors_max))
            if before_exec:
                before_exec()
        self.process = subprocess.Popen(self.arguments, stdin=stdin or subprocess.DEVNULL, stdout=self.stdout_file,
                                        stderr=subprocess.PIPE, pass_fds=inherits, env={**ENVIRONMENT, **(environment or {})}, preexec_fn=prepare)
        self.pid = self.process.pid
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        Program.living.append(self)

    def _read(self):
        for raw in self.process.stderr:
            text = raw.decode("utf-8", "replace").rstrip("\n")
            try:
                parsed = json.loads(text)
            except ValueError:
                parsed = None
            with self.condition:
                self.lines.append((parsed, text))
                self.condition.notify_all()

    # ---- The log ----

    @property
    def log(self):
        with self.condition:
            return "\n".join(text for _, text in self.lines)

    @property
    def output(self):
        self.stdout_file.seek(0)
        return self.stdout_file.read().decode("utf-8", "replace")

    def logged(self, msg=None, after=0, **fields):
        """The parsed log lines whose `msg` matches the pattern and whose fields are as given."""
        with self.condition:
            lines = self.lines[after:]
        return [line for line, _ in lines if line is not None and (msg is None or re.search(msg, line.get("msg", "")))
                and all(line.get(key) == value for key, value in fields.items())]

    def wait_log(self, msg, timeout=20, after=0, **fields):
        """The first such line, waiting for it; fails at once when the program ends before."""
        deadline = time.monotonic() + timeout * SLOW
        while True:
            found = self.logged(msg, after, **fields)
            if found:
                return found[0]
            if self.process.poll() is not None:
                self.reader.join(2)
                found = self.logged(msg, after, **fields)
                if found:
                    return found[0]
                raise AssertionError(f"{self.name} ended with {self.process.returncode} before {msg!r}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name}: no log line {msg!r} {fields} within {timeout} s:\n{self.tail()}")
            with self.condition:
                self.condition.wait(0.05)

    def mark(self):
        """A position in the log, for `after`."""
        with self.condition:
            return len(self.lines)

    def tail(self, count=60):
        with self.condition:
            texts = [text if len(text) < 300 else text[:300] + " …" for _, text in self.lines[-count:]]
        return "\n".join([f"--- {self.name} (pid {self.pid}): {' '.join(self.arguments)}", *texts, self.output[-3000:]])

    # ---- The process ----

    def children(self):
        found = descendants(self.pid)
        self.family.update(found)
        return found

    def send_signal(self, number):
        self.children()
        if self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, timeout=20):
        """The exit status."""
        try:
            status = self.process.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout} s:\n{self.tail()}") from None
        self.reader.join(5)
        return status

    def stop(self, number=signal.SIGTERM, timeout=20):
        """Asks it to end and gives the status; afterwards none of its processes may be left."""
        self.send_signal(number)
        try:
            return self.wait(timeout)
        finally:
            self._finish()

    def kill(self):
        self.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self._finish()

    def _finish(self):
        if self.process.poll() is None:
            self.children()
            self.process.kill()
            self.process.wait(10)
        if self in Program.living:
            Program.living.remove(self)
        deadline = time.monotonic() + 10 * SLOW
        left = [pid for pid in self.family if is_alive(pid)]
        while left and time.monotonic() < deadline:
            time.sleep(0.02)
            left = [pid for pid in left if is_alive(pid)]
        commands = [f"{pid}: {command_of(pid)}" for pid in left]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self.reader.join(5)
        self.stdout_file.seek(0)
        assert not left, f"processes outlived {self.name}: {commands}\n{self.tail()}"

    def check_log(self):
        """Every line is one JSON object with the fixed fields, and no error that was not expected."""
        with self.condition:
            lines = list(self.lines)
        for parsed, text in lines:
            assert isinstance(parsed, dict), f"{self.name}: not a JSON line: {text!r}\n{self.tail()}"
            assert {"level", "ts", "subsystem", "msg"} <= parsed.keys(), f"{self.name}: {text}"
            if parsed["level"] == "error":
                assert any(re.search(pattern, text) for pattern in self.expected_errors), f"{self.name} logged an error: {text}"


def become(user):
    """For `before_exec`: another user, in the group of the same number and no other."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)      # the change of user clears it


accounts = itertools.count()


class Node(Program):
    """`piko server`, with ports from the kernel."""

    def __init__(self, backend="auto", workers=2, arguments=(), config=None, wait=True, ports=(0, 0, 0), host="127.0.0.1",
                 gossip="127.0.0.1:0", command=lambda *words: list(words), user=None, own_account=True, **options):
        # io_uring's memory counts against the limit of the workers' user, all his processes together, and root can't lift that limit
        # everywhere: so that nodes of tests that run side by side take nothing from each other, each has a user of its own.
        if own_account and os.geteuid() == 0 and user is None and "--server.user" not in arguments and "user:" not in (config or ""):
            account = 100_000 + (os.getpid() * 64 + next(accounts)) % 1_000_000
            arguments = ["--server.user", f"{account}:65534", *arguments]
        self.folder = tempfile.TemporaryDirectory(prefix="piko-test-")
        if user is not None:
            os.chown(self.folder.name, user, user)
            options["before_exec"] = lambda: become(user)
        self.backend = backend
        self.control_socket = Path(self.folder.name) / "control.sock"
        line = [BIN / "piko", "server", "--io-backend", backend, "--server.workers", workers,
                "--server.control-socket", self.control_socket]
        for name, port in zip(("proxy", "upstream", "admin"), ports):
            line += [f"--{name}.bind-addr", f"{host}:{port}"]
        if gossip is not None:
            line += ["--cluster.gossip.bind-addr", gossip]
        if config is not None:
            path = Path(self.folder.name) / "server.yaml"
            path.write_text(config)
            line += ["--config.path", path]
        super().__init__(command(*line, *arguments), name="server", **options)
        if wait:
            self.wait_ready()

    def wait_ready(self):
        ready = self.wait_log("server ready")
        self.proxy = address_of(ready["proxy_addr"])
        self.upstream = address_of(ready["upstream_addr"])
        self.admin = address_of(ready["admin_addr"])
        self.gossip = address_of(ready["gossip_addr"]) if "gossip_addr" in ready else None
        self.children()

    def workers(self):
        return [pid for pid in self.children() if "piko-worker" in command_of(pid)]

    def processes(self):
        return [self.pid] + self.workers()

    def descriptor_counts(self):
        return {pid: len(descriptors(pid)) for pid in self.processes()}

    def assert_descriptors_return_to(self, before, timeout=15, more=0):
        """The total over the node's processes is back at (or below) what it was, `more` aside."""
        total = sum(before.values()) + more
        wait_until(lambda: sum(self.descriptor_counts().values()) <= total, timeout * SLOW,
                   lambda: f"descriptors back to {before}, now {self.descriptor_counts()}: "
                           f"{[sorted(descriptors(pid).values()) for pid in self.processes()]}")

    @property
    def upstream_url(self):
        return f"http://{self.upstream[0]}:{self.upstream[1]}"

    @property
    def proxy_url(self):
        return f"http://{self.proxy[0]}:{self.proxy[1]}"


def metric(node, name, **labels):
    """The sum of a metric's series that have the labels."""
    text = request(node.admin, target="/metrics", host="admin").body.decode()
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    series = re.findall(rf"^{name}({{[^}}]*}})? (\S+)$", text, re.M)
    return sum(float(value) for found, value in series if all(label in found for label in wanted))


def deny_io_uring(error=errno.EPERM):
    """For `before_exec`: a seccomp filter that refuses io_uring_setup, with EPERM as container runtimes do."""
    class Filter(ctypes.Structure):
        _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]

    class Program_(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Filter))]
    io_uring_setup = 425
    rows = (Filter * 4)(Filter(0x20, 0, 0, 0),                       # load the system call's number
                        Filter(0x15, 0, 1, io_uring_setup),          # equal: next, else skip one
                        Filter(0x06, 0, 0, 0x00050000 | error),      # return it
                        Filter(0x06, 0, 0, 0x7FFF0000))              # allow
    program = Program_(4, rows)
    if LIBC.prctl(38, 1, 0, 0, 0) != 0 or LIBC.prctl(22, 2, ctypes.byref(program), 0, 0) != 0:
        os._exit(97)
