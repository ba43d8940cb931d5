"""Lets a real Prometheus scrape the cluster for some seconds, with our alerts, and asks it every query of the dashboards: each must have an
answer, and every rule must be well.
"""

import json
import socket
import subprocess
import time
import urllib.parse
from pathlib import Path

from rig import get, wait_until

ALERTS = Path(__file__).resolve().parents[2] / "monitoring" / "alerts.yaml"
SECONDS = 12


def check(rig, folder, queries):
    """What is wrong, as it is found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    servers = ["%s:%d" % node.admin for node in rig.nodes]
    (folder / "prometheus.yaml").write_text(json.dumps({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [str(ALERTS)],
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": targets}]}
                           for job, targets in (("piko", servers), ("piko-agent", [rig.agent_metrics]))]}))
    with open(folder / "prometheus.log", "w") as log:
        prometheus = subprocess.Popen(["prometheus", f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}",
                                       f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        def ask(path, **parameters):
            status, body = get(f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
            answer = json.loads(body)
            return answer["data"] if answer["status"] == "success" else f"{status} {answer.get('error')}"

        def is_there():
            try:
                return [target["health"] for target in ask("targets")["activeTargets"]] == ["up"] * 3
            except (OSError, ValueError):            # not yet, or a 503 without JSON
                return False
        wait_until(is_there, 30, lambda: (folder / "prometheus.log").read_text())
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            rig.traffic()
            time.sleep(0.2)
        for where, query in queries:
            expression = query.replace("$__rate_interval", "10s").replace("$instance", ".*").replace("$endpoint", ".*")
            answer = ask("query", query=expression)
            if isinstance(answer, str):
                yield f"{where}: Prometheus refuses {query}: {answer}"
            elif not answer["result"]:
                yield f"{where}: Prometheus has no answer to {query}"
        for group in ask("rules")["groups"]:
            for rule in group["rules"]:
                if rule["health"] != "ok":
                    yield f"monitoring/alerts.yaml: {rule['name']}: {rule['health']}: {rule.get('lastError')}"
                elif rule["state"] == "firing":
                    yield f"monitoring/alerts.yaml: {rule['name']} fires at a cluster that is well: {[alert['labels'] for alert in rule['alerts']]}"
    finally:
        prometheus.kill()
        prometheus.wait()
