"""The second half of `make check-deploy`: plants a mistake of each kind in a copy of the tree and runs the checks.

This shows that the checks can fail. Exit status 1 if a planted mistake is not detected.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_PARTS = ("deploy", "k8s", "tests/deploy", "tests/__init__.py", ".ci", "Dockerfile", "compose.yaml", "compose.cpu.yaml")
_MONITORING = "k8s/components/monitoring"


class Plant(NamedTuple):
    """A mistake: the check that must detect it, its file, and the text it replaces by another."""

    check: str
    path: str
    right: str
    wrong: str


PLANTS = {
    "a package manager's cache left in an image": Plant(
        "images", "Dockerfile", "--no-install-recommends libgomp1", "libgomp1"
    ),
    "a shell variable without quotes": Plant(
        "images", "deploy/setup.sh", 'chmod 0444 "secrets/$1"', "chmod 0444 secrets/$1"
    ),
    "a key that Compose does not know": Plant(
        "compose", "compose.yaml", "    stop_grace_period: 60s\n    deploy", "    stop_grace: 60s\n    deploy"
    ),
    "a key given twice": Plant(
        "style", "compose.yaml", "networks:\n  regrade: {}", "networks:\n  regrade: {}\n  regrade: {}"
    ),
    "a field that Kubernetes does not know": Plant(
        "kubernetes", "k8s/base/reward.yaml", "minReadySeconds: 5", "minReadySecond: 5"
    ),
    "a field of another type": Plant("kubernetes", "k8s/base/meta-reward.yaml", "replicas: 1", 'replicas: "one"'),
    "a patch of what is not there": Plant(
        "kubernetes", "k8s/components/judge-sidecar/engine.yaml", "name: reward", "name: rewards"
    ),
    "a misspelt key of KEDA": Plant(
        "kubernetes", "k8s/components/keda/scaled.yaml", "minReplicaCount: 2", "minReplicas: 2"
    ),
    "a misspelt key of the Prometheus operator": Plant(
        "kubernetes", "k8s/components/prometheus-operator/pod-monitors.yaml", "interval: 15s", "intervall: 15s"
    ),
    "a container that may gain privileges": Plant(
        "kubernetes", "k8s/base/reward.yaml", "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"
    ),
    "an image of no version": Plant(
        "kubernetes", "k8s/base/redis.yaml", "valkey/valkey:8.1.3-bookworm", "valkey/valkey:latest"
    ),
    "a component that no combination renders": Plant("kubernetes", "deploy/renderings.py", '"trainer-multinode", ', ""),
    "a policy that checkov knows": Plant(
        "policy", "k8s/base/reward.yaml", "enableServiceLinks: false", "hostPID: true"
    ),
    "a dashboard that is not what its code makes": Plant(
        "dashboards", f"{_MONITORING}/dashboards/judge.json", "Call latency", "Call duration"
    ),
    "a query that does not parse": Plant(
        "dashboards", "deploy/dashboards.py", '"sum(llamacpp:requests_pr', '"sum((llamacpp:requests_pr'
    ),
    "dashboards without activations": Plant("dashboards", "deploy/dashboards.py", "[_activations()]", "[]"),
    "an annotation that does not parse": Plant("dashboards", "deploy/dashboards.py", "[1m])) > 0", "[1m]) > 0"),
    "rules that the operator does not get": Plant("dashboards", f"{_MONITORING}/rules.yml", "> 2000", "> 3000"),
    "a rule that does not parse": Plant("rules", f"{_MONITORING}/rules.yml", "== 1\n", "=== 1\n"),
    "an alert that never fires": Plant(
        "rules", f"{_MONITORING}/rules.yml", "regrade:spool:ratio) > 0.7", "regrade:spool:ratio) > 7"
    ),
    "an alert that always fires": Plant(
        "rules", f"{_MONITORING}/rules.yml", "failures:ratio5m > 0.01", "failures:ratio5m >= 0"
    ),
    "a scrape configuration of no meaning": Plant(
        "rules", f"{_MONITORING}/prometheus.yml", "scrape_interval: 15s", "scrape_interval: often"
    ),
}


def is_detected(plant: Plant, tree: Path) -> bool:
    """Whether the check fails with the mistake; the file is restored afterwards."""
    path = tree / plant.path
    before = path.read_text(encoding="utf-8")
    if plant.right not in before:
        raise LookupError(f"{plant.path} has no {plant.right!r} to be spoilt")
    path.write_text(before.replace(plant.right, plant.wrong, 1), encoding="utf-8")
    try:
        if (
            plant.path == "deploy/dashboards.py"
        ):  # this check compares generated files, so they are generated with the mistake
            subprocess.run([sys.executable, "-m", "deploy.dashboards"], cwd=tree, check=True)
        done = subprocess.run(
            [sys.executable, "-m", "deploy.check", plant.check], cwd=tree, capture_output=True, text=True, check=False
        )
        if "SKIPPED" in done.stdout:
            raise LookupError(done.stdout.strip())
        return "FAILED" in done.stdout
    finally:
        path.write_text(before, encoding="utf-8")
        if plant.path == "deploy/dashboards.py":
            subprocess.run([sys.executable, "-m", "deploy.dashboards"], cwd=tree, check=True)


def main() -> int:
    """Plant all mistakes one by one; exit status 1 if one is not detected."""
    unseen = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for part in _PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (tree / part).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / part, tree / part)
        (tree / ".cache").symlink_to(ROOT / ".cache")
        for what, plant in PLANTS.items():
            try:
                result = "found" if is_detected(plant, tree) else "NOT FOUND"
            except LookupError as error:
                result = f"not planted: {error}"
            unseen += result == "NOT FOUND" or "to be spoilt" in result
            sys.stdout.write(f"{plant.check:12} {what}: {result}\n")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
