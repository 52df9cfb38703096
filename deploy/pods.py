"""Rules for every pod of the Kubernetes files: pod security standard `restricted`, resource limits, fixed version."""

import re
from collections.abc import Iterator
from typing import Any

_ASKS_THE_API = "judge-router"
"""The only service account whose pod calls the API server."""
IMAGE = re.compile(r"[\w./-]+:v?\d[\w.-]*")
"""An image with a fixed version."""


def pod_specs(node: object) -> Iterator[dict[str, Any]]:
    """All pod specs inside an object, at any depth."""
    if isinstance(node, dict):
        if "containers" in node or "initContainers" in node:
            yield node
        for value in node.values():
            yield from pod_specs(value)
    elif isinstance(node, list):
        for value in node:
            yield from pod_specs(value)


def pod_faults(spec: dict[str, Any]) -> list[str]:
    """Violations of the rules by a pod spec, or by the containers that a patch adds to a pod."""
    faults = []
    if "containers" in spec:
        context = spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True:
            faults.append("may run as root")
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            faults.append("has no seccomp profile")
        if spec.get("automountServiceAccountToken") is not (spec.get("serviceAccountName") == _ASKS_THE_API):
            faults.append("mounts a service account's token, or lacks the one it needs")
    for container in [*spec.get("containers", []), *spec.get("initContainers", [])]:
        faults += [f"{container['name']} {fault}" for fault in _container_faults(container)]
    return faults


def _container_faults(container: dict[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False or context.get("readOnlyRootFilesystem") is not True:
        yield "is not locked down"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if not {"cpu", "memory"} <= set(container.get("resources", {}).get("limits", {})):
        yield "has no limits"
    if not IMAGE.fullmatch(container["image"]):
        yield f"runs {container['image']}, which has no fixed version"
