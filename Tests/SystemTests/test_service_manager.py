"""What the server tells a service manager, the sockets that it takes from one, and workers that hang."""

import os
import signal
import socket
import time

import pytest

from agent_life import Notifications
from peer.http1 import request, wait_until
from programs import BIN, SLOW, Program, address_of
from test_reload import changed, command, configure


@pytest.fixture
def manager(tmp_path):
    one = Notifications(tmp_path / "notify", False)
    yield one
    one.close()


def test_a_life(new_node, manager, backend):
    node = new_node(config="proxy: {timeout: 30s}\n", environment={"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "400000"})
    ready = manager.wait(READY="1")
    manager.wait(WATCHDOG="1", after=ready)
    changed(node, "reload")
    reloading = manager.wait(RELOADING="1", after=ready)
    assert 0 <= time.monotonic_ns() / 1000 - int(manager.heard[reloading][1]["MONOTONIC_USEC"]) < 60e6
    again = manager.wait(READY="1", after=reloading)
    configure(node, "proxy: {timeout: soon}\n")
    node.expected_errors.append("not reloaded")
    assert command(node, "reload")[0] == 1
    failed = manager.wait(RELOADING="1", after=again)
    assert "proxy.timeout" in manager.heard[manager.wait(READY="1", after=failed)][1]["STATUS"]
    configure(node, "proxy: {timeout: 30s}\n")
    # The program changes, the main process stays, and it goes on to say that it is well.
    mark = len(manager.heard)
    changed(node, "upgrade")
    upgraded = manager.wait(READY="1", after=mark)
    manager.wait(WATCHDOG="1", after=upgraded)
    node.send_signal(signal.SIGTERM)
    manager.wait(STOPPING="1", after=upgraded)
    assert node.wait(20 * SLOW) == 0
    assert {pid for pid, _ in manager.heard} == {node.pid}


def test_sockets_of_a_service_manager(tunnel, host, tmp_path, backend, transport):
    if transport == "direct":
        pytest.skip("the same for both transports")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]

    control = tmp_path / "control.sock"
    # LISTEN_PID is the process that the shell becomes.
    line = ('LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=upstream:proxy exec "$@" 3<&%d 4<&%d'
            % (sockets[0].fileno(), sockets[1].fileno()))
    for one in sockets:
        one.set_inheritable(True)
    own = Program(["/bin/bash", "-c", line, "bash", BIN / "piko", "server", "--io-backend", backend, "--server.control-socket", control,
                   "--proxy.bind-addr", "127.0.0.1:9", "--admin.bind-addr", "127.0.0.1:0", "--cluster.gossip.bind-addr", "127.0.0.1:0"], name="server",
                  inherits=[one.fileno() for one in sockets])
    own.control_socket = control
    try:
        ready = own.wait_log("server ready")
        assert address_of(ready["upstream_addr"]) == sockets[0].getsockname()
        assert address_of(ready["proxy_addr"]) == sockets[1].getsockname()
        own.upstream = address_of(ready["upstream_addr"])
        tunnel(own)
        proxy = address_of(ready["proxy_addr"])
        assert request(proxy, host=host).status == 200
        changed(own, "upgrade")
        assert request(proxy, host=host).status == 200
        changed(own, "reload")
        assert request(proxy, host=host).status == 200
    finally:
        assert own.stop() == 0
        for one in sockets:
            one.close()


def test_a_worker_that_hangs_is_replaced(new_node, real_agent, service, endpoint, host, transport):
    if transport == "mux":
        pytest.skip("the same for both transports")
    node = new_node()
    node.expected_errors.append("worker does not answer")
    real_agent(node.upstream, "http", endpoint, service().port)
    hung = node.workers()[0]
    os.kill(hung, signal.SIGSTOP)
    line = node.wait_log("worker does not answer", timeout=40)
    assert line["pid"] == hung and line["process_state"] == "T"
    wait_until(lambda: len(node.workers()) == 2 and hung not in node.workers(), 20 * SLOW, what="another worker")
    wait_until(lambda: request(node.proxy, host=host).status == 200, 20 * SLOW, what="an answer")
