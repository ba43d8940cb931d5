"""What Kubernetes does with rendered manifests, as far as a StatefulSet of this chart goes, without a cluster: pods as podman's
containers with the command, environment, mounts and security context that they name, probes, names of Services, NetworkPolicies
as packet filters, and the end of a pod. A field that is not known here is an error, so that nothing is passed over in silence.

Not done: scheduling, limits of resources (they need rights over the machine's cgroups), the virtual addresses of Services
(their names lead to the pods that are ready), and mounts that change.
"""

import base64
import os
import shutil
import threading
import time

from engine import Failure, run

NAMESPACE_DOMAIN = "{}.svc.cluster.local"
# Fields that say where and when a pod runs, or which only a real cluster can judge.
ELSEWHERE = {"serviceAccountName", "automountServiceAccountToken", "enableServiceLinks", "topologySpreadConstraints"}


def take(fields, *known):
    """The fields of an object, all of which must be known."""
    unknown = set(fields) - set(known)
    if unknown:
        raise Failure(f"manifests have {sorted(unknown)}, which this does not know")
    return [fields.get(name) for name in known]


class Pod:
    def __init__(self, cluster, stateful, ordinal):
        self.cluster = cluster
        template = stateful["spec"]["template"]
        self.name, self.labels, self.spec = f'{stateful["metadata"]["name"]}-{ordinal}', template["metadata"]["labels"], template["spec"]
        self.subdomain = stateful["spec"]["serviceName"]
        cluster.count += 1
        self.id = f"{self.name}-{cluster.prefix}-{cluster.count}"
        self.host = cluster.network.host(self.id)
        self.ready = self.ending = self.ended = False
        self.unhealthy = []
        self.start()

    # ---- Start ----

    def start(self):
        engine, (container,) = self.cluster.engine, self.spec["containers"]
        known = {"containers", "securityContext", "terminationGracePeriodSeconds", "volumes"} | ELSEWHERE
        take(self.spec, *known)
        name, image, pull, command, arguments, environment, ports, startup, liveness, readiness, _, security, mounts, lifecycle = take(
            container, "name", "image", "imagePullPolicy", "command", "args", "env", "ports", "startupProbe", "livenessProbe", "readinessProbe",
            "resources", "securityContext", "volumeMounts", "lifecycle")
        del name, pull
        self.ports = {port["name"]: port["containerPort"] for port in ports}
        self.lifecycle = lifecycle or {}
        options = ["--dns", self.cluster.network.address, "--dns-opt", "ndots:5", "--hostname", self.name]
        domain = NAMESPACE_DOMAIN.format(self.cluster.namespace)
        for search in (domain, "svc.cluster.local", "cluster.local"):
            options += ["--dns-search", search]
        for variable in environment:
            options += ["--env", f'{variable["name"]}={self.value(variable)}']
        options += self.security(self.spec["securityContext"], security)
        folders = {volume["name"]: self.volume(volume) for volume in self.spec["volumes"]}
        for mount in mounts:
            volume, path, read_only = take(mount, "name", "mountPath", "readOnly")
            options += ["--volume", f"{folders[volume]}:{path}:{'ro' if read_only else 'rw'}"]
        self.container = engine.create(image, self.id, [*command, *(arguments or [])], network=self.host.option, options=options)
        self.cluster.filter(self)
        engine.run("podman", "start", self.id)
        self.thread = threading.Thread(target=self.probe, args=(startup, liveness, readiness), daemon=True)
        self.thread.start()

    def value(self, variable):
        if "value" in variable:
            return variable["value"]
        path = variable["valueFrom"]["fieldRef"]["fieldPath"]
        return {"metadata.name": self.name, "metadata.namespace": self.cluster.namespace, "status.podIP": self.host.address}[path]

    def security(self, pod, container):
        """Options of podman for both security contexts."""
        group, _, run_group, non_root, user, profile = take(
            pod, "fsGroup", "fsGroupChangePolicy", "runAsGroup", "runAsNonRoot", "runAsUser", "seccompProfile")
        escalation, capabilities, privileged, read_only, profile = take(
            container, "allowPrivilegeEscalation", "capabilities", "privileged", "readOnlyRootFilesystem", "seccompProfile")
        if non_root and not user:
            raise Failure("runAsNonRoot, and no user that is a number other than 0")
        if privileged or capabilities != {"drop": ["ALL"]} or escalation or not read_only or profile != {"type": "RuntimeDefault"}:
            raise Failure("a security context that is less than what the chart has")
        self.group = group
        return ["--user", f"{user}:{run_group}", "--group-add", str(group), "--cap-drop", "all", "--security-opt", "no-new-privileges",
                "--security-opt", f"seccomp={self.cluster.profile}", "--read-only", "--read-only-tmpfs=false"]

    def volume(self, volume):
        """A volume's folder, as the kubelet makes it."""
        folder = self.cluster.folder / "volumes" / self.id / volume["name"]
        folder.mkdir(parents=True)
        if "emptyDir" in volume:
            medium, limit = take(volume["emptyDir"], "medium", "sizeLimit")
            if medium == "Memory":
                run("mount", "-t", "tmpfs", "-o", f"size={limit.removesuffix('i')},mode=0777", "tmpfs", folder)
            os.chown(folder, 0, self.group)
            folder.chmod(0o2777)
            return folder
        if "configMap" in volume:
            name, mode = take(volume["configMap"], "name", "defaultMode")
            data = {key: text.encode() for key, text in self.cluster.find("ConfigMap", name)["data"].items()}
        else:
            name, mode = take(volume["secret"], "secretName", "defaultMode")
            data = {key: base64.b64decode(text) for key, text in self.cluster.find("Secret", name)["data"].items()}
        # Links into a folder that is exchanged as a whole when the object changes.
        inner = folder / "..2026_01_01_00_00_00.000000001"
        inner.mkdir()
        (folder / "..data").symlink_to(inner.name)
        for key, content in data.items():
            (inner / key).write_bytes(content)
            (inner / key).chmod(mode)
            os.chown(inner / key, 0, self.group)
            (folder / key).symlink_to(f"..data/{key}")
        return folder

    # ---- Life ----

    def ask(self, probe):
        """One look; the machine's kubelet asks from the outside."""
        handler, _, timeout, _ = take(probe, "httpGet", "periodSeconds", "timeoutSeconds", "failureThreshold")
        path, port, scheme = take(handler, "path", "port", "scheme")
        if scheme != "HTTP":
            raise Failure("a probe by HTTPS: this does not know")
        status = self.cluster.network.outside.status((self.host.address, self.ports[port]), path, timeout=timeout)
        return status is not None and 200 <= status < 400

    def probe(self, startup, liveness, readiness):
        failures = 0
        while not self.ended and not self.ask(startup):
            failures += 1
            if failures >= startup["failureThreshold"]:
                self.unhealthy.append("startup")
                return
            time.sleep(startup["periodSeconds"])
        due = {"live": 0.0, "ready": 0.0}
        failed = {"live": 0, "ready": 0}
        while not self.ended:
            now = time.monotonic()
            for kind, probe in (("live", liveness), ("ready", readiness)):
                if now < due[kind]:
                    continue
                due[kind] = now + probe["periodSeconds"]
                good = self.ask(probe)
                failed[kind] = 0 if good else failed[kind] + 1
                if kind == "ready" and (good != self.ready) and (good or failed[kind] >= probe["failureThreshold"]):
                    self.ready = good and not self.ending
                    self.cluster.publish()
                if kind == "live" and failed[kind] >= probe["failureThreshold"] and not self.ending:
                    self.unhealthy.append("liveness")
            time.sleep(0.1)

    def end(self):
        """As when a pod is deleted: the hook, SIGTERM, and SIGKILL when its time is up. Exit status and seconds."""
        self.ending, self.ready = True, False
        self.cluster.publish()
        begin = time.monotonic()
        hook = self.lifecycle.get("preStop")
        if hook:
            self.container.execute(*hook["exec"]["command"])
        self.container.signal("TERM")
        grace = self.spec["terminationGracePeriodSeconds"]
        status = self.container.wait_end(grace)
        self.ended = True
        self.cluster.publish()
        return status, time.monotonic() - begin

    def remove(self):
        self.ended = True
        self.thread.join()
        self.container.remove()
        for volume in self.spec["volumes"]:
            folder = self.cluster.folder / "volumes" / self.id / volume["name"]
            if os.path.ismount(folder):
                run("umount", folder)
        shutil.rmtree(self.cluster.folder / "volumes" / self.id)


class Cluster:
    def __init__(self, engine, network, objects, profile, prefix):
        self.engine, self.network, self.objects, self.profile, self.prefix = engine, network, objects, profile, prefix
        self.folder, self.count = engine.folder, 0
        self.lock = threading.Lock()
        [self.stateful] = [one for one in objects if one["kind"] == "StatefulSet"]
        self.namespace = self.stateful["metadata"]["namespace"]
        self.pods = []
        self.own = []           # names in DNS
        self.others = {}        # further hosts of the namespace: labels by address
        if self.stateful["spec"]["podManagementPolicy"] != "Parallel":
            raise Failure("pods that start one after the other: this does not know")

    def find(self, kind, name):
        found = [one for one in self.objects if one["kind"] == kind and one["metadata"]["name"] == name]
        if not found:
            raise Failure(f"there is no {kind} {name}")
        return found[0]

    def start(self):
        for ordinal in range(self.stateful["spec"]["replicas"]):
            self.pods.append(Pod(self, self.stateful, ordinal))
            self.publish()

    def replace(self, pod):
        """The StatefulSet's new pod in the place of one that ended: the same name, another address."""
        ordinal = self.pods.index(pod)
        self.pods[ordinal] = Pod(self, self.stateful, ordinal)
        self.publish()
        return self.pods[ordinal]

    def end(self):
        for pod in self.pods:
            pod.remove()
        for name in self.own:
            self.network.names.pop(name, None)

    def publish(self):
        """What DNS says: of a headless Service its pods, also those that are not ready where it says so; of another one (which has
        an address of its own in Kubernetes) the pods that are ready."""
        with self.lock:
            there = [pod for pod in list(self.pods) if not pod.ended]
            names = {}
            for service in (one for one in self.objects if one["kind"] == "Service"):
                spec = service["spec"]
                found = [pod for pod in there if spec["selector"].items() <= pod.labels.items()
                         and (pod.ready or spec.get("publishNotReadyAddresses"))]
                domain = f'{service["metadata"]["name"]}.{NAMESPACE_DOMAIN.format(self.namespace)}'
                names[domain] = [pod.host.address for pod in found]
                if spec.get("clusterIP") == "None":
                    names |= {f"{pod.name}.{domain}": [pod.host.address] for pod in found}
            for name in set(self.own) - set(names):
                self.network.names.pop(name, None)
            self.own = list(names)
            self.network.names.update(names)
            if self.pods:
                self.refilter()

    # ---- Network policies ----

    def sources(self, peers, exclude=None):
        """The addresses that a policy's from or to means; None: everybody."""
        if not peers:
            return None
        found = []
        for peer in peers:
            [selector] = take(peer, "podSelector")
            wanted = selector.get("matchLabels", {}).items()
            found += [pod.host.address for pod in self.pods if pod is not exclude and not pod.ended and wanted <= pod.labels.items()]
            found += [address for address, labels in self.others.items() if wanted <= labels.items()]
        return found

    def filter(self, pod):
        """Packet filters of a pod by the policies that select it. What its machine sends, the kubelet's probes, is always let in."""
        policies = [one for one in self.objects if one["kind"] == "NetworkPolicy"
                    and one["spec"]["podSelector"]["matchLabels"].items() <= pod.labels.items()]
        rules = ["*filter", ":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"]
        for chain, side, peers, kind in (("INPUT", "-s", "from", "Ingress"), ("OUTPUT", "-d", "to", "Egress")):
            if not any(kind in policy["spec"]["policyTypes"] for policy in policies):
                continue
            rules += [f"-A {chain} {'-i' if chain == 'INPUT' else '-o'} lo -j ACCEPT",
                      f"-A {chain} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"]
            if chain == "INPUT":
                rules.append(f"-A INPUT -s {self.network.address} -j ACCEPT")
            for policy in policies:
                for rule in policy["spec"].get(kind.lower(), []):
                    ends, ports = take(rule, peers, "ports")
                    addresses = self.sources(ends)
                    for port in ports or [{}]:
                        match = f"-p {port['protocol'].lower()} --dport {port['port']} " if port else ""
                        rules += [f"-A {chain} {side} {address} {match}-j ACCEPT" for address in (["0.0.0.0/0"] if addresses is None else addresses)]
            rules.append(f"-A {chain} -j DROP")
        run("ip", "netns", "exec", pod.host.name, "iptables-restore", input="\n".join([*rules, "COMMIT", ""]))

    def refilter(self):
        for pod in self.pods:
            if not pod.ended:
                self.filter(pod)
