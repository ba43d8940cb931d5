"""Checks monitoring/ and docs/metrics.md against a live cluster with an agent.

    check_monitoring.py [--write-docs] [--prometheus]

Each line that it prints is something wrong; status 1 then. --write-docs writes the tables of docs/metrics.md instead of checking them.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "monitoring"
sys.path.insert(0, str(MONITORING))
import dashboards  # noqa: E402
import live  # noqa: E402
import metrics_page  # noqa: E402
import promql  # noqa: E402
from rig import Rig  # noqa: E402

# What Prometheus adds to every series, and what it makes itself.
TARGET_LABELS = {"instance", "job"}
OF_PROMETHEUS = {"up": [{}]}

# Names and labels that dashboards and alerts of Piko v0.9 use; what its Go runtime says of itself (go_…) has no counterpart here.
SIZES = ("piko_proxy_request_size_bytes", "piko_proxy_response_size_bytes")
OF_PIKO = {
    "piko_proxy_requests_in_flight": (), "piko_proxy_requests_total": ("status", "method"),
    **{f"piko_proxy_request_latency_seconds_{part}": ("status", "method") for part in ("bucket", "sum", "count")},
    **{f"{name}_{part}": () for name in SIZES for part in ("bucket", "sum", "count")},
    "piko_upstreams_connected_upstreams": (), "piko_upstreams_registered_endpoints": (), "piko_upstreams_upstream_requests_total": (),
    "piko_upstreams_remote_requests_total": ("node_id",), "piko_cluster_nodes": ("status",), "piko_gossip_entries": ("node_id", "deleted", "internal"),
    **{f"piko_gossip_{what}_{way}_total": () for what in ("connections", "stream_bytes", "packet_bytes", "digest_entries", "delta_entries")
       for way in ("inbound", "outbound")},
    "piko_agent_requests_in_flight": ("endpoint",), "piko_agent_requests_total": ("status", "method", "endpoint"),
    **{f"piko_agent_request_latency_seconds_{part}": ("status", "method", "endpoint") for part in ("bucket", "sum", "count")},
    **{f"piko_agent_{way}_size_bytes_{part}": ("endpoint",) for way in ("request", "response") for part in ("bucket", "sum", "count")},
}


def promtool(*arguments, input=None):
    """What it says when it is not content."""
    done = subprocess.run(["promtool", *map(str, arguments)], input=input, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip() if done.returncode != 0 else ""


# ---- Expressions ----

def matches(operator, pattern, value):
    found = re.fullmatch(pattern, value) is not None if "~" in operator else pattern == value
    return found != operator.startswith("!")


def check_names(text, series):
    """What an expression names that no series has."""
    try:
        uses, grouped = promql.names(text)
    except promql.Unreadable as error:
        yield f"{error} in {text}"
        return
    known = set(TARGET_LABELS)
    for use in uses:
        lines = series.get(use.metric)
        if not lines:
            yield f"no metric {use.metric} on a live server"
            continue
        labels = set().union(*lines) | TARGET_LABELS
        known |= labels
        for label, operator, value in use.matchers:
            if label not in labels:
                yield f"{use.metric} has no label {label}"
            elif label not in TARGET_LABELS and "$" not in value and not any(matches(operator, value, line.get(label, "")) for line in lines):
                yield f'no series of {use.metric} has {label}{operator}"{value}"'
    for label in grouped - known:
        yield f"label {label} is of none of the metrics in {text}"


def without_variables(expression):
    return re.sub(r"\$(\{\w+\}|\w+)", "x", expression.replace("$__rate_interval", "5m"))


# ---- Dashboards ----

def read_dashboards():
    """({path: dashboard}, what is wrong)."""
    read, wrong = {}, []
    for path in sorted(MONITORING.glob("dashboards/*.json")):
        try:
            read[path] = json.loads(path.read_text())
        except ValueError as error:
            wrong.append(f"{path.relative_to(ROOT)}: no JSON: {error}")
    return read, wrong


def queries(read):
    """(where, PromQL) of every target."""
    for path, one in read.items():
        for panel in one["panels"]:
            for target in panel.get("targets", []):
                yield f"{path.relative_to(ROOT)}: panel {panel['title']!r}", target.get("expr", "")


def check_dashboard(one, series):
    """(where, what is wrong)."""
    panels = one["panels"]
    for number in sorted({panel["id"] for panel in panels if [other["id"] for other in panels].count(panel["id"]) > 1}):
        yield "dashboard", f"more than one panel has the id {number}"
    taken = {}
    names = {variable["name"] for variable in one["templating"]["list"]} | {"__rate_interval"}
    for variable in one["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
            for wrong in check_names(f"sum by ({label}) ({metric})", series):
                yield f"variable {variable['name']}", wrong
    for panel in panels:
        where, at = f"panel {panel['title']!r}", panel["gridPos"]
        if at["x"] < 0 or at["y"] < 0 or at["w"] < 1 or at["h"] < 1 or at["x"] + at["w"] > 24:
            yield where, f"is not within the 24 columns: {at}"
        for cell in [(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]:
            if taken.setdefault(cell, where) != where:
                yield where, f"overlaps {taken[cell]}"
                break
        if panel["type"] == "row":
            continue
        if not panel.get("description"):
            yield where, "has no description"
        if not panel.get("targets"):
            yield where, "has no target"
        ids = [target["refId"] for target in panel["targets"]]
        if len(set(ids)) < len(ids):
            yield where, "has targets with the same refId"
        for target in panel["targets"]:
            expression = target.get("expr", "")
            if not expression:
                yield where, f"target {target['refId']} has no expr"
            for name in set(re.findall(r"\$\{?(\w+)", expression)) - names:
                yield where, f"${name} is no variable of the dashboard"
            for wrong in check_names(expression, series):
                yield where, wrong
            try:
                _, grouped = promql.names(expression)
            except promql.Unreadable:
                continue
            for label in set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) - grouped - TARGET_LABELS:
                yield where, f"the legend has the label {label}, by which nothing is grouped"


def check_syntax(folder, read):
    """Lets promtool read every expression of the dashboards, as rules of a file."""
    places = [(where, expression) for where, expression in queries(read) if expression]
    rules = [{"record": f"place:{index}", "expr": without_variables(expression)} for index, (_, expression) in enumerate(places)]
    file = folder / "expressions.yaml"
    file.write_text(json.dumps({"groups": [{"name": "expressions", "rules": rules}]}))       # JSON is YAML
    said = promtool("check", "rules", file)
    for index, complaint in re.findall(r'"place:(\d+)": (.*)', said):
        yield f"{places[int(index)][0]}: {complaint} in {places[int(index)][1]}"
    if said and '"place:' not in said:
        yield f"promtool check rules, of the dashboards' expressions: {said}"


# ---- Alerts ----

def headings(path):
    """The anchors of a document, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def rules(text):
    """[(alert, expr, text of the rule)]: of our own file, whose form is checked by promtool; folded expressions are joined."""
    for part in re.split(r"^ {6}- alert: ", text, flags=re.M)[1:]:
        expression = re.search(r"^ {8}expr: (?:>-\n((?: {10}.*\n)+)|(.*)\n)", part, re.M)
        yield part.split("\n")[0], " ".join((expression[1] or expression[2]).split()), part


def check_alerts(series):
    text = (MONITORING / "alerts.yaml").read_text()
    tests = (MONITORING / "tests.yaml").read_text()
    tested = set(re.findall(r"alertname: (\w+)", tests))
    names = []
    for name, expression, part in rules(text):
        names.append(name)
        for wrong in check_names(expression, series):
            yield name, wrong
        for key in ("severity: (critical|warning|info)", 'summary: "', 'description: "', 'action: "'):
            if not re.search(key, part):
                yield name, f"has no {key}"
        document, anchor = (re.findall(r'document: "([^"#]*)#([^"]*)"', part) or [("", "")])[0]
        if not (ROOT / document).is_file() or anchor not in headings(ROOT / document):
            yield name, f"there is no document {document}#{anchor}"
        _, grouped = promql.names(expression)
        used = set(re.findall(r"\$labels\.(\w+)", part))
        if grouped and used - grouped:
            yield name, f"its texts have labels that it does not group by: {', '.join(sorted(used - grouped))}"
    if len(names) < text.count("- alert:") or len(names) != len(set(names)):
        yield "all", "alerts that are not read, or that have the same name"
    for name in tested - set(names):
        yield name, "is tested and does not exist"


# ---- All of it ----

def findings(folder, write_docs, with_prometheus):
    for path in dashboards.stale():
        yield f"{path.relative_to(ROOT)}: is not what monitoring/dashboards.py writes"
    for arguments in (("check", "rules", MONITORING / "alerts.yaml"), ("test", "rules", MONITORING / "tests.yaml"),
                      ("check", "config", MONITORING / "prometheus.yaml")):
        said = promtool(*arguments)
        if said:
            yield f"promtool {arguments[0]} {arguments[1]} {arguments[2].relative_to(ROOT)}: {said}"
    read, unread = read_dashboards()
    yield from unread
    yield from check_syntax(folder, read)

    with Rig(folder) as rig:
        if with_prometheus:
            yield from live.check(rig, folder, queries(read))
        scrapes = rig.scrapes()
    series = promql.scrape("\n".join(scrapes.values()))
    for what, text in scrapes.items():
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
        if done.returncode != 0 or done.stdout or done.stderr:
            yield f"/metrics of {what}: promtool check metrics: {(done.stdout + done.stderr).strip()}"
    for name, labels in OF_PIKO.items():
        found = set().union(*series.get(name, []))
        if name not in series:
            yield f"/metrics: {name} of Piko's own dashboards is missing"
        elif set(labels) - found:
            yield f"/metrics: {name} has not the labels that Piko's has: {', '.join(sorted(set(labels) - found))}"
    series.update(OF_PROMETHEUS)
    for path, one in read.items():
        for where, wrong in check_dashboard(one, series):
            yield f"{path.relative_to(ROOT)}: {where}: {wrong}"
    for where, wrong in check_alerts(series):
        yield f"monitoring/alerts.yaml: {where}: {wrong}"

    old = metrics_page.PAGE.read_text()
    new = metrics_page.page(old, scrapes)
    if write_docs:
        metrics_page.PAGE.write_text(new)
    elif old != new:
        lines = set(new.splitlines()) ^ set(old.splitlines())
        yield "docs/metrics.md: is out of date; script/check-monitoring --write-docs writes it:\n" + "\n".join(sorted(lines)[:10])


def main():
    parser = argparse.ArgumentParser(prog="script/check-monitoring", description="Checks monitoring/ and docs/metrics.md against a live server.")
    parser.add_argument("--write-docs", action="store_true", help="write the tables of docs/metrics.md")
    parser.add_argument("--prometheus", action="store_true", help="let a real Prometheus answer every query and judge every alert, which takes half a minute")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="piko-monitoring-") as folder:
        found = list(findings(Path(folder), options.write_docs, options.prometheus))
    for one in found:
        print(one)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
