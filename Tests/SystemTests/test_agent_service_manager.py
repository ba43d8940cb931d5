"""What the agent tells a service manager, over the protocol of sd_notify."""

import os
import signal
import time

import pytest

from agent_life import Notifications, agent_file, listeners  # noqa: F401
from programs import SLOW


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    abstract = request.param == "abstract"
    one = Notifications(f"piko-{os.getpid()}-{time.monotonic_ns()}" if abstract else tmp_path / "notify", abstract)
    yield one
    one.close()


@pytest.fixture(autouse=True)
def once(transport):
    if transport == "mux":
        pytest.skip("the same for both transports")


def test_a_life(node, agent_file, service, manager, endpoint):  # noqa: F811
    port = service().port
    agent = agent_file(node.upstream, listeners((endpoint, port)), environment={"NOTIFY_SOCKET": manager.name})
    ready = manager.wait(READY="1")
    assert manager.heard[ready] == (agent.pid, {"READY": "1", "STATUS": "1 of 1 listeners connected"})
    assert agent.logged("^connected$"), "it is ready when it is connected"
    agent.reload(listeners((endpoint, port), (f"{endpoint}-2", port)))
    reloading = manager.wait(RELOADING="1", after=ready + 1)
    stamp = int(manager.heard[reloading][1]["MONOTONIC_USEC"])
    assert 0 <= time.monotonic_ns() / 1000 - stamp < 60e6
    again = manager.wait(READY="1", after=reloading)
    manager.wait(STATUS="2 of 2 listeners connected", after=again)
    agent.reload("listeners: []", msg="reload failed")
    failed = manager.wait(RELOADING="1", after=reloading + 1)
    assert "no listeners configured" in manager.heard[manager.wait(READY="1", after=failed)][1]["STATUS"]
    agent.signal(signal.SIGTERM)
    manager.wait(STOPPING="1", after=failed)
    agent.wait_gone(agent.pid)
    assert {pid for pid, _ in manager.heard} == {agent.pid}
    assert not any("WATCHDOG" in message for _, message in manager.heard)


def test_ready_though_the_server_is_away(agent_file, service, manager, endpoint):  # noqa: F811
    """A service manager that waited for the server would hold up what starts after the agent."""
    agent_file(("127.0.0.1", 1), listeners((endpoint, service().port)), environment={"NOTIFY_SOCKET": manager.name})
    manager.wait(READY="1", STATUS="0 of 1 listeners connected")


@pytest.mark.parametrize("pid, wanted", [(None, True), ("1", False)])
def test_watchdog(node, agent_file, service, manager, endpoint, pid, wanted):  # noqa: F811
    environment = {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "200000"}
    if pid:
        environment["WATCHDOG_PID"] = pid
    agent = agent_file(node.upstream, listeners((endpoint, service().port)), environment=environment)
    at = manager.wait(READY="1")
    if wanted:
        began = time.monotonic()
        for _ in range(5):
            at = manager.wait(WATCHDOG="1", after=at + 1)
        assert time.monotonic() - began < 2 * SLOW
        # A loop that stands still says nothing.
        os.kill(agent.pid, signal.SIGSTOP)
        time.sleep(0.1)
        count = len(manager.heard)
        time.sleep(0.5)
        assert len(manager.heard) == count
        os.kill(agent.pid, signal.SIGCONT)
        manager.wait(WATCHDOG="1", after=count)
    else:
        agent.reload()
        assert not any("WATCHDOG" in message for _, message in manager.heard)


def test_upgrade_names_the_new_main_process(node, agent_file, service, manager, endpoint):  # noqa: F811
    """The old process names the new one, which alone speaks from then on; its watchdog, too."""
    agent = agent_file(node.upstream, listeners((endpoint, service().port)),
                       environment={"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "200000"})
    at = manager.wait(READY="1")
    for _ in range(2):
        old = agent.upgrade()
        at = manager.wait(MAINPID=str(agent.pid), after=at)
        assert manager.heard[at][0] == old and manager.heard[at][1]["READY"] == "1"
        ready = manager.wait(READY="1", after=at + 1)
        assert manager.heard[ready][0] == agent.pid
        manager.wait(WATCHDOG="1", after=ready)
        agent.wait_gone(old)
        assert {pid for pid, _ in manager.heard[at + 1:]} == {agent.pid}
    assert not any("STOPPING" in message for _, message in manager.heard)
    agent.signal(signal.SIGTERM)
    assert manager.heard[manager.wait(STOPPING="1")][0] == agent.pid
    agent.wait_gone(agent.pid)


def test_failed_upgrade_is_told(node, agent_file, service, manager, endpoint):  # noqa: F811
    agent = agent_file(node.upstream, listeners((endpoint, service().port)), environment={"NOTIFY_SOCKET": manager.name})
    manager.wait(READY="1")
    agent.write("listeners: []\n")
    agent.signal(signal.SIGUSR2)
    line = agent.wait_line("upgrade failed")
    wanted = [message for _, message in manager.heard if line["err"] in message.get("STATUS", "")]
    assert wanted or manager.wait(STATUS=None, after=len(manager.heard))
    assert not any("MAINPID" in message for _, message in manager.heard)
    assert {pid for pid, _ in manager.heard} == {agent.pid}


def test_variables_are_not_left_in_the_environment(node, agent_file, service, manager, endpoint):  # noqa: F811
    """A new process gets them by the agent's own doing, and the note only once."""
    agent = agent_file(node.upstream, listeners((endpoint, service().port)),
                       environment={"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "9000000", "PIKO_TEST": "kept"})
    manager.wait(READY="1")
    for _ in range(2):
        agent.wait_gone(agent.upgrade())
        with open(f"/proc/{agent.pid}/environ", "rb") as file:
            names = [entry.split(b"=")[0].decode() for entry in file.read().split(b"\0") if entry]
        for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "PIKO_TEST", "PIKO_AGENT_HANDOVER"):
            assert names.count(name) == 1, names
        assert "WATCHDOG_PID" not in names
