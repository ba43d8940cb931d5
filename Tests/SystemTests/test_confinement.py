"""What workers give up: user, capabilities, system calls; and what they say when they are asked, or crash."""

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import programs
from peer.http1 import request, wait_until

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of another user")
OTHER = 65534


def status(pid):
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = value.strip()
    return fields


def has_user(name):
    try:
        pwd.getpwnam(name)
        return True
    except KeyError:
        return False


def is_sanitized():
    program = (programs.BIN / "piko-worker").read_bytes()
    return b"__asan_init" in program or b"__tsan_init" in program


@root_only
@pytest.mark.parametrize("arguments, user, group", [
    ((), "default", "default"), (("--server.user", "daemon"), "daemon", "daemon"), (("--server.user", "4321"), 4321, 4321),
    (("--server.user", "4321:daemon"), 4321, "daemon"), (("--server.user", "root"), 0, 0),
])
def test_user(new_node, tunnel, host, arguments, user, group):
    node = new_node(arguments=arguments, own_account=False)
    account = pwd.getpwnam("piko" if has_user("piko") else "nobody")
    names = {"default": (account.pw_uid, account.pw_gid), "daemon": (pwd.getpwnam("daemon").pw_uid, pwd.getpwnam("daemon").pw_gid)}
    uid = names[user][0] if isinstance(user, str) else user
    gid = names[group][1] if isinstance(group, str) else group
    for worker in node.workers():
        facts = status(worker)
        assert facts["Uid"].split() == [str(uid)] * 4
        assert facts["Gid"].split() == [str(gid)] * 4
        assert facts["Groups"] == "" or uid == 0
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(facts[name], 16) == 0, facts
        assert facts["NoNewPrivs"] == "1"
        assert facts["Seccomp"] == ("0" if is_sanitized() else "2")
    tunnel(node)
    assert request(node.proxy, host=host).status == 200
    assert request(node.admin, target="/metrics", host="x").status == 200


@root_only
@pytest.mark.parametrize("user, reason", [
    ("no-such-user-here", "there is no such user"), ("daemon:no-such-group", "there is no such group"),
])
def test_unknown_user(new_node, user, reason):
    node = new_node(wait=False, arguments=["--server.user", user])
    node.expected_errors = ["config: server.user"]
    assert node.wait() == 1
    assert node.logged("cannot start", err=f"config: server.user: {user}: {reason}"), node.tail()


@root_only
def test_server_that_is_not_root(new_node, tunnel, host):
    node = new_node(user=OTHER)
    for worker in node.workers():
        facts = status(worker)
        assert facts["Uid"].split() == [str(OTHER)] * 4 and facts["NoNewPrivs"] == "1" and int(facts["CapAmb"], 16) == 0
    tunnel(node)
    assert request(node.proxy, host=host).status == 200


@root_only
def test_server_that_is_not_root_has_no_other_users(new_node):
    node = new_node(wait=False, user=OTHER, arguments=["--server.user", "daemon"])
    node.expected_errors = ["config: server.user"]
    assert node.wait() == 1
    assert node.logged("cannot start", err="config: server.user: daemon: only a server that runs as root can have workers of another user")


PR_CAPBSET_DROP, CAP_KILL, CAP_SETGID, CAP_SETUID = 24, 5, 6, 7


@root_only
@pytest.mark.parametrize("capability", [CAP_KILL, CAP_SETGID, CAP_SETUID])
def test_root_that_may_not_change_users(new_node, tunnel, host, capability):
    """As in a container that takes these away: by default workers stay root, without capabilities, and the log says so."""
    node = new_node(own_account=False, before_exec=lambda: programs.LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
    assert node.logged("workers stay root, without capabilities")[0]["err"] == "Operation not permitted"
    for worker in node.workers():
        facts = status(worker)
        assert facts["Uid"].split() == ["0"] * 4 and int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    tunnel(node)
    assert request(node.proxy, host=host).status == 200


@root_only
def test_root_that_may_not_change_users_as_configured(new_node):
    node = new_node(wait=False, arguments=["--server.user", "daemon"],
                    before_exec=lambda: programs.LIBC.prctl(PR_CAPBSET_DROP, CAP_SETUID, 0, 0, 0))
    node.expected_errors = ["config: server.user"]
    assert node.wait() == 1
    assert node.logged("cannot start", err="config: server.user: daemon: cannot become this user: Operation not permitted")


def test_without_filter(new_node, tunnel, host):
    node = new_node(arguments=["--server.seccomp=false"])
    for worker in node.workers():
        assert status(worker)["Seccomp"] == "0" and status(worker)["NoNewPrivs"] == "1"
    tunnel(node)
    assert request(node.proxy, host=host).status == 200


def test_refused_call_is_explained(new_node):
    """A worker ended by its filter looks just like one that is sent that signal."""
    node = new_node()
    node.expected_errors = ["stack of a worker"]
    os.kill(node.workers()[0], signal.SIGSYS)
    line = node.wait_log("worker ended")
    assert "docs/security.md" in line["status"]
    wait_until(lambda: len(node.workers()) == 2, what="two workers again")


# What the filter lets through when all arguments are zero. The calls that it looks into more closely (fcntl, ioctl,
# setsockopt, socketpair, prctl, tgkill, newfstatat) are refused then; see ConfinementTests.swift for those.
LET_THROUGH = """
    io_uring_enter epoll_pwait2 epoll_pwait epoll_wait epoll_ctl epoll_create1 recvfrom recvmsg sendto sendmsg read write readv
    writev splice close shutdown getpeername getsockname getsockopt ppoll poll pipe2 eventfd2 timerfd_create timerfd_settime
    timerfd_gettime memfd_create ftruncate fstat pread64 pwrite64 lseek dup munmap mremap madvise brk futex clock_gettime
    clock_getres gettimeofday clock_nanosleep getrandom sched_yield sched_getaffinity sysinfo getpid gettid restart_syscall
    rt_sigreturn rt_sigaction rt_sigprocmask sigaltstack exit exit_group mmap mprotect prlimit64 openat open
""".split()


@pytest.fixture(scope="module")
def filter_probe(tmp_path_factory):
    compiler = shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    core = programs.ROOT / "Sources" / "CIOCore"
    probe = tmp_path_factory.mktemp("probe") / "probe"
    subprocess.run([compiler, "-std=gnu11", "-D_GNU_SOURCE", f"-I{core}", f"-I{core / 'include'}", "-o", probe,
                    Path(__file__).parent / "tools" / "filter_probe.c", core / "filter.c"], check=True)
    return probe


def numbers_of(names):
    """Numbers by the kernel's headers; names that this machine does not have are left out."""
    compiler = shutil.which("clang") or shutil.which("cc")
    text = "#include <asm/unistd.h>\n" + "".join(f"#ifdef __NR_{name}\n= {name} __NR_{name}\n#endif\n" for name in names)
    output = subprocess.run([compiler, "-E", "-P", "-x", "c", "-"], input=text, capture_output=True, text=True, check=True).stdout
    # A name that is a macro of itself is spelled in the same way.
    return {int(line.split()[2]): line.split()[1] for line in output.splitlines() if line.startswith("= ")}


def test_every_call_that_is_not_needed_is_refused(filter_probe):
    output = subprocess.run([filter_probe], capture_output=True, text=True, check=True, timeout=100).stdout
    found = {int(line.split()[0]) for line in output.splitlines() if line.endswith("let-through")}
    expected = numbers_of(LET_THROUGH)
    expected.setdefault(441, "epoll_pwait2")
    assert len(output.splitlines()) == 480
    if os.uname().machine == "x86_64":
        found -= {335, 336}      # uretprobe and uprobe: no filter is asked, and the kernel itself ends (SIGILL) who calls them
    assert found == set(expected), (found ^ set(expected), expected)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="only there are other ways in")
@pytest.mark.parametrize("way", ["x32", "i386"])
def test_other_ways_into_the_kernel_are_refused(filter_probe, way):
    assert subprocess.run([filter_probe, way], timeout=20).returncode == -signal.SIGSYS


def test_stack_on_request(new_node):
    node = new_node()
    for worker in node.workers():
        for _ in range(3):
            mark = node.mark()
            os.kill(worker, signal.SIGUSR1)
            line = node.wait_log("stack of a worker", after=mark, pid=worker)
            assert line["level"] == "warn" and line["signal"] == signal.SIGUSR1
            assert all(re.fullmatch(r"[\w.+?-]+\+0x[0-9a-f]+", frame) for frame in line["frames"])
    addresses = [frame.split("+")[1] for frame in line["frames"] if frame.startswith("piko-worker+")]
    assert len(addresses) >= 3
    if shutil.which("addr2line"):
        names = subprocess.run(["addr2line", "-f", "-i", "-e", programs.BIN / "piko-worker", *addresses],
                               capture_output=True, text=True, check=True).stdout
        assert "cio_loop_turn" in names and "runTurn" in names, names
    assert request(node.admin, target="/health", host="x").status == 200


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGILL])
def test_crash_leaves_its_stack(new_node, number):
    node = new_node()
    node.expected_errors = ["stack of a worker"]
    victim = node.workers()[0]
    if is_sanitized():
        pytest.skip("a sanitizer has its own")
    os.kill(victim, number)
    assert node.wait_log("worker ended", pid=victim)["status"] == f"signal {int(number)}"
    line = node.wait_log("stack of a worker", pid=victim)
    assert line["level"] == "error" and line["signal"] == number and len(line["frames"]) >= 3
    wait_until(lambda: len(node.workers()) == 2, what="two workers again")


@root_only
def test_other_users_workers_end_with_their_supervisor(new_node):
    node = new_node(workers=3)
    for worker in node.workers():
        os.kill(worker, signal.SIGSTOP)      # they can't notice by themselves
    node.kill()                              # checks that no process of it is left
    assert json.dumps(node.logged("stack of a worker")) == "[]"


@root_only
@pytest.mark.skipif(is_sanitized(), reason="a sanitizer looks at its process from outside")
def test_memory_with_keys_is_nobodys(new_node, program, service, endpoint):
    """No core file, and nobody but root looks into the supervisor, the workers and agents: the kernel shows it by /proc's owner."""
    node = new_node(user=OTHER)
    agent = program("agent", "http", endpoint, str(service(None).port), "--connect.url", f"http://127.0.0.1:{node.upstream[1]}",
                    before_exec=lambda: programs.become(OTHER))
    agent.wait_log("connected")
    for pid in (node.pid, agent.pid, *node.workers()):
        assert status(pid)["Uid"].split()[0] == str(OTHER)
        assert os.stat(f"/proc/{pid}/environ").st_uid == 0, (pid, status(pid)["Name"])
