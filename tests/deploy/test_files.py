"""The deployment files name only existing settings, metrics and runbooks; needs no validators.

A mistyped variable, metric or link causes no error elsewhere. `make check-deploy` runs the validators.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from pydantic_settings import BaseSettings

from deploy import dashboards
from deploy.pods import IMAGE, pod_faults, pod_specs
from services.kit.settings import SECRETS_DIR
from services.kit.web.metrics import HttpMetrics
from services.meta_reward.metrics import MetaRewardMetrics
from services.meta_reward.settings import MetaRewardSettings
from services.reward.metrics import RewardMetrics
from services.reward.settings import RewardSettings
from services.trainer.metrics import TrainerMetrics
from services.trainer.settings import TrainerSettings
from tests.deploy.alerts import ALERTS, RULES, alert_names

ROOT = Path(__file__).parents[2]
K8S = sorted((ROOT / "k8s").rglob("*.yaml"))
COMPOSE = [ROOT / "compose.yaml", ROOT / "compose.cpu.yaml", ROOT / "tests" / "deploy" / "compose.drill.yaml"]
FOREIGN = ("vllm:", "llamacpp:")
"""Metrics of the engines."""


def settings_names() -> set[str]:
    kinds: tuple[type[BaseSettings], ...] = (RewardSettings, MetaRewardSettings, TrainerSettings)
    prefixed = {f"{kind.model_config['env_prefix']}{name}".upper() for kind in kinds for name in kind.model_fields}
    return prefixed | {SECRETS_DIR}


def metric_names() -> set[str]:
    """All sample names of the services, with the suffixes of histograms and counters."""
    registry = CollectorRegistry()
    RewardMetrics(registry)
    MetaRewardMetrics(registry)
    TrainerMetrics(registry)
    HttpMetrics(lambda *_: None, registry)  # type: ignore[arg-type]
    names = set()
    for family in registry.collect():
        match family.type:
            case "histogram":
                names |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
            case "counter":
                names.add(f"{family.name}_total")
            case _:
                names.add(family.name)
    return names


def rule_records() -> set[str]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


def queries() -> Iterator[str]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    yield from (rule["expr"] for group in groups for rule in group["rules"])
    for name, panels in dashboards.BOARDS.items():
        built = dashboards.dashboard(name, panels)
        yield from (target["expr"] for panel in built["panels"] for target in panel["targets"])
        yield from (annotation["expr"] for annotation in built["annotations"]["list"])
    for path in K8S:
        for manifest in yaml.safe_load_all(path.read_text()):
            if manifest["kind"] == "ScaledObject":
                yield from (trigger["metadata"]["query"] for trigger in manifest["spec"]["triggers"])


def deployment_texts() -> list[Path]:
    pages = (ROOT / "docs" / "runbooks").glob("*.md")
    return [*pages, *COMPOSE, *K8S, ROOT / "Dockerfile", ROOT / "deploy" / "setup.sh", ROOT / "docs" / "operate.md"]


@pytest.mark.parametrize("path", deployment_texts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_variable_is_a_setting(path: Path) -> None:
    named = set(re.findall(r"REGRADE_(?:REWARD|META|TRAINER)_[A-Z_]*[A-Z]|REGRADE_SECRETS_DIR", path.read_text()))
    assert named <= settings_names()


def test_env_example_names_only_what_compose_reads() -> None:
    """A variable that Compose does not read would look like a setting."""
    substituted = {name for path in COMPOSE for name in re.findall(r"\$\{([A-Z_]+)", path.read_text())}
    explained = set(re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert explained - substituted <= {"COMPOSE_PROJECT_NAME", "COMPOSE_FILE", "COMPOSE_PROFILES"}


def test_every_metric_asked_for_exists() -> None:
    known = metric_names() | rule_records()
    metrics = {name for query in queries() for name in re.findall(r"\b(?:regrade|vllm|llamacpp)[_:][\w:]+", query)}
    assert {name for name in metrics if not name.startswith(FOREIGN)} <= known
    assert len(metrics) > 40


def test_every_metric_is_used() -> None:
    """By a dashboard or a rule."""
    expressions = " ".join(queries())
    bases = {re.sub(r"_(?:bucket|sum|count)$", "", name) for name in metric_names()}
    assert {base for base in bases if base not in expressions} <= {"regrade_spool_replayed_records_total"}


def test_every_alert_is_tested_and_has_a_runbook() -> None:
    assert set(ALERTS) == set(alert_names())
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").glob("Regrade*.md")}
    assert pages == set(alert_names())
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                assert (ROOT / rule["annotations"]["runbook_url"]).is_file()
                assert rule["labels"]["severity"] in {"critical", "warning"}


def test_dashboards_are_what_their_code_makes() -> None:
    for name, panels in dashboards.BOARDS.items():
        assert json.loads((dashboards.FOLDER / f"{name}.json").read_text()) == dashboards.dashboard(name, panels)


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """The pod specs of the Kubernetes files, with their paths."""
    for path in K8S:
        for manifest in yaml.safe_load_all(path.read_text()):
            yield from ((f"{path.relative_to(ROOT)}", spec) for spec in pod_specs(manifest))


@pytest.mark.parametrize("pod", [pod for _, pod in pods()], ids=[place for place, _ in pods()])
def test_pods_are_locked_down_and_limited(pod: dict[str, Any]) -> None:
    assert pod_faults(pod) == []


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_services_are_locked_down_and_limited(path: Path) -> None:
    for name, service in yaml.safe_load(path.read_text())["services"].items():
        if "image" not in service:
            continue  # compose.cpu.yaml changes a service of compose.yaml
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert 0 < service["pids_limit"] <= 4096, name
        assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"]), name
        assert service.get("build") or service["user"].split(":")[0] != "0", name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert IMAGE.fullmatch(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", service["image"])), name


def test_images_run_as_nobody_in_particular() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    users = [line for line in lines if line.startswith("USER")]
    assert users[-1] == "USER 10001:10001"
    assert "STOPSIGNAL SIGTERM" in lines
    assert not [line for line in lines if line.startswith("FROM") and not re.search(r"\$\{|build|runtime", line)]


def test_the_wheel_holds_every_file_of_the_packages() -> None:
    """Images contain only the wheel, so a file missing in package-data is missing only there."""
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package, patterns in shipped.items():
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and path.suffix not in {".py", ".pyc"}:
                inside = str(path.relative_to(ROOT / package))
                depth = inside.count("/")
                assert any(fnmatch(inside, p) and p.count("/") == depth for p in patterns), path
