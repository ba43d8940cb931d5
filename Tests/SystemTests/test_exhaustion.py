"""Descriptors, processes and locked memory run out in running programs: load is shed with a counter and a line a second, nothing
spins or ends, and all is well again once there is room."""

import errno
import os
import resource
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from peer import agent as agents
from peer import http1
from peer.http1 import request, response, wait_until
from programs import SLOW, deny_io_uring, descriptors, metric

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
TICKS = os.sysconf("SC_CLK_TCK")


def processor_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def assert_idle(node, seconds=1.0, most=0.25):
    """Measures, over a while that is the measurement and not a wait, how busy the node's processes are."""
    pids = node.processes()
    before = {pid: processor_seconds(pid) for pid in pids}
    time.sleep(seconds)
    spent = {pid: processor_seconds(pid) - before[pid] for pid in pids}
    assert all(used < most * seconds * SLOW for used in spent.values()), f"busy while nothing can be done: {spent}"


NAMES = {resource.RLIMIT_NOFILE: "Max open files", resource.RLIMIT_NPROC: "Max processes"}


def limit(pid, kind, soft):
    """Sets the soft limit of a running process; gives what puts it back. Only who is the same user may, whatever root can do
    here, so a child does it that becomes that user."""
    def number(text):
        return resource.RLIM_INFINITY if text == "unlimited" else int(text)
    (line,) = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith(NAMES[kind])]
    before = tuple(number(text) for text in line[len(NAMES[kind]):].split()[:2])
    ids = {name: int(value.split()[0]) for name, _, value in
           (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines()) if name in ("Uid", "Gid")}

    def put(values):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if ids["Uid"] != os.geteuid():
                    os.setgroups([])
                    os.setresgid(*[ids["Gid"]] * 3)
                    os.setresuid(*[ids["Uid"]] * 3)
                resource.prlimit(pid, kind, values)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0, f"cannot set {NAMES[kind]} of process {pid}"
    put((soft, before[1]))
    return lambda: put(before)


def no_more_descriptors(pid, more=0):
    """New descriptors of a process get the lowest free number: below the limit there must be `more` free ones."""
    used = set(descriptors(pid))
    number = free = 0
    while number in used or free < more:
        if number not in used:
            free += 1
        number += 1
    return limit(pid, resource.RLIMIT_NOFILE, number)


def most_a_second(lines):
    """The largest number of lines that any one second holds."""
    times = sorted(line["ts"] for line in lines)
    stamps = [time.mktime(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) + float(text[19:-1]) for text in times]
    return max((sum(1 for other in stamps if stamp <= other < stamp + 0.95) for stamp in stamps), default=0)


def connect(address, count):
    clients = []
    for _ in range(count):
        client = socket.socket()
        client.settimeout(20 * SLOW)
        client.connect(address)
        clients.append(client)
    return clients


def test_supervisor_without_descriptors(new_node, tunnel, host, backend):
    """Connections wait in the kernel's queue, whoever is in sits undisturbed."""
    if backend == "io_uring":
        pytest.skip("an accept that waits in a ring has the limit of when it was asked for: see the next test")
    node = new_node()
    tunnel(node)
    kept = http1.Connection(node.proxy)
    assert kept.request(host=host).status == 200
    before = metric(node, "piko_accept_pauses_total")
    restore = no_more_descriptors(node.pid)
    clients = connect(node.proxy, 30)
    for client in clients:
        client.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    node.wait_log("cannot accept connections; trying again soon")
    assert_idle(node)
    assert kept.request(host=host).status == 200
    assert_idle(node)
    restore()
    for client in clients:
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        client.close()
    assert metric(node, "piko_accept_pauses_total") > before
    assert most_a_second(node.logged("cannot accept connections")) <= 1
    kept.close()


def test_supervisor_without_descriptors_after_a_restart(new_node):
    """The ports are paused while no worker serves, and accepted from anew, by the limit of then."""
    node = new_node(workers=1)
    restore = no_more_descriptors(node.pid, more=8)      # what it takes to start a worker, beside what the old one had
    victim = node.workers()[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: node.workers() not in ([], [victim]), 20 * SLOW, lambda: node.tail())
    mark = node.mark()
    commands = []
    while not node.logged("cannot accept connections", after=mark):      # whatever is left goes to these
        assert len(commands) < 40, node.tail()
        if len(commands) < 16:
            command = socket.socket(socket.AF_UNIX)
            command.connect(str(node.control_socket))
            commands.append(command)
        commands += connect(node.proxy, 1)
        time.sleep(0.05)
    clients = connect(node.proxy, 10)
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: nobody.example.com\r\nConnection: close\r\n\r\n")
    assert_idle(node)
    restore()
    for client in clients:
        assert client.recv(100).startswith(b"HTTP/1.1 502")
    assert metric(node, "piko_accept_pauses_total") > 0
    assert most_a_second(node.logged("cannot accept connections")) <= 1
    for client in clients + commands:
        client.close()


def test_workers_without_descriptors(new_node, tunnel, host):
    """New connections are dropped; those that are in, and the workers, stay. Clients that move to the worker with the tunnel are
    dropped there, too."""
    node = new_node()
    tunnel(node)
    kept = [http1.Connection(node.proxy) for _ in range(4)]
    for client in kept:
        assert client.request(host=host).status == 200
    workers = node.workers()
    before = metric(node, "piko_refused_by_limit_total")
    mark = node.mark()
    restores = [no_more_descriptors(worker, more=index) for index, worker in enumerate(workers)]
    answered = 0
    for _ in range(3):
        for client in connect(node.proxy, 20):
            try:
                client.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                answered += client.recv(100).startswith(b"HTTP/1.1 200")
            except OSError:
                pass
            client.close()
    assert answered < 60
    node.wait_log("out of descriptors; connections are dropped", after=mark)
    assert_idle(node)
    assert node.workers() == workers, node.tail()
    for restore in restores:
        restore()

    def well():
        try:
            return request(node.proxy, host=host, timeout=5 * SLOW).status == 200
        except (OSError, EOFError):
            return False
    wait_until(well, 20 * SLOW, "new connections are served")
    for _ in range(20):
        assert request(node.proxy, host=host).status == 200
    for client in kept:
        assert client.request(host=host).status == 200
        client.close()
    assert metric(node, "piko_refused_by_limit_total") > before
    assert node.workers() == workers
    lines = node.logged("out of descriptors")
    assert 1 <= len(lines) and all(most_a_second([line for line in lines if line["worker"] == worker]) <= 1
                                   for worker in {line["worker"] for line in lines})


def test_long_body_without_pipes(new_node, tunnel, host):
    """A worker that can make no pipe copies what it would have spliced."""
    body = os.urandom(1 << 16) * 96
    node = new_node(workers=1)
    tunnel(node, agents.Recorder(body=body))
    client = http1.Connection(node.proxy)
    assert client.request("HEAD", host=host).status == 200
    restore = no_more_descriptors(node.workers()[0])
    for _ in range(3):
        assert client.request(host=host).body == body
    assert_idle(node)
    restore()
    assert client.request(host=host).body == body
    client.close()


def test_supervisor_without_descriptors_for_a_worker(new_node, tunnel, host, peers):
    """A worker that ends can't be replaced at once; the other serves, and the supervisor tries again, in peace."""
    node = new_node()
    restore = no_more_descriptors(node.pid)
    keep, victim = node.workers()
    taken = [os.open("/dev/null", os.O_RDONLY)]      # ours, so that the test is about theirs
    os.kill(victim, signal.SIGKILL)
    node.wait_log("worker ended", pid=victim)
    # What the dead one leaves free is lowered, too.
    again = no_more_descriptors(node.pid)
    node.wait_log("cannot start a worker|worker ready", timeout=10)
    assert_idle(node)
    assert node.process.poll() is None and keep in node.workers()
    again()
    restore()
    wait_until(lambda: len(node.workers()) == 2, 20 * SLOW, lambda: node.tail())
    for descriptor in taken:
        os.close(descriptor)
    tunnel(node)
    for _ in range(4):
        assert request(node.proxy, host=host).status == 200
    assert most_a_second(node.logged("cannot start a worker")) <= 4


@root_only
def test_no_more_processes(new_node, tunnel, host):
    """RLIMIT_NPROC counts the processes of a user, so this server runs as one that nobody else is."""
    node = new_node(user=300_000 + os.getpid() % 100_000)
    tunnel(node)
    restore = limit(node.pid, resource.RLIMIT_NPROC, 1)
    keep, victim = node.workers()
    os.kill(victim, signal.SIGKILL)
    line = node.wait_log("cannot start a worker")
    assert "Resource temporarily unavailable" in line["err"]
    assert_idle(node)
    assert node.workers() == [keep]
    restore()
    wait_until(lambda: len(node.workers()) == 2, 20 * SLOW, lambda: node.tail())
    lines = node.logged("cannot start a worker")
    assert most_a_second(lines) <= 2      # one a second; two seconds of the clock may share one
    assert metric(node, "piko_worker_start_failures_total") >= len(lines)

    def well():
        try:
            return request(node.proxy, host=host, timeout=5 * SLOW).status == 200
        except (OSError, EOFError):
            return False
    # The tunnel may have been at the one that ended.
    if not well():
        tunnel(node)
        wait_until(well, 10 * SLOW, "answers")


@pytest.mark.parametrize("short", ["locked memory", "memory"])
def test_no_memory_for_a_ring(new_node, tunnel, host, backend, short):
    """Epoll carries the connections then. (Kernels that count no ring as locked memory give one.)"""
    if backend == "epoll":
        pytest.skip("about rings")

    def prepare():
        if short == "memory":
            deny_io_uring(errno.ENOMEM)
        else:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    node = new_node(backend="auto", before_exec=prepare)
    tunnel(node)
    assert request(node.proxy, host=host).status == 200
    backend_line = node.logged("starting server")[0]["io_backend"]
    assert backend_line == "epoll: io_uring_setup: Cannot allocate memory" if short == "memory" else backend_line


def test_full_backlog_of_the_control_socket(new_node):
    """Commands wait for a supervisor without descriptors, and are answered when it has some again."""
    node = new_node()
    restore = no_more_descriptors(node.pid)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20 * SLOW)
    client.connect(str(node.control_socket))
    client.sendall(b'{"command":"info"}\n')
    assert_idle(node)
    timer = threading.Timer(0.1, restore)
    timer.start()
    assert client.recv(100).startswith(b"{")
    timer.join()
    client.close()


def test_no_worker_for_a_while(new_node):
    """A node that has served does not give up while none of its workers can be replaced."""
    node = new_node()
    restore = no_more_descriptors(node.pid)
    for victim in node.workers():
        os.kill(victim, signal.SIGKILL)
    again = no_more_descriptors(node.pid)
    wait_until(lambda: any(line["worker"] >= 14 for line in node.logged("cannot start a worker")), 30 * SLOW, lambda: node.tail())
    assert_idle(node)
    assert node.process.poll() is None
    again()
    restore()
    wait_until(lambda: len(node.workers()) == 2, 20 * SLOW, lambda: node.tail())
    wait_until(lambda: request(node.admin, target="/ready", host="x").status == 200, 20 * SLOW, "ready")
