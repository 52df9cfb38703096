"""Who must reach whom in a rendered deployment, and who may by its network policies.

The needs are read from what the pods are configured with: URLs in their settings, scrape configurations, PodMonitors,
ScaledObjects, service discovery. Ends outside the namespace are pods of their own: DNS, KEDA, callers, the internet.
"""

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

Labels = Mapping[str, str]


class Pod(NamedTuple):
    """A kind of pod: its labels, the ports that it listens on, its containers' settings, its namespace's labels."""

    name: str
    labels: Labels
    ports: dict[str, int]
    spec: dict[str, Any]
    namespace: Labels
    address: str = "10.1.2.3"


class Connection(NamedTuple):
    """From a pod to a port of another one."""

    source: str
    target: str
    port: int


_OWN: Labels = {"kubernetes.io/metadata.name": "regrade"}
_CLIENT = {"regrade.dev/client": "true"}


def _outside(name: str, labels: Labels, ports: dict[str, int], namespace: Labels, address: str = "10.9.9.9") -> Pod:
    return Pod(name, labels, ports, {}, namespace, address)


OUTSIDE = (
    _outside("dns", {"k8s-app": "kube-dns"}, {"dns": 53}, {"kubernetes.io/metadata.name": "kube-system"}),
    _outside("internet", {}, {"https": 443}, {}, "93.184.216.34"),
    _outside("api-server", {}, {"https": 6443}, {}, "10.0.0.1"),
    _outside("own-redis", {}, {"redis": 6379}, {}, "10.0.7.7"),
    _outside("keda", {}, {}, {"kubernetes.io/metadata.name": "keda"}),
    _outside("cluster-prometheus", {}, {}, {"regrade.dev/metrics": "true"}),
    _outside("client", _CLIENT, {}, _OWN),
    _outside("client-elsewhere", _CLIENT, {}, _CLIENT),
    _outside("operator", {"regrade.dev/operator": "true"}, {}, _OWN),
    _outside("stranger", {}, {"any": 8080}, _OWN),
    _outside("stranger-elsewhere", {}, {"any": 8080}, {"kubernetes.io/metadata.name": "other"}),
)


class Deployment:
    """The objects of one rendering."""

    def __init__(self, text: str) -> None:
        self._objects = [item for item in yaml.safe_load_all(text) if item]
        self.pods = {pod.name: pod for pod in (*self._pods(), *OUTSIDE)}
        self._policies = self._of("NetworkPolicy")

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [item for item in self._objects if item["kind"] == kind]

    def _pods(self) -> Iterator[Pod]:
        for item in self._objects:
            if item["kind"] == "JobSet":
                template = item["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
            elif item["kind"] in {"Deployment", "StatefulSet", "Job"}:
                template = item["spec"]["template"]
            else:
                continue
            spec = template["spec"]
            containers = [*spec["containers"], *spec.get("initContainers", [])]
            ports = {port["name"]: port["containerPort"] for one in containers for port in one.get("ports", [])}
            yield Pod(item["metadata"]["name"], template["metadata"]["labels"], ports, spec, _OWN)

    def settings(self, pod: Pod) -> dict[str, str]:
        """The environment of a pod's containers, from values and ConfigMaps."""
        maps = {item["metadata"]["name"]: item.get("data", {}) for item in self._of("ConfigMap")}
        environment: dict[str, str] = {}
        for container in [*pod.spec.get("containers", []), *pod.spec.get("initContainers", [])]:
            for source in container.get("envFrom", []):
                environment |= maps[source["configMapRef"]["name"]]
            environment |= {entry["name"]: entry.get("value", "") for entry in container.get("env", [])}
        return environment

    def needs(self) -> set[Connection]:
        """The connections without which something that was deployed does not work."""
        everyone = {Connection(pod.name, "dns", 53) for pod in self.pods.values() if pod.namespace is _OWN}
        return everyone | set(self._named()) | set(self._scraped()) | set(self._called())

    def _named(self) -> Iterator[Connection]:
        """By URLs of settings, secrets, service discovery and models to be fetched."""
        for pod in self.pods.values():
            settings = self.settings(pod)
            for host, port in re.findall(r"http://([\w-]+)[\w.-]*:(\d+)", json.dumps(settings)):
                yield from self._through(pod.name, host, int(port))
            secrets = {volume["secret"]["secretName"] for volume in pod.spec.get("volumes", []) if "secret" in volume}
            if any(re.match(r"regrade-(meta-)?reward\b", name) for name in secrets):
                redis = self._through(pod.name, "redis", 6379)
                yield from redis or [Connection(pod.name, "own-redis", 6379)]
            if {"JUDGE_MODEL", "REGRADE_TRAINER_MODEL"} & settings.keys():
                yield Connection(pod.name, "internet", 443)
            arguments = [str(part) for one in pod.spec.get("containers", []) for part in one.get("args", [])]
            if "--k8s-label-selector" in arguments:
                yield Connection(pod.name, "api-server", 6443)
                key, value = arguments[arguments.index("--k8s-label-selector") + 1].split("=")
                yield from self._selected(pod.name, {key: value}, 8000)
            if "--main_process_ip" in [
                part for one in pod.spec.get("containers", []) for part in one.get("command", [])
            ]:
                yield Connection(pod.name, pod.name, 29_500)

    def _scraped(self) -> Iterator[Connection]:
        """By Prometheus: ours by its configuration, the cluster's by PodMonitors."""
        for item in self._of("ConfigMap"):
            if "prometheus.yml" in item.get("data", {}):
                for job in yaml.safe_load(item["data"]["prometheus.yml"])["scrape_configs"]:
                    for entry in job.get("dns_sd_configs", []):
                        yield from self._through("prometheus", entry["names"][0], entry["port"])
        for item in self._of("PodMonitor"):
            [end] = item["spec"]["podMetricsEndpoints"]
            for pod in self.pods.values():
                if pod.namespace is _OWN and selects(item["spec"]["selector"], pod.labels):
                    port = end.get("portNumber") or pod.ports[end["port"]]
                    yield Connection("cluster-prometheus", pod.name, port)

    def _called(self) -> Iterator[Connection]:
        """By people and programs outside, and by Grafana and KEDA."""
        for item in self._of("ConfigMap"):
            if "datasources.yml" in item.get("data", {}):
                for source in yaml.safe_load(item["data"]["datasources.yml"])["datasources"]:
                    host, port = re.findall(r"http://([\w-]+):(\d+)", source["url"])[0]
                    yield from self._through("grafana", host, int(port))
        for item in self._of("ScaledObject"):
            for trigger in item["spec"]["triggers"]:
                host, port = re.findall(r"http://([\w-]+)\.regrade\.svc:(\d+)", trigger["metadata"]["serverAddress"])[0]
                yield from self._through("keda", host, int(port))
        for pod in ("client", "client-elsewhere"):
            yield from self._through(pod, "reward", 8700)
        yield from self._through("operator", "meta-reward", 8701)
        yield from self._through("operator", "grafana", 3000)

    def _through(self, source: str, service: str, port: int) -> list[Connection]:
        """To the pods behind a service; none where it is not deployed."""
        for item in self._of("Service"):
            if item["metadata"]["name"] == service:
                [entry] = [entry for entry in item["spec"]["ports"] if entry["port"] == port]
                return [
                    Connection(source, pod.name, pod.ports[entry["targetPort"]])
                    for pod in self.pods.values()
                    if pod.namespace is _OWN and item["spec"]["selector"].items() <= pod.labels.items()
                ]
        return []

    def _selected(self, source: str, labels: Labels, port: int) -> list[Connection]:
        return [
            Connection(source, pod.name, port) for pod in self.pods.values() if labels.items() <= pod.labels.items()
        ]

    def allows(self, connection: Connection) -> bool:
        """Whether the policies at both ends let it through, as the Kubernetes documentation defines them."""
        source, target = self.pods[connection.source], self.pods[connection.target]
        return self._passes("Egress", source, target, connection.port) and self._passes(
            "Ingress", target, source, connection.port
        )

    def _passes(self, direction: str, pod: Pod, peer: Pod, port: int) -> bool:
        if pod.namespace is not _OWN:
            return True
        policies = [
            policy["spec"]
            for policy in self._policies
            if direction in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], pod.labels)
        ]
        ends = "to" if direction == "Egress" else "from"
        rules = [rule for policy in policies for rule in policy.get(direction.lower(), [])]
        return not policies or any(
            any(_is_peer(entry, peer) for entry in rule[ends])
            and ("ports" not in rule or any(entry["port"] == port for entry in rule["ports"]))
            for rule in rules
        )


def _is_peer(entry: dict[str, Any], peer: Pod) -> bool:
    if "ipBlock" in entry:
        address = ipaddress.ip_address(peer.address)
        nets = [ipaddress.ip_network(text) for text in (entry["ipBlock"]["cidr"], *entry["ipBlock"].get("except", []))]
        return address in nets[0] and not any(address in net for net in nets[1:])
    if "namespaceSelector" in entry:
        in_namespace = selects(entry["namespaceSelector"], peer.namespace)
    else:
        in_namespace = peer.namespace is _OWN
    return in_namespace and selects(entry.get("podSelector", {}), peer.labels)


def selects(selector: dict[str, Any], labels: Labels) -> bool:
    """A label selector's answer, for the operators In, NotIn and Exists."""
    if not dict(selector.get("matchLabels", {})).items() <= labels.items():
        return False
    for rule in selector.get("matchExpressions", []):
        value = labels.get(rule["key"])
        match rule["operator"]:
            case "In" if value not in rule["values"]:
                return False
            case "NotIn" if value in rule["values"]:
                return False
            case "Exists" if value is None:
                return False
    return True
