"""Checks operations/helm/piko and operations/kubernetes: renders the chart with Helm's own library for each file of Tests/Helm/values and
judges what comes out.

    check_helm.py [--write]

Each line that it prints after "wrong:" is something wrong; status 1 then. --write rewrites golden renders and plain manifests instead of
comparing them. With PIKO_BIN in the environment the real program judges each server.yaml, and tries one.
"""

import argparse
import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
import helm_python as helm  # noqa: E402
import kubernetes_validate  # noqa: E402
import yaml  # noqa: E402
import key_stays  # noqa: E402
import server_file  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "Tests/Helm"
CHART = ROOT / "operations/helm/piko"
PLAIN = ROOT / "operations/kubernetes"
# The oldest and the newest version of Kubernetes that the manifests are held to; Chart.yaml names the oldest, too.
VERSIONS = ("1.25.16", "1.37.0")
# Kinds that Kubernetes itself does not have: their group, and what their spec must have.
FOREIGN = {"HTTPRoute": ("gateway.networking.k8s.io/v1", {"parentRefs", "hostnames", "rules"}),
           "TCPRoute": ("gateway.networking.k8s.io/v1alpha2", {"parentRefs", "rules"}),
           "ServiceMonitor": ("monitoring.coreos.com/v1", {"selector", "endpoints", "jobLabel"})}
wrong = []


def report(place, text):
    wrong.append(f"{place}: {text}")


def documents(text):
    return [one for one in yaml.safe_load_all(text) if one]


def with_image(values):
    """The values, and the image that every installation has to name."""
    return values | {"image": {"repository": "registry.example.com/piko"} | values.get("image", {})}


def render(chart, values, name="piko"):
    """All objects as one text, in the order of their files; the random key is replaced, or no two renders would be alike."""
    files = chart.render(values, name=name, namespace="piko")
    texts = []
    for path in sorted(files):
        if path.endswith("NOTES.txt"):
            continue
        for text in re.split(r"(?m)^---\s*$", files[path]):
            if text.strip():
                texts.append(f"---\n# Source: {path}\n{text.strip()}\n")
    return re.sub(r'gossip-key: "[A-Za-z0-9+/=]{64}"', "gossip-key: Z2VuZXJhdGVkIGF0IHRoZSBmaXJzdCBpbnN0YWxsYXRpb24=", "".join(texts))


# ---- What is asked of every render ----

def check_schema(place, objects):
    for one in objects:
        if one["kind"] in FOREIGN:
            version, keys = FOREIGN[one["kind"]]
            if one["apiVersion"] != version or set(one["spec"]) != keys:
                report(place, f'{one["kind"]} {one["metadata"]["name"]} is not as it should be')
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(one, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                report(place, f'{one["kind"]} {one["metadata"]["name"]} (Kubernetes {version}): {error.message}')


def names_of(objects, kind):
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def check_references(place, objects):
    """What one object says of another must be so: selectors, names of ports, services, accounts, volumes."""
    [stateful] = names_of(objects, "StatefulSet").values()
    pod = stateful["spec"]["template"]
    container = pod["spec"]["containers"][0]
    labels = pod["metadata"]["labels"].items()
    ports = {port["name"]: (port["containerPort"], port.get("protocol", "TCP")) for port in container["ports"]}
    services = names_of(objects, "Service")
    for name, service in services.items():
        if not service["spec"]["selector"].items() <= labels:
            report(place, f"service {name} selects something else")
        for port in service["spec"]["ports"]:
            if ports.get(port["targetPort"], (0, ""))[1] != port.get("protocol", "TCP"):
                report(place, f'service {name}: there is no port {port["targetPort"]}')
    headless = services.get(stateful["spec"]["serviceName"])
    if headless is None or headless["spec"]["clusterIP"] != "None" or not headless["spec"].get("publishNotReadyAddresses"):
        report(place, "serviceName names no headless service that has pods which are not ready")
    if {(port["port"], port.get("protocol", "TCP")) for port in headless["spec"]["ports"]} != set(ports.values()):
        report(place, "the headless service has not all ports")
    if not stateful["spec"]["selector"]["matchLabels"].items() <= labels:
        report(place, "the StatefulSet selects something else")
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        for name, one in names_of(objects, kind).items():
            selector = one["spec"].get("selector") or one["spec"].get("podSelector")
            if not selector["matchLabels"].items() <= labels:
                report(place, f"{kind} {name} selects something else")
    for name, scaler in names_of(objects, "HorizontalPodAutoscaler").items():
        if scaler["spec"]["scaleTargetRef"]["name"] != stateful["metadata"]["name"] or "replicas" in stateful["spec"]:
            report(place, f"autoscaler {name} and StatefulSet do not fit")
    for name, one in names_of(objects, "Ingress").items():
        for rule in one["spec"]["rules"]:
            backend = rule["http"]["paths"][0]["backend"]["service"]
            if backend["port"]["name"] not in [port["name"] for port in services.get(backend["name"], {"spec": {"ports": []}})["spec"]["ports"]]:
                report(place, f"Ingress {name} leads nowhere")
    for kind in ("HTTPRoute", "TCPRoute"):
        for name, one in names_of(objects, kind).items():
            backend = one["spec"]["rules"][0]["backendRefs"][0]
            if backend["port"] not in [port["port"] for port in services.get(backend["name"], {"spec": {"ports": []}})["spec"]["ports"]]:
                report(place, f"{kind} {name} leads nowhere")
    for name, one in names_of(objects, "ServiceMonitor").items():
        found = [other for other in services.values() if one["spec"]["selector"]["matchLabels"].items() <= other["metadata"]["labels"].items()]
        if len(found) != 1 or one["spec"]["endpoints"][0]["port"] not in [port["name"] for port in found[0]["spec"]["ports"]]:
            report(place, f"ServiceMonitor {name} does not find one service")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        handler = container[probe].get("httpGet") or container[probe].get("tcpSocket")
        if handler["port"] not in ports:
            report(place, f"{probe} asks a port that there is not")
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    if volumes != mounts:
        report(place, f"volumes and mounts differ: {sorted(volumes ^ mounts)}")
    if any("subPath" in mount for mount in container["volumeMounts"]):
        report(place, "a mount with subPath is never renewed")
    for one in objects:
        if len(one["metadata"]["name"]) > 63 or any(len(str(value)) > 63 for value in one["metadata"].get("labels", {}).values()):
            report(place, f'{one["kind"]}: a name or label is too long')


def check_server_file(place, objects):
    """server.yaml fits the pod: its ports, its files, its time."""
    [stateful] = names_of(objects, "StatefulSet").values()
    pod = stateful["spec"]["template"]["spec"]
    container = pod["containers"][0]
    text = names_of(objects, "ConfigMap")[stateful["metadata"]["name"]]["data"]["server.yaml"]
    config = yaml.safe_load(text)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    said = {port: config[port]["bind_addr"] for port in ("proxy", "upstream", "admin")} | {"gossip": config["cluster"]["gossip"]["bind_addr"]}
    for port, address in said.items():
        if address != f":{ports[port]}":
            report(place, f"server.yaml: {port} listens at {address}, the container at {ports[port]}")
    if config["cluster"]["join"] != [stateful["spec"]["serviceName"]]:
        report(place, "server.yaml joins something else than the headless service")
    folders = [mount["mountPath"] for mount in container["volumeMounts"]]
    for path in server_file.paths(config):
        if not any(path.startswith(folder + "/") for folder in folders):
            report(place, f"server.yaml: nothing is mounted where {path} is")
    seconds = sum(int(config[key].removesuffix("s")) for key in ("shutdown_delay", "grace_period"))
    if seconds + 5 > pod["terminationGracePeriodSeconds"]:
        report(place, "a pod is killed before its server has finished")
    if os.environ.get("PIKO_BIN"):
        for line in server_file.check(text, config, container.get("args", [])):
            report(place, line)
        if place in ("values/auth.yaml", "values/default.yaml"):
            probes = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
            for line in server_file.check_probes(text, config, probes):
                report(place, line)


def check_policies(paths):
    """Checkov, on all renders at once. What is skipped says why in the chart (annotations checkov.io/skip…)."""
    done = subprocess.run([str(Path(sys.executable).parent / "checkov"), "--framework", "kubernetes", "--quiet", "--compact",
                           "--skip-download", "--output", "json", *[word for path in paths for word in ("-f", str(path))]],
                          capture_output=True, text=True, env=os.environ | {"LOG_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"})
    try:
        found = yaml.safe_load(done.stdout)
    except yaml.YAMLError:
        report("checkov", (done.stdout + done.stderr)[-500:])
        return ""
    summary = found.get("summary") or {}
    if not summary.get("passed"):
        report("checkov", f"has looked at nothing: {done.stdout[:200]} {done.stderr[-300:]}")
    for failed in found.get("results", {}).get("failed_checks", []):
        report("checkov", f'{failed["check_id"]} {failed["resource"]}: {failed["check_name"]} ({Path(failed["file_path"]).name})')
    return f'checkov {summary.get("checkov_version")}: {summary.get("passed")} passed, {summary.get("failed")} failed, {summary.get("skipped")} skipped'


# ---- What is compared, and what is asked of the chart itself ----

def compare(path, text, write):
    old = path.read_text() if path.exists() else ""
    if old == text:
        return
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f"wrote {path.relative_to(ROOT)}")
        return
    lines = list(difflib.unified_diff(old.splitlines(), text.splitlines(), "was", "is", lineterm="", n=1))
    report(path.relative_to(ROOT), "is not what is rendered (script/check-helm --write):\n    " + "\n    ".join(lines[:30]))


def plain_manifests(chart):
    """The chart's objects for those without Helm: a file for each kind of thing, and what puts them together. The Secret of the gossip's
    key is to be made by hand, since a file can't have a key that is nobody else's."""
    text = render(chart, with_image({"replicaCount": 3, "gossip": {"existingSecret": "piko-gossip"}}))
    files = {}
    for part in re.split(r"(?m)^---\n", text):
        if not part.strip():
            continue
        source, body = part.split("\n", 1)
        name = Path(source.rsplit("/", 1)[1]).name
        body = "\n".join(line for line in body.splitlines() if not re.match(r"\s*(helm\.sh/chart|app\.kubernetes\.io/managed-by):", line))
        files.setdefault(name, []).append(body.strip() + "\n")
    head = "# Made from operations/helm/piko by script/check-helm --write; docs/kubernetes.md says how it is used.\n"
    result = {name: head + "---\n".join(bodies) for name, bodies in files.items()}
    result["namespace.yaml"] = head + ("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: piko\n  labels:\n"
                                       "    pod-security.kubernetes.io/enforce: restricted\n")
    names = "".join(f"  - {name}\n" for name in ["namespace.yaml", *sorted(files)])
    result["kustomization.yaml"] = head + f"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{names}"
    return result


def check_values():
    """values.yaml and its schema have the same keys, and the chart's README names the first of each path."""
    def walk(values, schema, path):
        for key in sorted(set(values) ^ set(schema.get("properties", {}))):
            if path + key not in ("global", "serviceMonitor.tokenSecret.name", "serviceMonitor.tokenSecret.key", "seccompProfile.localhostProfile"):
                report("values.schema.json", f"{path}{key} is not in both")
        for key, value in values.items():
            below = schema.get("properties", {}).get(key, {})
            if isinstance(value, dict) and below.get("additionalProperties") is False:
                walk(value, below, f"{path}{key}.")
    walk(yaml.safe_load((CHART / "values.yaml").read_text()), json.loads((CHART / "values.schema.json").read_text()), "")
    if yaml.safe_load((CHART / "values.yaml").read_text())["image"]["repository"]:
        report("values.yaml", "names an image, and none is published: whoever has that name would be in people's clusters")
    readme = (CHART / "README.md").read_text()
    for key in yaml.safe_load((CHART / "values.yaml").read_text()):
        if f"`{key}" not in readme:
            report("README.md of the chart", f"does not name {key}")


def check_lint(place, values):
    found = helm.lint(CHART, values, strict=True, namespace="piko")
    for message in found["messages"]:
        if message["severity"] > 1:
            report(place, f'lint: {message["path"]}: {message["error"]}')
    for error in found["errors"]:
        report(place, f"lint: {error}")


def check_refused(chart):
    cases = yaml.safe_load((HERE / "refused.yaml").read_text())
    for case in cases:
        values = with_image(case["values"])
        try:
            chart.validate_schema(values)
            chart.render(values, name="piko", namespace="piko")
        except helm.HelmError as error:
            if case["says"] not in str(error):
                report(f'refused.yaml {case["values"]}', f"refused, but it says: {error}")
            continue
        report(f'refused.yaml {case["values"]}', "is not refused")
    return len(cases)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="rewrite golden renders and plain manifests")
    write = parser.parse_args().write
    print(f"Helm {helm.helm_sdk_version()}")
    check_values()
    cases = sorted((HERE / "values").glob("*.yaml"))
    with helm.Chart.load(CHART) as chart, tempfile.TemporaryDirectory() as scratch:
        rendered = []
        for case in cases:
            values = with_image(yaml.safe_load(case.read_text()) or {})
            place = f"values/{case.name}"
            text = render(chart, values)
            path = Path(scratch) / case.name
            path.write_text(text)
            rendered.append(path)
            objects = documents(text)
            check_schema(place, objects)
            check_references(place, objects)
            check_server_file(place, objects)
            check_lint(place, values)
            compare(HERE / "golden" / case.name, text, write)
            print(f"{place}: {len(objects)} objects")
        for path in set((HERE / "golden").glob("*.yaml")) - {HERE / "golden" / case.name for case in cases}:
            report(path.relative_to(ROOT), "has no values")
        plain = plain_manifests(chart)
        for name, text in plain.items():
            compare(PLAIN / name, text, write)
        for path in set(PLAIN.glob("*.yaml")) - {PLAIN / name for name in plain}:
            report(path.relative_to(ROOT), "is not made any more")
        objects = [one for name, text in plain.items() if name != "kustomization.yaml" for one in documents(text)]
        check_schema("operations/kubernetes", objects)
        check_references("operations/kubernetes", objects)
        check_server_file("operations/kubernetes", objects)
        together = Path(scratch) / "plain.yaml"
        together.write_text("---\n".join(plain[name] for name in sorted(plain) if name != "kustomization.yaml"))
        print(f"operations/kubernetes: {len(objects)} objects")
        for line in key_stays.check(CHART):
            report("gossip-secret.yaml", line)
        print(f"refused.yaml: {check_refused(chart)} cases")
        print(check_policies([*rendered, together]))
    if os.environ.get("PIKO_BIN"):
        for line in server_file.check_seccomp(CHART / "files/seccomp-io-uring.json"):
            report("files/seccomp-io-uring.json", line)
        print("piko server check has read server.yaml of each; servers ran with two of them, and under the seccomp profile")
    else:
        print("PIKO_BIN is not set: the real program was not asked")
    for line in wrong:
        print(f"wrong: {line}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
