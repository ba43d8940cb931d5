"""Fixtures of the page's tests: a cluster with agents and traffic, and a headless Chromium."""

import os
import random
import re
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "SystemTests"))

from clusters import Clusters                           # noqa: E402
from peer.background import Background                  # noqa: E402
from peer.http1 import Connection, wait_until          # noqa: E402
from programs import BIN, SLOW, Node, Program           # noqa: E402

ENDPOINTS = ["billing", "checkout", "grafana", "home-assistant", "search"]


def pytest_addoption(parser):
    parser.addoption("--screenshots", metavar="FOLDER", help="also make the pictures of the documents, in this folder")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        for program in list(Program.living):
            report.sections.append((f"log of {program.name}", program.tail(30)))


class Traffic:
    """Requests at a node's proxy port, some of which fail, until it is told to stop. Paced, so that the machine stays usable."""

    def __init__(self, nodes, names, seed):
        self.nodes, self.names, self.random = nodes, names, random.Random(seed)
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        open_connections = {}
        started = time.monotonic()
        while not self.is_over.is_set():
            node = self.random.choice(self.nodes)
            name = self.random.choice(self.names)
            target = self.random.choices(["/", f"/bytes/{self.random.randrange(1000, 60_000)}", "/echo", f"/slow/{self.random.randrange(5, 80)}"], (5, 3, 1, 1))[0]
            try:
                connection = open_connections.get(node) or Connection(node.proxy, timeout=20 * SLOW)
                open_connections[node] = connection
                body = self.random.randbytes(3000) if target == "/echo" else b""
                answer = connection.request("POST" if body else "GET", target, host="x", headers=[("x-piko-endpoint", name)], body=body)
                if "close" in answer.options():
                    open_connections.pop(node).close()
            except (OSError, EOFError):
                open_connections.pop(node, None)
            # A rate that rises and falls, as rates do.
            phase = (time.monotonic() - started) / 40 % 1
            self.is_over.wait(0.012 + 0.03 * abs(phase - 0.5) * self.random.random())
        for connection in open_connections.values():
            connection.close()

    def stop(self):
        self.is_over.set()
        self.thread.join()


@pytest.fixture(scope="session")
def peers():
    background = Background()
    yield background
    background.stop()


@pytest.fixture(scope="session")
def nodes():
    """Starts nodes; ends them when all is over."""
    started = []

    def make(**options):
        started.append(Node(**options))
        return started[-1]
    yield make
    for node in started:
        node._finish()


@pytest.fixture(scope="session")
def cluster(nodes):
    """Three nodes, agents at each of them, requests at each of them."""
    three = [Clusters(nodes).node(id="n1", workers=2)]
    more = Clusters(nodes)
    three += [more.node(join=three[:1], id=id, workers=2) for id in ("n2", "n3")]
    service = Program([BIN / "piko-demo-service", "--listen", "127.0.0.1:0"], name="service")
    address = wait_until(lambda: re.findall(r"127\.0\.0\.1:\d+", service.output), what="the service's port")[0]
    programs = [service]
    for index, name in enumerate(ENDPOINTS):
        for node in (three[index % 3], three[(index + 1) % 3]):
            programs.append(Program([BIN / "piko", "agent", "http", name, address, "--connect.url", node.upstream_url, "--access-log.disable"], name="agent"))
    # One whose service is not there: its requests fail.
    programs.append(Program([BIN / "piko", "agent", "http", "legacy-crm", "127.0.0.1:9", "--connect.url", three[2].upstream_url, "--access-log.disable"], name="agent"))
    for program in programs[1:]:
        program.wait_log("connected")
    traffic = [Traffic([node], ENDPOINTS * 12 + ["legacy-crm"], seed) for seed, node in enumerate(three)]
    yield three
    for one in traffic:
        one.stop()
    for program in reversed(programs):
        program._finish()


class Browser(webdriver.Chrome):
    """Chromium, without a window and without a way to anywhere but this machine."""

    def __init__(self):
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1440,1000", "--hide-scrollbars",
                     "--force-device-scale-factor=1", "--disable-background-networking", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"):
            options.add_argument(word)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        super().__init__(options=options, service=Service(shutil.which("chromedriver")))
        self.set_script_timeout(20 * SLOW)

    def look(self, scheme="light", motion="reduce"):
        """Which colours and how much motion its user is said to want."""
        self.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
            {"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": motion}]})

    def text(self, selector):
        """What is written in an element, shown or not; empty when there is none."""
        return self.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def rows(self, section):
        """The rows of a section's table: {column: text} of each."""
        return self.execute_script("""
            const table = document.querySelector(`#${arguments[0]} table`);
            const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
            return [...table.tBodies[0].rows].filter((row) => row.cells.length > 1).map((row) =>
                Object.fromEntries(names.map((name, index) => [name, row.cells[index].textContent])));""", section)

    def complaints(self):
        """What the console has said since the last time."""
        return [f"{entry['level']} {entry['message']}" for entry in self.get_log("browser")]

    def wait(self, condition, what, timeout=30):
        return wait_until(condition, timeout * SLOW, lambda: f"{what}; problems: {self.text('#problems')!r}, state {self.text('#state')!r}, "
                                                             f"console: {self.complaints()}")


@pytest.fixture(scope="session")
def chromium():
    os.environ["SE_OFFLINE"] = "true"
    browser = Browser()
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium):
    """The browser, whose console must have nothing to say after the test."""
    chromium.look()
    chromium.expected = []
    chromium.complaints()
    yield chromium
    said = [line for line in chromium.complaints() if not any(re.search(pattern, line) for pattern in chromium.expected)]
    chromium.get("about:blank")
    assert said == []


@pytest.fixture
def new_node():
    """A factory of nodes that belong to the test."""
    started = []

    def make(**options):
        started.append(Node(**options))
        return started[-1]
    yield make
    for node in started:
        node._finish()


def page_of(node):
    return f"http://{node.admin[0]}:{node.admin[1]}/ui"


__all__ = ["ENDPOINTS", "page_of"]
