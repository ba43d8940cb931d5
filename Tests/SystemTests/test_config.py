"""Configuration and the command line of the real binaries: precedence, strictness, help, and what people see when it is wrong."""

import re
import subprocess

import pytest
import yaml

from peer.http1 import request
from programs import BIN, ENVIRONMENT, SLOW

EXECUTABLES = ["piko", "piko-supervisor", "piko-agent"]


def run(*arguments, timeout=20, environment=None):
    return subprocess.run([BIN / "piko", *map(str, arguments)], capture_output=True, text=True, timeout=timeout * SLOW, stdin=subprocess.DEVNULL,
                          env={**ENVIRONMENT, **(environment or {})})


def check(tmp_path, text, *arguments, environment=None):
    path = tmp_path / "server.yaml"
    path.write_text(text)
    return run("server", "check", "--config.path", path, *arguments, environment=environment)


# ---- Precedence ----

def test_flags_win_over_the_file(new_node, tunnel, host):
    """The original lets the file override an explicit flag."""
    node = new_node(config="proxy:\n  bind_addr: 127.0.0.1:1\n  timeout: 5s\nadmin:\n  bind_addr: \"127.0.0.1:2\"\nlog:\n  level: error\n", arguments=["--log.level", "info"])
    assert node.proxy[1] > 1024
    tunnel(node)
    assert request(node.proxy, host=host).status == 200


def test_the_file_wins_over_defaults(new_node, tunnel, host):
    node = new_node(config="log: {level: debug}\nproxy:\n  timeout: 700ms\n")
    import asyncio
    from peer import agent as agents

    async def respond(seen):
        await asyncio.sleep(20)
    tunnel(node, agents.Recorder(respond))
    assert request(node.proxy, host=host).status == 504


def test_expand_env(tmp_path):
    text = "proxy:\n  bind_addr: ${ADDR}\n  timeout: ${PIKO_TEST_TIMEOUT:45s}\n"
    good = check(tmp_path, text, "--config.expand-env", environment={"ADDR": "127.0.0.1:4711"})
    assert good.returncode == 0 and "127.0.0.1:4711" in good.stdout and "45s" in good.stdout
    assert check(tmp_path, text, environment={"ADDR": "127.0.0.1:4711"}).returncode != 0, "not expanded unless asked for"


# ---- Strictness ----

@pytest.mark.parametrize("text, words", [
    ("proxy:\n  bind_adr: x\n", ["bind_adr", "bind_addr"]),
    ("prox:\n  bind_addr: x\n", ["prox", "proxy"]),
    ("proxy:\n  timeout: soon\n", ["timeout"]),
    ("proxy:\n  timeout: [1, 2]\n", ["timeout"]),
    ("proxy:\n\ttimeout: 1s\n", ["2"]),
    ("proxy:\n  timeout: 1s\n  timeout: 2s\n", ["timeout"]),
    ("proxy: &anchor\n  timeout: 1s\n", ["1"]),
    ("proxy: {timeout: 1s\n", []),
    ("proxy:\n  timeout: \"1s\n", []),
    ("- a\n- b\n", []),
    ("--- \nproxy: {}\n---\nproxy: {}\n", []),
    ("grace_period: 0s\n", ["grace"]),
    ("proxy:\n  bind_addr: nonsense:port\n", ["bind_addr"]),
    ("log:\n  level: loud\n", ["level"]),
])
def test_wrong_files_are_refused(tmp_path, text, words):
    """The message names the file, a line, and the nearest known key; the server does not start with it either."""
    found = check(tmp_path, text)
    message = found.stderr + found.stdout
    assert found.returncode == 1, message
    assert "server.yaml" in message and re.search(r"[:\s]\d+", message), message
    for word in words:
        assert word in message, message
    started = run("server", "--config.path", tmp_path / "server.yaml")
    assert started.returncode == 1


def test_missing_file():
    """Every program says the same, and exits with 1."""
    for words in (["server", "check"], ["server"], ["agent", "start"], ["forward", "start"]):
        found = run(*words, "--config.path", "/does/not/exist.yaml")
        assert found.returncode == 1
        assert found.stderr == "config: --config.path: open /does/not/exist.yaml: No such file or directory\n", words


def test_check_says_what_would_run(tmp_path):
    found = check(tmp_path, "# nothing but a comment\nproxy:\n  timeout: 1m30s\nserver:\n  workers: 3\n")
    assert found.returncode == 0, found.stderr
    assert "1m30s" in found.stdout and "8001" in found.stdout and "3" in found.stdout


@pytest.mark.parametrize("value, good", [("1m30s", True), ("100ms", True), ("1.5h", True), ("0", True), ("10", False), ("-1s", False), ("1 s", False), ("", False), ("1d", False)])
def test_durations(value, good):
    assert (run("server", "check", "--proxy.timeout", value).returncode == 0) == good


# ---- The command line ----

@pytest.mark.parametrize("words", [[], ["server"], ["server", "check"], ["server", "status"], ["agent"], ["agent", "http"], ["agent", "tcp"], ["agent", "start"], ["forward"], ["forward", "tcp"],
                                   ["forward", "start"]])
def test_help(words):
    for flag in ("--help", "-h"):
        found = run(*words, flag)
        assert found.returncode == 0 and len(found.stdout) > 100 and not found.stderr
        assert "Usage" in found.stdout or "usage" in found.stdout
    if words in (["server"], ["agent", "http"], ["forward", "tcp"]):
        assert "xample" in found.stdout and "default" in found.stdout


@pytest.mark.parametrize("program", EXECUTABLES)
def test_version(program):
    for flag in ("--version", "-v") if program == "piko" else ("--version",):
        found = subprocess.run([BIN / program, flag], capture_output=True, text=True, timeout=20 * SLOW, stdin=subprocess.DEVNULL)
        assert found.returncode == 0 and re.search(r"\d", found.stdout), (program, found)


@pytest.mark.parametrize("words, nearest", [
    (["server", "--proxy.bind-adr", "x"], "--proxy.bind-addr"), (["server", "--log.levle", "x"], "--log.level"),
    (["agent", "http", "e", "1", "--conect.url", "x"], "--connect.url"), (["serve"], "server"), (["agent", "htp", "e", "1"], "http"),
])
def test_unknown_words_suggest_the_nearest(words, nearest):
    found = run(*words)
    assert found.returncode == 2 and nearest in found.stderr + found.stdout


@pytest.mark.parametrize("words", [
    ["agent", "http"], ["agent", "http", "e"], ["agent", "http", "e", "1", "2"], ["agent", "tcp", "e", "99999"], ["agent", "http", "e", "not a place"], ["forward", "tcp", "x"],
    ["forward", "tcp", "port", "e"], ["server", "extra"], ["server", "--io-backend", "kqueue"], ["server", "--server.workers", "-1"], ["server", "--proxy.timeout"],
    ["agent", "http", "e", "1", "--connect.url", "ftp://x"], ["server", "--proxy.bind-addr", "256.0.0.1:1"],
])
def test_wrong_words_are_refused(words):
    """Words that are not understood: 2. Values that can't be used: 1."""
    found = run(*words)
    assert found.returncode in (1, 2) and found.stderr + found.stdout


def test_port_in_use(new_node):
    """One clear line and what to do, exit 1, nothing left running."""
    node = new_node()
    hint = "hint: another process listens there: ss -ltnp shows which; stop it, or choose another address"
    found = run("server", "--proxy.bind-addr", f"127.0.0.1:{node.proxy[1]}", "--upstream.bind-addr", "127.0.0.1:0", "--admin.bind-addr", "127.0.0.1:0",
                "--cluster.gossip.bind-addr", "127.0.0.1:0", "--server.control-socket", node.control_socket.with_name("other.sock"), timeout=30)
    assert found.returncode == 1
    assert "ddress already in use" in found.stderr and str(node.proxy[1]) in found.stderr
    place = f"127.0.0.1:{node.proxy[1]}"
    found = run("forward", place, "e")
    assert (found.returncode, found.stderr) == (1, f"piko forward: cannot listen on {place}: Address already in use\n{hint}\n")
    found = run("agent", "http", "e", "1", "--server.enabled", "--server.bind-addr", place)
    assert found.returncode == 1
    assert found.stderr.splitlines()[-2:] == [f"config: server.bind_addr: cannot listen on {place}: Address already in use", hint]


def test_exec_in_place(new_node):
    """`piko server` becomes the supervisor under the same pid."""
    from programs import command_of
    node = new_node()
    assert "piko-supervisor" in command_of(node.pid)
    assert all("piko-worker" in command_of(pid) for pid in node.children())


# ---- Commands that ask a server on this machine ----

def test_server_info_and_workers(new_node):
    """Over the control socket, printed as YAML."""
    node = new_node()
    found = run("server", "info", "--server.control-socket", node.control_socket)
    assert found.returncode == 0 and not found.stderr, found
    info = yaml.safe_load(found.stdout)
    assert info["pid"] == node.pid and info["ready"] is True and len(info["workers"]) == 2
    assert f"{node.proxy[0]}:{node.proxy[1]}" in [listener["address"] for listener in info["listeners"]]
    found = run("server", "workers", "--server.control-socket", node.control_socket)
    assert found.returncode == 0 and {worker["pid"] for worker in yaml.safe_load(found.stdout)["workers"]} == set(node.workers())


def test_server_info_without_a_server(tmp_path):
    found = run("server", "info", "--server.control-socket", tmp_path / "none.sock")
    assert found.returncode == 1 and not found.stdout
    assert "none.sock: connect: No such file or directory" in found.stderr and "--server.control-socket" in found.stderr
    (tmp_path / "file.yaml").write_text(f"server:\n  control_socket: {tmp_path}/other.sock\n")
    found = run("server", "workers", "--config.path", tmp_path / "file.yaml")
    assert found.returncode == 1 and "other.sock" in found.stderr, "the file says where the socket is"
