"""A stranger's path by Helm, without a cluster: what the chart renders is run (kubelet.py), and must be a cluster. script/try-helm
prepares what this needs.

    try_helm.py FOLDER (--image FILE | [--binaries FOLDER] [--cache FOLDER])
"""

import argparse
import base64
import json
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
import helm_python as helm  # noqa: E402
import yaml  # noqa: E402
from engine import ROOT, Engine, Failure, wait_until  # noqa: E402
from kubelet import Cluster  # noqa: E402
from network import Network  # noqa: E402
from report import bad, expect, finish, ok, skipped, step  # noqa: E402

IMAGE, DEMO = "localhost/piko", "localhost/piko-demo-service"
ENDPOINT = "my-endpoint"


def documents(text):
    return [one for one in yaml.safe_load_all(text) if one]


def with_image(objects):
    """The image that was built here, in place of the one that the manifests name."""
    for one in objects:
        if one["kind"] == "StatefulSet":
            one["spec"]["template"]["spec"]["containers"][0]["image"] = f"{IMAGE}:latest"
    return objects


def by_helm():
    with helm.Chart.load(ROOT / "operations/helm/piko") as chart:
        files = chart.render({"replicaCount": 3, "image": {"repository": IMAGE, "tag": "latest"}}, name="piko", namespace="piko")
    return [one for path, text in sorted(files.items()) if not path.endswith("NOTES.txt") for one in documents(text)]


def by_hand():
    """The plain manifests, as `kubectl apply` would have them, with the Secret that docs/kubernetes.md has one make first by
    `kubectl create secret`."""
    folder = ROOT / "operations/kubernetes"
    names = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    # With the end of a line, as that command has it.
    key = base64.b64encode(b"g0ssip key of the try, of 32 bytes\n").decode()
    secret = {"kind": "Secret", "metadata": {"name": "piko-gossip", "namespace": "piko"}, "data": {"gossip-key": key}}
    return with_image([one for name in names for one in documents((folder / name).read_text())] + [secret])


class Client:
    """Somebody else in the cluster, who sends requests."""

    def __init__(self, network, host):
        self.network, self.host, self.proxy = network, host, 8000

    def ask(self, pod, path="/hello"):
        """None when a request at that pod was answered by the demo service, else what came."""
        try:
            status, body = self.host.get((pod.host.address, self.proxy), path, {"x-piko-endpoint": ENDPOINT})
        except OSError as error:
            return str(error)
        return None if status == 200 and b"Hello from the demo service" in body else f"{status} {body[:80]}"


class Stream:
    """Requests at some pods, in turn, until it is told to end."""

    def __init__(self, client, pods):
        self.client, self.pods, self.count, self.failed, self.going = client, pods, 0, [], True
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while self.going:
            pod = self.pods[self.count % len(self.pods)]
            self.count += 1
            error = self.client.ask(pod)
            if error:
                self.failed.append(f"{pod.name}: {error}")
            time.sleep(0.02)

    def end(self):
        self.going = False
        self.thread.join()
        return self.count, self.failed


def states(pod):
    """What a pod says of the cluster, by the status API."""
    nodes = json.loads(pod.cluster.network.outside.get((pod.host.address, 8002), "/status/cluster/nodes")[1])
    return {one["id"]: one["status"] for one in nodes}


def tunnels(pod):
    found = json.loads(pod.cluster.network.outside.get((pod.host.address, 8002), "/status/upstream/endpoints")[1])
    return found.get(ENDPOINT, 0) if isinstance(found, dict) else 0


def whole(cluster):
    wanted = {pod.name: "active" for pod in cluster.pods}
    try:
        return all(states(pod) == wanted for pod in cluster.pods)
    except (OSError, ValueError):
        return False


def form(cluster, place):
    """From nothing to a cluster: as far as `kubectl rollout status` waits, and until the nodes know each other."""
    cluster.start()
    wait_until(lambda: all(pod.ready for pod in cluster.pods) or any(pod.unhealthy for pod in cluster.pods), 120, "all pods are ready",
               lambda: cluster.pods[0].container.log[-1500:])
    for pod in cluster.pods:
        if pod.unhealthy:
            raise Failure(f"{place}: {pod.name} fails its {pod.unhealthy[0]} probe: {pod.container.log[-1500:]}")
    ok(f"{place}: {len(cluster.pods)} pods run and are ready, by the probes that are rendered")
    wait_until(lambda: whole(cluster), 60, "each pod sees all", lambda: cluster.pods[0].container.log[-1500:])
    ok(f"{place}: they are one cluster, each says: {', '.join(sorted(states(cluster.pods[0])))} active")
    without = [pod.name for pod in cluster.pods if "no cluster.gossip.secret_keys" in pod.container.log]
    expect(not without, f"{place}: gossip has the Secret's key: no log warns that it has none", " ".join(without))


def connect(engine, network, prefix):
    """A service, an agent that comes by the upstream Service's name, and a client, in containers and on hosts of their own."""
    service_host, agent_host, client_host = (network.host(f"{prefix}-{name}") for name in ("service", "agent", "client"))
    service = engine.start(DEMO, f"{prefix}-service", network=service_host.option)
    names = [word for search in ("piko.svc.cluster.local", "svc.cluster.local", "cluster.local") for word in ("--dns-search", search)]
    agent = engine.start(IMAGE, f"{prefix}-agent", "agent", "http", ENDPOINT, f"{service_host.address}:3000",
                         "--connect.url", "http://piko-upstream.piko:8001", network=agent_host.option,
                         options=["--dns", network.address, "--dns-opt", "ndots:5", *names])
    agent.wait_line("connected")
    return service, agent, Client(network, client_host)


def served(cluster, client, place):
    wait_until(lambda: not any(client.ask(pod) for pod in cluster.pods), 20, "a request at each pod",
               lambda: str([client.ask(pod) for pod in cluster.pods]))
    ok(f"{place}: an agent at {', '.join(pod.name for pod in cluster.pods if tunnels(pod))}; a request at each of the pods was answered")


def end_one(cluster, client):
    """The pod that has the agent ends, as in a rolling update."""
    victim = next(pod for pod in cluster.pods if tunnels(pod))
    others = [pod for pod in cluster.pods if pod is not victim]
    config = yaml.safe_load(cluster.find("ConfigMap", "piko")["data"]["server.yaml"])
    delay = int(config["shutdown_delay"].removesuffix("s"))
    stream, at_victim = Stream(client, others), Stream(client, [victim])
    time.sleep(1)
    looks = []

    def look():
        begin = time.monotonic()
        time.sleep(0.5)
        while time.monotonic() - begin < delay - 1:
            looks.append(cluster.network.outside.status((victim.host.address, 8002), "/ready"))
            time.sleep(0.5)
        at_victim.end()

    looking = threading.Thread(target=look)
    looking.start()
    status, took = victim.end()
    looking.join()
    grace = victim.spec["terminationGracePeriodSeconds"]
    expect(status == 0 and delay <= took < grace, f"{victim.name}, which has the agent, ended by SIGTERM with status {status} "
           f"after {took:.1f} s of its {grace} (shutdown_delay {delay} s)")
    expect(looks and set(looks) == {503}, f"/ready of {victim.name} said 503 from then on ({len(looks)} looks)", str(looks))
    expect(not at_victim.failed, f"and for that time it answered as before: {at_victim.count} requests", str(at_victim.failed[:3]))
    time.sleep(3)
    count, failed = stream.end()
    expect(count > 50 and not failed, f"requests went on at {' and '.join(pod.name for pod in others)}: {count}, none failed", str(failed[:3]))
    seen = states(others[0])
    expect(seen.get(victim.name) in (None, "left"), f"they know that {victim.name} has left ({seen.get(victim.name, 'forgotten')})", str(seen))
    address = victim.host.address
    victim.remove()
    new = cluster.replace(victim)
    wait_until(lambda: new.ready and whole(cluster), 90, f"a new {new.name}", lambda: str(states(others[0])))
    expect(new.host.address != address, f"a new {new.name} at another address ({new.host.address}) is in the cluster")
    wait_until(lambda: not any(client.ask(pod) for pod in cluster.pods), 20, "a request at each pod")
    ok("a request at each of the three was answered again")


def policies(cluster, client):
    """The network policy lets in what it should, and nothing else."""
    pod = cluster.pods[0]
    expect(client.host.status((pod.host.address, 8002), "/ready", timeout=2) is None, "the network policy keeps strangers from the admin port")
    expect(client.ask(pod) is None, "and lets them to the proxy port")
    cluster.others[client.host.address] = {}
    cluster.publish()
    expect(client.host.status((pod.host.address, 8002), "/ready") == 200, "a pod of the same namespace comes to the admin port")
    del cluster.others[client.host.address]
    cluster.publish()


def by_exec(cluster):
    """What an operator types behind `kubectl exec … --`, in one of the pods."""
    pod, control = cluster.pods[1], ("--server.control-socket", "/run/piko/server.sock")
    table = cluster.pods[0].container.execute("piko", "server", "status", "cluster", "nodes", "--output", "table")
    expect(all(one.name in table for one in cluster.pods), "piko server status cluster nodes, in a pod: it lists all", table)
    pod.container.execute("piko", "server", "reload", *control)
    ok("piko server reload, in a pod: it is done")
    pod.container.execute("piko", "server", "drain", *control)
    wait_until(lambda: cluster.network.outside.status((pod.host.address, 8002), "/ready") == 503, 20, "/ready says 503")
    pod.container.execute("piko", "server", "drain", "--off", *control)
    wait_until(lambda: cluster.network.outside.status((pod.host.address, 8002), "/ready") == 200, 20, "/ready says 200 again")
    wait_until(lambda: pod.ready and whole(cluster), 60, "the pod is in use again")
    ok("piko server drain, in a pod: it is not ready, and with --off it is again")
    # Its status is 1: the ports are taken, by the server that runs.
    done = subprocess.run(["podman", "exec", pod.container.name, "piko", "server", "diagnose", "--config.path", "/etc/piko/server.yaml",
                           "--config.expand-env", "--output", "json"], capture_output=True, text=True, env=pod.container.engine.environment, check=False)
    checks = json.loads(done.stdout)["checks"] if done.stdout.startswith("{") else []
    failed = [one["check"] for one in checks if one["result"] == "fail" and "in use" not in one["found"]]
    expect(len(checks) > 5 and not failed, "piko server diagnose, in a pod: nothing is wrong but that the server has its ports already",
           " ".join(failed) or done.stdout + done.stderr)


def confined(cluster):
    import life     # the kernel's word on a process, as script/check-image has it
    for pod in cluster.pods:
        life.check_confinement(pod.name, pod.container.pid)
        written = life.changes(cluster.engine, pod.container, [mount["mountPath"] for mount in pod.spec["containers"][0]["volumeMounts"]])
        expect(not written, f"{pod.name}: nothing was written to the image's files", " ".join(written))
        text = pod.container.execute("piko", "server", "info", "--server.control-socket", "/run/piko/server.sock")
        expect("ready" in text, f"{pod.name}: kubectl exec … piko server info would answer")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--image", help="what script/check-image --save wrote")
    parser.add_argument("--binaries", help="programs that are built already")
    parser.add_argument("--cache", help="a folder in which the image of Debian is kept for the next time")
    given = parser.parse_args()
    engine = Engine(given.folder)
    if given.image:
        step(f"the images of {given.image}")
        engine.load(given.image)
    else:
        step("the images, by build/Dockerfile")
        engine.make_debian(given.cache)
        engine.make_swift(given.binaries)
        engine.build(IMAGE)
        engine.build(DEMO, target="demo-service")
    network, profile = Network(), engine.profile(False, refusal="EPERM")
    skipped("limits of memory (they need cgroups), scheduling, virtual addresses of Services: there is no Kubernetes here")
    for place, objects in (("the chart", by_helm()), ("the plain manifests", by_hand())):
        step(f"{place}, with Helm {helm.helm_sdk_version()}" if place == "the chart" else place)
        prefix = place.split()[-1]
        cluster = Cluster(engine, network, objects, profile, prefix)
        try:
            form(cluster, place)
            service, agent, client = connect(engine, network, prefix)
            served(cluster, client, place)
            if place == "the chart":
                policies(cluster, client)
                confined(cluster)
                by_exec(cluster)
                wait_until(lambda: not any(client.ask(pod) for pod in cluster.pods), 20, "a request at each pod")
                end_one(cluster, client)
            agent.signal("TERM")
            expect(agent.wait_end(60) == 0, f"{place}: the agent ends with status 0")
            for container in (agent, service):
                container.remove()
        finally:
            cluster.end()


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        bad(str(failure))
    finish("script/try-helm")
