"""Fixtures: a node per backend, tunnels by the Python agent, services, the real agent and forward.

Most tests share one node a backend (`node`) and keep apart by their endpoint's name (`endpoint`); what ends or starves
processes takes a node of its own (`new_node`). Each test is followed by checks: the peers saw no breach of the protocol, the
node's descriptors are back where they were, its log holds no unexpected error.
"""

import asyncio
import itertools
import os

import pytest

import programs
from clusters import Clusters
from peer import agent as agents
from peer import http1
from peer.background import Background
from peer.direct import TcpStream
from peer.http1 import wait_until
from peer.server import Server
from programs import BIN, Node, Program

BACKENDS = os.environ.get("PIKO_BACKENDS", "io_uring,epoll").split(",")
TRANSPORTS = os.environ.get("PIKO_TRANSPORTS", "mux,direct").split(",")
numbers = itertools.count(1)
ABOVE_THE_LOOP = {
    "test_access", "test_admin", "test_auth", "test_cluster_membership", "test_cluster_rolling", "test_cluster_security", "test_config",
    "test_connect_proxy", "test_diagnose", "test_differential", "test_edge", "test_logs", "test_quotas", "test_status", "test_tenants", "test_ui_files",
}


def pytest_collection_modifyitems(items):
    if not programs.SOAK:
        skip = pytest.mark.skip(reason="long: runs in script/soak")
        for item in items:
            if "soak" in item.keywords:
                item.add_marker(skip)
        # What these are about lies above the loop, and asks the same of either backend.
        if "PIKO_BACKENDS" not in os.environ:
            above = pytest.mark.skip(reason="above the loop: epoll runs in script/soak")
            for item in items:
                values = getattr(item, "callspec", None) and item.callspec.params or {}
                if values.get("backend") == "epoll" and item.path.stem in ABOVE_THE_LOOP:
                    item.add_marker(above)
        # Three of the four pairs: epoll carries the same code as io_uring above the loop, and direct has a session beside it.
        if "PIKO_BACKENDS" not in os.environ and "PIKO_TRANSPORTS" not in os.environ:
            pair = pytest.mark.skip(reason="epoll with mux alone: runs in script/soak")
            for item in items:
                values = getattr(item, "callspec", None) and item.callspec.params or {}
                if values.get("backend") == "epoll" and values.get("transport") == "mux":
                    item.add_marker(pair)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        for program in list(Program.living):
            report.sections.append((f"log of {program.name}", program.tail(int(os.environ.get("PIKO_LOG_TAIL", 30)))))


@pytest.fixture(scope="session")
def peers():
    background = Background()
    yield background
    background.stop()


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(scope="session")
def shared_node(backend):
    node = Node(backend, workers=2, arguments=["--log.level", "debug"])
    # Whole: the workers' sockets to each other come a moment after "server ready", and are none that a test left.
    wait_until(lambda: len({len(programs.descriptors(pid)) for pid in node.workers()}) == 1, 10 * programs.SLOW, node.tail)
    yield node
    assert node.stop() == 0
    node.check_log()


@pytest.fixture
def node(shared_node):
    """The shared node, whose descriptors must be back where they were after the test (and after the test's own peers:
    this fixture is set up before and torn down after them)."""
    before = shared_node.descriptor_counts()
    mark = shared_node.mark()
    yield shared_node
    assert shared_node.process.poll() is None, shared_node.tail()
    shared_node.assert_descriptors_return_to(before)
    for line in shared_node.logged(after=mark):
        assert line["level"] != "error" or "request" in line["msg"], f"the node logged an error: {line}"


@pytest.fixture
def new_node(backend):
    """A factory of nodes that belong to the test."""
    nodes = []

    def make(**options):
        options.setdefault("backend", backend)
        node = Node(**options)
        nodes.append(node)
        return node
    yield make
    for node in nodes:
        if node.process.poll() is None:
            assert node.stop() == 0, node.tail()
        else:
            node._finish()
        node.check_log()


@pytest.fixture
def clusters(new_node):
    """A factory of clusters and of single nodes that join them."""
    return Clusters(new_node)


@pytest.fixture
def endpoint():
    return f"e{next(numbers)}-{os.getpid()}"


@pytest.fixture
def host(endpoint):
    return f"{endpoint}.example.com"


@pytest.fixture(params=TRANSPORTS)
def transport(request):
    """How streams travel. What uses a tunnel or one of our agents runs once for each."""
    return request.param


@pytest.fixture
def tunnel(peers, endpoint, transport):
    """A factory: the Python agent on a node, for the test's endpoint unless another is named."""
    open_agents = []

    def make(node, handler=None, name=None, judged=True, **options):
        if transport == "direct" and options:
            pytest.skip("about the session only")
        options["transport"] = transport
        handler = handler if handler is not None else agents.Recorder()
        agent = peers.call(agents.Agent.connect(node.upstream, name or endpoint, handler, **options))
        open_agents.append((agent, judged))
        return agent
    yield make
    for agent, judged in open_agents:
        peers.call(agent.close())
        if judged:
            assert agent.violations == [], agent.violations
            assert agent.failures == [], agent.failures
            assert getattr(agent.handler, "bad", []) == []


class Service:
    """A TCP service on loopback whose connections are given to a handler."""

    def __init__(self, handler, port=0):
        self.handler, self.port = handler, port
        self.connections = 0
        self.open = set()
        self.failures = []

    async def start(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 20)
        self.address = self.server.sockets[0].getsockname()
        self.port = self.address[1]
        return self

    async def _serve(self, reader, writer):
        self.connections += 1
        self.open.add(writer)
        try:
            await self.handler(TcpStream(reader, writer))
        except (EOFError, OSError):      # ENOTCONN too: FIN on a connection that was reset
            pass
        except Exception as error:
            self.failures.append(error)
        finally:
            self.open.discard(writer)
            writer.close()

    async def stop(self):
        self.server.close()
        for writer in list(self.open):
            writer.transport.abort()


@pytest.fixture
def service(peers):
    services = []

    def make(handler=None, port=0):
        service = peers.call(Service(handler if handler is not None else agents.Recorder(), port).start())
        services.append(service)
        return service
    yield make
    for service in services:
        peers.call(service.stop())
        assert service.failures == [], service.failures


@pytest.fixture
def python_server(peers):
    servers = []

    def make(upstream_port=0, proxy_port=0, **options):
        async def start():
            return await Server(**options).start(upstream_port, proxy_port)
        server = peers.call(start())
        servers.append(server)
        return server
    yield make
    for server in servers:
        peers.call(server.stop())
        assert server.violations == [], server.violations


@pytest.fixture
def program():
    """A factory of any other of our programs; ended with SIGTERM after the test, when it must exit with 0."""
    started = []

    def make(*arguments, **options):
        one = Program([BIN / "piko", *arguments], name=f"piko {arguments[0]}", **options)
        started.append(one)
        return one
    yield make
    for one in reversed(started):
        if one.process.poll() is None:
            assert one.stop() == 0, one.tail()
        else:
            one._finish()


@pytest.fixture
def real_agent(program, backend, transport):
    """A factory: `piko agent http|tcp ENDPOINT ADDR` connected to a node (or to the Python server)."""
    def make(upstream, kind, endpoint, address, *arguments, wait=True, **options):
        url = upstream if isinstance(upstream, str) else f"http://{upstream[0]}:{upstream[1]}"
        # Against a server that does not know the direct transport, auto falls back to mux.
        one = program("agent", kind, endpoint, address, "--connect.url", url, "--io-backend", backend,
                      "--connect.transport", "auto" if transport == "direct" else "mux", *arguments, **options)
        if wait:
            one.wait_log("connected", **{"endpoint-id": endpoint})
        return one
    return make


@pytest.fixture
def real_forward(program, backend, transport):
    """A factory: `piko forward tcp 127.0.0.1:0 ENDPOINT`; its `address` is read from the log."""
    def make(proxy, endpoint, *arguments, **options):
        one = program("forward", "tcp", "127.0.0.1:0", endpoint, "--connect.url", f"http://{proxy[0]}:{proxy[1]}",
                      "--io-backend", backend, "--connect.transport", "auto" if transport == "direct" else "mux",
                      *arguments, **options)
        one.address = programs.address_of(one.wait_log("listening")["addr"])
        return one
    return make


def connection(node, **options):
    return http1.Connection(node.proxy, **options)
