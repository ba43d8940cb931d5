"""The admin port's page in a browser, against a live cluster with traffic: what it shows, how it is reached by keys, that it keeps to
its policy. What a browser is not needed for is in Tests/SystemTests/test_ui_files.py."""

import asyncio
import base64
import io
import json
import signal
import threading
import time
import urllib.parse
from pathlib import Path

import jwt
import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from conftest import ENDPOINTS, page_of
from peer import agent as agents
from peer import http1
from peer.http1 import response

SECRET = "a-secret-of-the-page's-test-that-is-long-enough"


def figure(text):
    """1,234.5 → 1234.5; none where there is none."""
    return float(text.split(" ")[0].replace(",", "")) if text not in ("–", "") else None


@pytest.fixture
def page(browser, cluster):
    """The page of a node of the cluster, with rates."""
    browser.get(page_of(cluster[0]))
    browser.wait(lambda: (figure(browser.text("#tile-requests .figure")) or 0) > 0, "requests a second")
    return browser


def test_cluster_at_a_glance(page, cluster):
    assert page.current_url.endswith("/ui/")
    page.wait(lambda: page.text("#state") == "All 3 nodes answer", "three nodes")
    assert page.text("#tile-nodes .figure") == "3 / 3"
    page.wait(lambda: page.text("#tile-endpoints .figure") == str(len(ENDPOINTS) + 1), "all endpoints")
    assert page.text("#tile-tunnels .figure") == str(2 * len(ENDPOINTS) + 1)
    nodes = {row["Node"]: row for row in page.rows("nodes")}
    assert nodes.keys() == {"n1", "n2", "n3"}
    page.wait(lambda: all((figure(row["Requests/s"]) or 0) > 0 for row in page.rows("nodes")), "requests at each node")
    for row in nodes.values():
        assert row["Status"] == "serving" and row["Version"] and figure(row["Memory"]) > 0 and row["Generation"] == "1", row
    page.wait(lambda: "ms" in page.text("#tile-latency .figure"), "a latency")
    page.wait(lambda: figure(page.text("#tile-to-clients .figure")) > 0, "bytes")
    page.wait(lambda: figure(page.text("#tile-errors .figure")) > 0, "errors")
    # A chart is a picture with a text that says what it shows.
    labels = page.execute_script("return [...document.querySelectorAll('#charts svg')].map((one) => one.getAttribute('aria-label'))")
    assert len(labels) == 4 and labels[0].startswith("Requests a second: all now ") and "p99 now" in labels[2], labels
    assert all("M" in path for path in page.execute_script("return [...document.querySelectorAll('#charts path')].map((one) => one.getAttribute('d'))"))
    assert page.text("#problems") == ""


def test_endpoints_are_shown_sorted_and_searched(page):
    def row(name):
        return next((one for one in page.rows("endpoints") if one["Endpoint"] == name), None)
    page.wait(lambda: all(row(name) and figure(row(name)["Requests/s"]) > 0 for name in ENDPOINTS), "each endpoint's requests")
    one = row("billing")
    assert one["Tunnels"] == "2" and one["Nodes"] == "n1, n2" and figure(one["Requests"]) > 0
    page.wait(lambda: figure(row("billing")["Mean latency"]), "a mean latency")
    page.wait(lambda: figure(row("legacy-crm")["Errors/s"]) > 0, "errors of the endpoint without a service")
    search = page.find_element(By.ID, "endpoint-search")
    search.send_keys("  BILL")
    page.wait(lambda: [one["Endpoint"] for one in page.rows("endpoints")] == ["billing"], "only what is called so")
    assert page.text("#endpoints .count") == f"1 of {len(ENDPOINTS) + 1}"
    search.send_keys("nobody")
    page.wait(lambda: page.text("#endpoints tbody") == "Nothing is called so.", "nothing")
    search.send_keys(Keys.CONTROL, "a")
    search.send_keys(Keys.BACKSPACE)
    page.wait(lambda: len(page.rows("endpoints")) == len(ENDPOINTS) + 1, "all again")
    header = page.find_element(By.CSS_SELECTOR, "#endpoints thead th:first-child button")
    header.click()
    names = [one["Endpoint"] for one in page.rows("endpoints")]
    assert page.execute_script("return arguments[0].parentNode.getAttribute('aria-sort')", header) == "ascending"
    header.click()
    assert [one["Endpoint"] for one in page.rows("endpoints")] == names[::-1] and names != names[::-1]
    tunnels = page.rows("tunnels")
    assert len(tunnels) == 2 * len(ENDPOINTS) + 1 and {one["Node"] for one in tunnels} == {"n1", "n2", "n3"}
    assert {one["Transport"] for one in tunnels} == {"direct"} and all(one["Agent's address"].startswith("127.0.0.1") for one in tunnels)


def test_names_are_text(browser, new_node, peers):
    """Endpoints and programs are called as their agents like; on the page that is text. An endpoint's name has no space in it."""
    endpoint, program = "<plaintext><img>&lt;b", "<img src=x onerror=document.title='owned'>"
    node = new_node()
    path = urllib.parse.quote(endpoint, safe="")
    tunnel = peers.call(agents.Agent.connect(node.upstream, path, agents.Recorder(), headers=[("User-Agent", program)]))
    browser.get(page_of(node))
    http1.request(node.proxy, host="x", headers=[("x-piko-endpoint", endpoint)])
    browser.wait(lambda: [(row["Endpoint"], row["Requests"]) for row in browser.rows("endpoints")] == [(endpoint, "1")], "the endpoint")
    browser.wait(lambda: [(row["Endpoint"], row["Program"]) for row in browser.rows("tunnels")] == [(endpoint, program)], "its tunnel")
    assert browser.execute_script("return document.querySelectorAll('#content img, plaintext').length") == 0
    assert browser.title.startswith("Piko")
    peers.call(tunnel.close())


def test_nothing_comes_from_elsewhere(page, cluster):
    origin = "http://%s:%d/" % cluster[0].admin
    names = page.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert len(names) > 10 and all(name.startswith(origin) for name in names)
    # What a hole in the page would need is refused by the policy.
    page.execute_script("const bad = document.createElement('img'); bad.src = 'http://127.0.0.1:1/'; document.body.append(bad);"
                        "const worse = document.createElement('script'); worse.textContent = 'document.title = \"owned\"'; document.body.append(worse);")
    assert page.title.startswith("Piko")
    page.wait(lambda: sum("Content Security Policy" in line for line in page.complaints()) >= 1, "the policy's refusal")
    page.expected = ["Content Security Policy"]


def test_keys_reach_everything(page):
    """Tab goes through the page in its order; what has the focus has a name, and the tables' regions can be scrolled by keys."""
    page.execute_script("""
        window.reached = [];
        document.addEventListener("focusin", ({ target: one }) => {
            const name = one.getAttribute("aria-label") || one.textContent.trim() || document.getElementById(one.getAttribute("aria-labelledby"))?.textContent
                || one.labels?.[0]?.textContent || "";
            window.reached.push([one.id || one.getAttribute("aria-labelledby") || one.className || one.textContent, name.slice(0, 40), one.matches(":focus-visible")]);
        });""")
    ActionChains(page).send_keys(Keys.TAB * 60).perform()
    reached = page.execute_script("return window.reached")
    order = [key for key, _, _ in reached]
    wanted = ["skip", "Glance", "Nodes", "pause", "nodes-title", "endpoint-search", "endpoints-title", "tunnel-search", "tunnels-title", "workers-title"]
    places = [order.index(key) for key in wanted]
    assert places == sorted(places), order
    assert all(name and is_visible for _, name, is_visible in reached), [one for one in reached if not one[1] or not one[2]]
    # By key: sort, and pause.
    button = page.find_element(By.CSS_SELECTOR, "#nodes thead th:nth-child(7) button")
    button.send_keys(Keys.ENTER)
    assert page.execute_script("return arguments[0].parentNode.getAttribute('aria-sort')", button) == "descending"
    pause = page.find_element(By.ID, "pause")
    pause.send_keys(Keys.SPACE)
    assert pause.get_attribute("aria-pressed") == "true" and page.text("#state") == "Paused"
    pause.send_keys(Keys.SPACE)
    page.wait(lambda: page.text("#state") == "All 3 nodes answer", "going on")


def test_is_said_to_screen_readers(page):
    """By the browser's own accessibility tree: landmarks, headings, tables with names, columns that say how they are sorted."""
    page.execute_cdp_cmd("Accessibility.enable", {})
    tree = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    page.execute_cdp_cmd("Accessibility.disable", {})
    roles = {}
    for one in tree:
        if not one.get("ignored"):
            roles.setdefault(one["role"]["value"], []).append(one.get("name", {}).get("value", ""))
    assert roles["main"] and roles["banner"] and roles["navigation"] == ["Sections"]
    assert roles["heading"][1:] == ["The cluster at a glance", "Nodes", "Endpoints", "Tunnels", "Workers"], roles["heading"]
    assert len(roles["table"]) == 4 and all(roles["table"]), roles["table"]
    assert len(roles["image"] if "image" in roles else roles["img"]) >= 4
    assert roles["searchbox"] == ["Search", "Search"] and "rowheader" in roles and "columnheader" in roles
    assert all(roles["button"]), roles["button"]


def luminance(colour):
    parts = [value / 255 for value in colour]
    return sum(weight * (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4) for weight, part in zip((0.2126, 0.7152, 0.0722), parts))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(page, scheme):
    """Text stands out from its ground as WCAG AA wants it: 4.5 to 1."""
    page.look(scheme)
    colours = page.execute_script("""
        const read = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
        const ground = (one) => { for (; one; one = one.parentElement) { const c = getComputedStyle(one).backgroundColor; if (!c.endsWith(", 0)")) return c; } };
        return [...document.querySelectorAll("#content *, header *")].filter((one) => one.offsetParent && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
            .map((one) => [one.textContent.slice(0, 30), read(getComputedStyle(one).color), read(ground(one))]);""")
    assert len(colours) > 100
    for text, ink, ground in colours:
        lighter, darker = sorted((luminance(ink), luminance(ground)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (text, ink, ground)
    assert (luminance(colours[0][2]) < 0.1) == (scheme == "dark")


def test_narrow_window(page):
    page.set_window_size(500, 900)
    try:
        page.wait(lambda: page.execute_script("return document.documentElement.scrollWidth <= innerWidth"), "no scrolling to the side")
    finally:
        page.set_window_size(1440, 1000)


def test_screenshots(page, cluster, pytestconfig):
    folder = pytestconfig.getoption("--screenshots")
    if not folder:
        pytest.skip("without --screenshots")
    # Charts that have something to show.
    points = "return (document.querySelector('#charts path').getAttribute('d').match(/L/g) ?? []).length"
    page.wait(lambda: page.execute_script(points) > 70, "two minutes of figures", 240)
    height = page.execute_script("return document.getElementById('tunnels').getBoundingClientRect().top + scrollY - 8")
    for scheme in ("light", "dark"):
        page.look(scheme)
        take(page, Path(folder) / f"ui-{scheme}.png", 1440, height)


def take(page, path, width, height):
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": int(height), "deviceScaleFactor": 1, "mobile": False})
    data = page.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    path.parent.mkdir(parents=True, exist_ok=True)
    # 256 colours are enough for text and lines, in a third of the bytes.
    Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE).save(path, optimize=True)


def test_reload(page, cluster, pytestconfig):
    """During a reload both generations are there with their states; then the new one is, and no request was lost on the page's way."""
    node = cluster[1]

    def generations():
        return {(row["Generation"], row["State"]) for row in page.rows("workers") if row["Node"] == "n2"}
    assert generations() == {("1", "ready")}
    node.send_signal(signal.SIGHUP)
    seen = set()

    def is_over():
        seen.add(frozenset(generations()))
        return generations() == {("2", "ready")}
    page.wait(is_over, "generation 2")
    assert all(state in {("1", "ready"), ("1", "retiring"), ("1", "draining"), ("1", "drained"), ("1", "leaving"), ("1", "ended"), ("2", "starting"), ("2", "ready")}
               for one in seen for state in one), seen
    page.wait(lambda: page.text("#reloads") == "", "nothing left of the reload")
    row = next(one for one in page.rows("nodes") if one["Node"] == "n2")
    assert row["Generation"] == "2"
    page.wait(lambda: page.text("#state") == "All 3 nodes answer" and page.text("#problems") == "", "all well")


def test_both_generations(browser, new_node, peers, pytestconfig):
    """A request that runs holds the old generation; the page shows both, and says so."""
    release = threading.Event()

    async def respond(_):
        while not release.is_set():
            await asyncio.sleep(0.02)
        return response(body=b"late")
    node = new_node(arguments=["--cluster.node-id", "edge-1"])
    tunnel = peers.call(agents.Agent.connect(node.upstream, "slow", agents.Recorder(respond)))
    client = http1.Connection(node.proxy)
    client.send("GET / HTTP/1.1\r\nHost: slow.example.com\r\n\r\n")
    browser.get(page_of(node))
    browser.wait(lambda: browser.text("#tile-requests small").endswith(" 1 in flight"), "the request")
    node.send_signal(signal.SIGHUP)
    browser.wait(lambda: browser.text("#reloads") == "edge-1: generation 2 takes over from generation 1.", "both generations")
    folder = pytestconfig.getoption("--screenshots")
    if folder:
        browser.execute_script("for (const id of ['glance', 'nodes', 'endpoints']) document.getElementById(id).hidden = true")
        take(browser, Path(folder) / "ui-reload.png", 1440, browser.execute_script("return document.getElementById('workers').getBoundingClientRect().bottom + 20"))
    rows = browser.rows("workers")
    assert {row["Generation"] for row in rows} == {"1", "2"} and any(row["State"] in ("retiring", "draining") for row in rows), rows
    release.set()
    assert client.read_response().body == b"late"
    client.close()
    browser.wait(lambda: {row["Generation"] for row in browser.rows("workers")} == {"2"}, "generation 2 alone")
    peers.call(tunnel.close())


def test_many_endpoints(browser, new_node, peers):
    """A table shows 200 rows and says how many more there are; a search finds the others."""
    node = new_node()
    tunnels = [peers.call(agents.Agent.connect(node.upstream, f"device-{index}", agents.Recorder())) for index in range(230)]
    browser.get(page_of(node))
    browser.wait(lambda: browser.text("#endpoints .count") == "230; the first 200 are shown, 30 more are not", "200 of 230")
    assert len(browser.rows("endpoints")) == 200 and len(browser.rows("tunnels")) == 200
    browser.find_element(By.ID, "tunnel-search").send_keys("device-229")
    browser.wait(lambda: [row["Endpoint"] for row in browser.rows("tunnels")] == ["device-229"], "the last one")
    for tunnel in tunnels:
        peers.call(tunnel.close())


def test_node_that_dies(browser, new_node):
    """What does not answer is named; the others are still shown, and a node that is back is shown again."""
    first = new_node(arguments=["--cluster.node-id", "a"])
    second = new_node(arguments=["--cluster.node-id", "b", "--cluster.join", f"{first.gossip[0]}:{first.gossip[1]}"])
    browser.expected = ["status of 502", "status of 504"]
    browser.get(page_of(first))
    browser.wait(lambda: browser.text("#state") == "All 2 nodes answer", "both")
    second.kill()
    browser.wait(lambda: browser.text("#state") == "1 of 2 nodes answer", "one")
    assert browser.text("#problems").startswith("b is ")
    row = next(one for one in browser.rows("nodes") if one["Node"] == "b")
    assert row["Status"] in ("no answer", "unreachable") and row["Requests/s"] == "–"


def test_page_whose_node_dies(browser, new_node):
    node = new_node(arguments=["--cluster.node-id", "a"])
    browser.expected = ["ERR_CONNECTION", "ERR_EMPTY", "ERR_SOCKET"]
    browser.get(page_of(node))
    browser.wait(lambda: browser.text("#state") == "The node answers", "the node")
    node.kill()
    browser.wait(lambda: browser.text("#state") == "The admin port does not answer", "the end")
    assert "could not be asked: no connection" in browser.text("#problems")


def test_node_alone(browser, new_node):
    node = new_node()
    browser.get(page_of(node))
    browser.wait(lambda: browser.text("#state") == "The node answers", "the node")
    assert len(browser.rows("nodes")) == 1 and browser.text("#endpoints tbody") == "No agent has connected."


def test_token(browser, new_node):
    """With tokens on the admin port the page asks for one, says when it is refused, and sends it with every question."""
    node = new_node(arguments=["--admin.auth.hmac-secret-key", SECRET, "--cluster.node-id", "a"])
    new_node(arguments=["--admin.auth.hmac-secret-key", SECRET, "--cluster.node-id", "b", "--cluster.join", f"{node.gossip[0]}:{node.gossip[1]}"])
    browser.expected = ["status of 401"]
    browser.get(page_of(node))
    form = browser.find_element(By.ID, "sign-in")
    browser.wait(form.is_displayed, "the form")
    assert browser.execute_script("return document.activeElement.id") == "token" and browser.text("#state") == "Waiting for a token"
    assert not browser.find_element(By.ID, "content").is_displayed()
    field = browser.find_element(By.ID, "token")
    field.send_keys("not-a-token", Keys.ENTER)
    browser.wait(lambda: "refused the token" in browser.text("#refusal"), "the refusal")
    assert field.get_attribute("value") == ""
    field.send_keys(jwt.encode({"exp": int(time.time()) + 600}, SECRET, algorithm="HS256"), Keys.ENTER)
    browser.wait(lambda: browser.text("#state") == "All 2 nodes answer", "the page")
    assert browser.find_element(By.ID, "content").is_displayed() and not form.is_displayed()
    kept = browser.execute_script("return JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert json.loads(kept) == [{}, {}, ""]
    # It is kept in memory alone.
    browser.refresh()
    browser.wait(browser.find_element(By.ID, "sign-in").is_displayed, "the form again")
