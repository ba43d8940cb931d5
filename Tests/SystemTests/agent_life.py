"""What the tests of an agent's life share: an agent with a file that is written anew, clients that note every failure, and a
service manager's end of the notifications."""

import os
import re
import signal
import socket
import struct
import threading

import pytest

from peer import http1
from peer.http1 import wait_until
from programs import BIN, SLOW, is_alive


class ConfiguredAgent:
    """`piko agent start` with a YAML file, over reloads and upgrades: `pid` is the process that serves."""

    def __init__(self, make, path, arguments, command=None, **options):
        self.path = path
        self.program = make(*arguments, **options) if command is None else command(*arguments, **options)
        self.pid = self.program.pid
        self.pids = [self.pid]

    def __getattr__(self, name):
        return getattr(self.program, name)

    def write(self, text):
        """Puts a new file in the old one's place."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        os.rename(fresh, self.path)

    def signal(self, number):
        os.kill(self.pid, number)

    def reload(self, text=None, msg="^reloaded$"):
        """The log line with the outcome."""
        if text is not None:
            self.write(text)
        mark = self.program.mark()
        self.signal(signal.SIGHUP)
        return self.wait_line(msg, after=mark)

    def wait_line(self, msg, after=0, timeout=30, **fields):
        """As `wait_log`, but the program that was started may have left its place to another."""
        return wait_until(lambda: self.program.logged(msg, after, **fields), timeout * SLOW,
                          lambda: f"log line {msg!r}\n{self.program.tail()}")[0]

    def upgrade(self):
        """Lets another process take over, and gives the pid of the one before."""
        mark = self.program.mark()
        old = self.pid
        self.signal(signal.SIGUSR2)
        found = wait_until(lambda: self.program.logged("^handing over$|^upgrade failed", after=mark), 60 * SLOW,
                           lambda: f"an outcome of the upgrade\n{self.program.tail()}")[0]
        assert found["msg"] == "handing over", found
        self.pid = found["pid"]
        self.pids.append(self.pid)
        self.program.family.add(self.pid)
        self.wait_line("^took over$", after=mark)
        return old

    def wait_gone(self, pid, timeout=30):
        if pid == self.program.pid:
            # Not `Program.wait`, which reads the log to its end: another process still writes to it.
            assert self.program.process.wait(timeout * SLOW) == 0, self.program.tail()
        wait_until(lambda: not is_alive(pid), timeout * SLOW, lambda: f"the end of {pid}\n{self.program.tail()}")

    def finish(self):
        for pid in reversed(self.pids):
            if pid != self.program.pid and is_alive(pid):
                os.kill(pid, signal.SIGTERM)
                self.wait_gone(pid)


@pytest.fixture
def agent_file(program, backend, transport, tmp_path):
    """A factory: an agent of which `text` is the file (listeners and whatever else)."""
    made = []

    def make(upstream, text, *arguments, transport_flag=True, number=None, **options):
        path = tmp_path / f"agent{number if number is not None else len(made)}.yaml"
        path.write_text(text)
        line = ["agent", "start", "--config.path", path, "--io-backend", backend]
        if upstream is not None:
            line += ["--connect.url", f"http://{upstream[0]}:{upstream[1]}"]
        if transport_flag:
            line += ["--connect.transport", "auto" if transport == "direct" else "mux"]
        one = ConfiguredAgent(program, path, [*line, *arguments], **options)
        made.append(one)
        return one
    yield make
    for one in made:
        one.finish()


def listeners(*rows, **more):
    """The YAML of listeners: each (endpoint, port), or (endpoint, port, "further: keys")."""
    lines = ["listeners:"]
    for row in rows:
        lines += [f"  - endpoint_id: {row[0]}", f"    addr: 127.0.0.1:{row[1]}"]
        lines += [f"    {line}" for line in row[2:]]
    return "\n".join(lines + [f"{key}: {value}" for key, value in more.items()]) + "\n"


class Load:
    """Clients that ask without pause, on connections that are kept and on new ones, and note every failure."""

    def __init__(self, address, hosts, clients=8, check=lambda answer: True):
        self.address, self.hosts, self.check = address, hosts, check
        self.failures, self.count = [], 0
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.more(50)
        return self

    def __exit__(self, kind, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join(30 * SLOW)
        if kind is None:
            assert not self.failures, f"{len(self.failures)} of {self.count} requests failed: {self.failures[:5]}"

    def more(self, count, timeout=60):
        """Waits until so many further requests were answered."""
        goal = self.count + count
        wait_until(lambda: self.count >= goal or self.failures, timeout * SLOW, lambda: f"{goal} requests, had {self.count}")

    def _run(self, number):
        host = self.hosts[number % len(self.hosts)]
        keeps = number % 2 == 0
        connection, last = None, 0
        while not self.stopping.is_set():
            try:
                if connection is None:
                    connection, last = http1.Connection(self.address, timeout=30 * SLOW), 0
                body = os.urandom(200)
                answer = connection.request("POST", f"/{number}", host=host, body=body)
                if answer.status != 200 or answer.body != body or not self.check(answer):
                    raise AssertionError(f"{answer.status} {answer.body[:100]!r}")
                with self.lock:
                    self.count += 1
                last += 1
                if not keeps or "close" in answer.options():
                    connection.close()
                    connection = None
            except (OSError, EOFError, http1.BadMessage, AssertionError) as error:
                with self.lock:
                    self.failures.append(f"client {number} ({host}), request {last} of its connection: {error!r}")
                if connection:
                    connection.close()
                connection = None


def mirror(seen):
    return http1.response(body=seen.body)


class Notifications:
    """A service manager's socket; `abstract` or a path."""

    def __init__(self, path, abstract=False):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{path}" if abstract else str(path))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.name = f"@{path}" if abstract else str(path)
        self.heard = []              # (pid of the sender, {name: value})
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while True:
            try:
                data, ancillary, _, _ = self.socket.recvmsg(65536, socket.CMSG_SPACE(12))
            except OSError:
                return
            pid = struct.unpack("iII", ancillary[0][2])[0] if ancillary else 0
            if data == b"end":
                return
            self.heard.append((pid, dict(line.split("=", 1) for line in data.decode().split("\n"))))

    def wait(self, after=0, **wanted):
        """The index of the first message from `after` on that has all of the assignments (None: any value)."""
        def find():
            for index, (_, message) in list(enumerate(self.heard))[after:]:
                if all(name in message and value in (None, message[name]) for name, value in wanted.items()):
                    return (index,)
        return wait_until(find, 30 * SLOW, lambda: f"notification {wanted}; heard {self.heard[-20:]}")[0]

    def close(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"end", self.socket.getsockname())
        self.thread.join(5)
        self.socket.close()


def established(pid):
    """The inodes of a process's sockets: a connection that stays is the same inode."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            match = re.match(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            continue
        if match:
            found.add(match[1])
    return found


__all__ = ["BIN", "ConfiguredAgent", "Load", "Notifications", "agent_file", "established", "listeners", "mirror"]
