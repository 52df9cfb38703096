"""Pods and containers reach what they need, and with network policies, or by Compose's networks, nothing else."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.renderings import COMBINATIONS, combined, renderings
from tests.deploy.connections import Connection, Deployment

RENDERINGS = renderings()
WITH_POLICIES = sorted(name for name, text in RENDERINGS.items() if "name: deny-all" in text)


@pytest.mark.parametrize("name", sorted(RENDERINGS))
def test_pods_reach_what_they_need(name: str) -> None:
    deployment = Deployment(RENDERINGS[name])
    needs = deployment.needs()
    assert {Connection("reward", "dns", 53), Connection("client", "reward", 8700)} <= needs
    assert [need for need in sorted(needs) if not deployment.allows(need)] == []


TOLERATED = {
    # The API server's address differs from cluster to cluster, so the router may reach any on its ports.
    Connection("judge-router", "internet", 443),
    # The same callers, whether or not there is a router, and whether or not KEDA is in use.
    Connection("reward", "judge", 8000),
    Connection("meta-reward", "judge", 8000),
    Connection("keda", "prometheus", 9090),
}


@pytest.mark.parametrize("name", WITH_POLICIES)
def test_policies_let_nothing_else_through(name: str) -> None:
    deployment = Deployment(RENDERINGS[name])
    ports = {port for pod in deployment.pods.values() for port in pod.ports.values()} | {29_500}
    possible = {
        Connection(source, target, port)
        for source in deployment.pods
        for target in deployment.pods
        for port in ports
        if source != target or source == "trainer"
    }
    inside = {connection for connection in possible if _touches(deployment, connection)}
    surplus = {connection for connection in inside if deployment.allows(connection)} - deployment.needs()
    # Training nodes use ports of NCCL's choice; a namespace's label is the grant to a Prometheus of the cluster.
    granted = {("trainer", "trainer"), *(("cluster-prometheus", name) for name in deployment.pods)}
    assert {one for one in surplus if (one.source, one.target) not in granted} <= TOLERATED


def _touches(deployment: Deployment, connection: Connection) -> bool:
    """Whether an end of it is a pod of the deployment, and its target listens on the port."""
    source, target = deployment.pods[connection.source], deployment.pods[connection.target]
    return bool(source.spec or target.spec) and connection.port in {*target.ports.values(), 29_500}


def test_every_component_is_rendered_with_policies_that_deny_the_rest() -> None:
    assert {"prod", "sidecar", "router", "operator", "training", "training-nodes"} <= set(WITH_POLICIES)
    assert any("external-redis" in components for components in COMBINATIONS.values())


def test_keda_asks_prometheus_in_the_namespace_of_the_overlay() -> None:
    text = combined(["gpu", "monitoring", "keda"], namespace="team-x")
    scaled = [item for item in yaml.safe_load_all(text) if item["kind"] == "ScaledObject"]
    addresses = {trigger["metadata"]["serverAddress"] for item in scaled for trigger in item["spec"]["triggers"]}
    assert addresses == {"http://prometheus.team-x.svc:9090"}
    assert "regrade.svc" not in text


COMPOSE = yaml.safe_load((Path(__file__).parents[2] / "compose.yaml").read_text())


def _networks(service: dict[str, Any]) -> dict[str, list[str]]:
    """The networks of a Compose service, with its other names there."""
    networks = service["networks"]
    if isinstance(networks, list):
        return {name: [] for name in networks}
    return {name: (options or {}).get("aliases", []) for name, options in networks.items()}


def _named_by(name: str, service: dict[str, Any]) -> set[str]:
    """Hosts that a Compose service is configured to call."""
    texts = [str(value) for value in service.get("environment", {}).values()]
    hosts = set(re.findall(r"http://([\w-]+):", " ".join(texts)))
    if name in {"reward", "meta-reward"}:
        hosts.add("redis")  # its URL is a secret
    if name == "balancer":
        hosts.add("reward-pods")
    if name == "grafana":
        hosts.add("prometheus")
    if name == "prometheus":
        path = Path(__file__).parents[2] / "k8s" / "components" / "monitoring" / "prometheus.yml"
        jobs = yaml.safe_load(path.read_text())["scrape_configs"]
        hosts |= {entry["names"][0] for job in jobs for entry in job.get("dns_sd_configs", [])}
    return hosts


def _sharing(name: str) -> set[str]:
    """The services on a network with one, itself included."""
    networks = {other: _networks(service).keys() for other, service in COMPOSE["services"].items()}
    return {other for other, own in networks.items() if own & networks[name]}


def test_containers_share_networks_with_what_they_call_and_with_nothing_sensitive_else() -> None:
    services = COMPOSE["services"]
    callers: dict[str, set[str]] = {name: set() for name in services}
    for name, service in services.items():
        for host in _named_by(name, service):
            targets = [
                (other, network)
                for other, options in services.items()
                for network, aliases in _networks(options).items()
                if network in _networks(service) and host in {other, *aliases}
            ]
            assert targets, f"{name} cannot reach {host}"
            for other, _ in targets:
                callers[other].add(name)
    judges = callers["vllm"] | callers["meta-judge"]
    assert judges == {"reward", "meta-reward", "prometheus"}
    assert _sharing("redis") == {"redis"} | callers["redis"] == {"redis", "reward", "meta-reward"}
    assert _sharing("vllm") == _sharing("meta-judge") == {"vllm", "meta-judge"} | judges
    assert COMPOSE["networks"]["store"] == {"internal": True}


def test_engines_ask_for_a_key_that_the_services_have() -> None:
    services = COMPOSE["services"]
    assert all("judge_key" in str(services[name]["secrets"]) for name in ("vllm", "meta-judge", "prometheus"))
    assert all("VLLM_API_KEY" in services[name]["entrypoint"][2] for name in ("vllm", "meta-judge"))
    assert "REGRADE_REWARD_JUDGE_KEY" in services["reward"]["secrets"]
    assert "REGRADE_META_META_JUDGE_KEY" in services["meta-reward"]["secrets"]
    for text in RENDERINGS.values():
        for pod in Deployment(text).pods.values():
            if pod.labels.get("regrade.dev/engine"):
                assert "regrade-judge" in str(pod.spec), pod.name
