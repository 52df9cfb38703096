"""`make check-deploy`: every deployment file held against a real validator; what is not to be had is said and left out.

Runs in an environment of its own, `deploy/requirements.txt`: validators' pins are no business of the services'.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import promql_parser
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject

from deploy.pods import pod_faults, pod_specs

ROOT = Path(__file__).parent.parent
MONITORING = ROOT / "k8s" / "components" / "monitoring"
BIN = Path(sys.executable).parent
NO_SCHEMA = {"JobSet"}
"""Kinds whose schema no package carries: said, not checked."""
COMBINATIONS = {
    "sidecar": ["judge-sidecar", "monitoring", "network-policies"],
    "external-redis": ["gpu", "external-redis"],
    "router": ["gpu", "judge-router", "network-policies"],
    "training": ["engine-cpu", "trainer"],
    "training-nodes": ["gpu", "trainer-multinode", "monitoring", "keda", "network-policies"],
}


class Failed(Exception):
    """A file does not pass; the message is the validator's."""


def run(*command: str | Path) -> str:
    """What a tool says. Raises `Failed` with it when it is not content."""
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed((done.stdout + done.stderr).strip())
    return done.stdout


def images() -> str:
    """The Dockerfile and the shell scripts."""
    run(BIN / "hadolint", "Dockerfile")
    run(BIN / "shellcheck", "deploy/setup.sh", ".ci/run")
    return "hadolint, shellcheck"


def compose() -> str:
    """Both Compose files against the specification."""
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml", "compose.cpu.yaml")
    return "compose specification"


def style() -> str:
    """YAML that no parser reads in two ways: no key twice, no odd truth values."""
    run(BIN / "yamllint", "--strict", "-c", "deploy/yamllint.yaml", "compose.yaml", "compose.cpu.yaml", "k8s", "deploy")
    return "yamllint"


def kubernetes() -> str:
    """Every overlay, and components in combinations that no overlay has."""
    rendered = {path.name: render(path) for path in sorted((ROOT / "k8s" / "overlays").iterdir())}
    for name, components in COMBINATIONS.items():
        with tempfile.TemporaryDirectory(dir=ROOT / "k8s") as folder:
            kustomization = {
                "namespace": "regrade",
                "resources": ["../base"],
                "components": [f"../components/{component}" for component in components],
            }
            (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
            rendered[name] = render(Path(folder))
    unused = {path.name for path in (ROOT / "k8s" / "components").iterdir()}
    unused -= {component for components in COMBINATIONS.values() for component in components}
    if unused:
        raise Failed(f"no combination renders {unused}")
    objects = sum(validate(name, text) for name, text in rendered.items())
    return f"{len(rendered)} renderings, {objects} objects"


def render(folder: Path) -> str:
    """What kustomize makes of a folder."""
    return run(BIN / "kubectl", "kustomize", folder)


def validate(name: str, text: str) -> int:
    """Strict schemas, custom resources, and pod security; answers how many objects there are."""
    objects = list(yaml.safe_load_all(text))
    known = [found for found in objects if found["kind"] not in {"ScaledObject", *NO_SCHEMA}]
    with tempfile.NamedTemporaryFile("w", suffix=f"-{name}.yaml") as file:
        yaml.safe_dump_all(known, file)
        file.flush()
        said = run(BIN / "kubernetes-validate", "--strict", "--quiet", file.name)
    if "WARN" in said:
        raise Failed(f"{name}: {said}")
    for found in objects:
        if found["kind"] == "ScaledObject":
            held = ScaledObject.model_validate(found).model_dump(mode="json", by_alias=True, exclude_unset=True)
            if held["spec"] != found["spec"]:  # the model drops what it does not know
                raise Failed(f"{name}: ScaledObject {found['metadata']['name']} has unknown or mistyped keys")
        faults = [fault for spec in pod_specs(found) for fault in pod_faults(spec)]
        if faults:
            raise Failed(f"{name}: {found['kind']} {found['metadata']['name']}: {'; '.join(faults)}")
    return len(objects)


def dashboards() -> str:
    """The dashboards are what deploy/dashboards.py makes, and each query parses."""
    run(sys.executable, "deploy/dashboards.py", "--check")
    queries = [
        target["expr"].replace("$price", "1").replace("$task", ".*")
        for path in sorted((MONITORING / "dashboards").glob("*.json"))
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]
        for target in panel["targets"]
    ]
    for query in queries:
        try:
            promql_parser.parse(query)
        except ValueError as error:
            raise Failed(f"{query}: {error}") from error
    return f"{len(queries)} queries"


def rules() -> str:
    """Prometheus' own word on the rules, the configuration and a firing and a quiet case of each alert."""
    promtool = shutil.which("promtool")
    if promtool is None:
        return "SKIPPED: no promtool (Debian's package prometheus has it)"
    run(promtool, "check", "rules", MONITORING / "rules.yml")
    run(promtool, "check", "config", MONITORING / "prometheus.yml")
    with tempfile.TemporaryDirectory() as folder:
        tests = Path(folder) / "alerts.json"
        run(sys.executable, "-m", "tests.deploy.alerts", tests)
        run(promtool, "test", "rules", tests)
        return f"promtool, {len(json.loads(tests.read_text(encoding='utf-8'))['tests'])} cases of alerts"


CHECKS: tuple[Callable[[], str], ...] = (images, compose, style, kubernetes, dashboards, rules)


def main() -> int:
    """Run every check; answers 1 where one fails."""
    failed = 0
    for check in CHECKS:
        try:
            said = check()
        except Failed as error:
            said, failed = f"FAILED\n{error}", 1
        sys.stdout.write(f"{check.__name__:12} {said}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
