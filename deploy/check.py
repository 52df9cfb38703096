"""`make check-deploy`: checks every deployment file by real validators; a missing optional one is reported.

Runs in an environment of its own (`deploy/requirements.txt`), because the validators' pins conflict with the services'.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import promql_parser
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule

from deploy.pods import pod_faults, pod_specs
from deploy.renderings import COMBINATIONS, RenderError, renderings

ROOT = Path(__file__).parent.parent
MONITORING = ROOT / "k8s" / "components" / "monitoring"
COMPOSE = ("compose.yaml", "compose.cpu.yaml", "tests/deploy/compose.drill.yaml")
BIN = Path(sys.executable).parent
CUSTOM = {kind.__name__: kind for kind in (ScaledObject, PodMonitor, PrometheusRule)}
"""Models of custom resources, by kind."""
NO_SCHEMA = {"JobSet"}
"""Kinds without a published schema package; not checked."""


class Failed(Exception):
    """A file does not pass; the message is the validator's output."""


def run(*command: str | Path) -> str:
    """A tool's standard output. Raises `Failed` with its output when it exits with an error."""
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed((done.stdout + done.stderr).strip())
    return done.stdout


def images() -> str:
    """The Dockerfiles and shell scripts."""
    run(BIN / "hadolint", "Dockerfile", "tests/deploy/standins/Dockerfile")
    run(BIN / "shellcheck", "deploy/setup.sh", "tests/deploy/standins/make.sh", ".ci/run")
    return "hadolint, shellcheck"


def compose() -> str:
    """The Compose files against the specification."""
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", *COMPOSE)
    return "compose specification"


def style() -> str:
    """Unambiguous YAML: no duplicate keys, no ambiguous booleans."""
    run(BIN / "yamllint", "--strict", "-c", "deploy/yamllint.yaml", *COMPOSE, "k8s", "deploy")
    return "yamllint"


def kubernetes() -> str:
    """Every overlay, and combinations of components that no overlay has."""
    unused = {path.name for path in (ROOT / "k8s" / "components").iterdir()}
    unused -= {component for components in COMBINATIONS.values() for component in components}
    if unused:
        raise Failed(f"no combination renders {unused}")
    rendered = renderings()
    objects = sum(validate(name, text) for name, text in rendered.items())
    return f"{len(rendered)} renderings, {objects} objects"


def validate(name: str, text: str) -> int:
    """Check strict schemas, custom resources and pod security; returns the number of objects."""
    objects = list(yaml.safe_load_all(text))
    known = [manifest for manifest in objects if manifest["kind"] not in {*CUSTOM, *NO_SCHEMA}]
    with tempfile.NamedTemporaryFile("w", suffix=f"-{name}.yaml") as file:
        yaml.safe_dump_all(known, file)
        file.flush()
        output = run(BIN / "kubernetes-validate", "--strict", "--quiet", file.name)
    if "WARN" in output:
        raise Failed(f"{name}: {output}")
    for manifest in objects:
        if manifest["kind"] in CUSTOM:
            custom(name, manifest)
        faults = [fault for spec in pod_specs(manifest) for fault in pod_faults(spec)]
        if faults:
            raise Failed(f"{name}: {manifest['kind']} {manifest['metadata']['name']}: {'; '.join(faults)}")
    return len(objects)


def custom(name: str, manifest: dict[str, Any]) -> None:
    """Check a custom resource: validate it, dump it and compare, because the models drop unknown keys."""
    where = f"{name}: {manifest['kind']} {manifest['metadata']['name']}"
    try:
        held = (
            CUSTOM[manifest["kind"]].model_validate(manifest).model_dump(mode="json", by_alias=True, exclude_unset=True)
        )
    except ValueError as error:
        raise Failed(f"{where}: {error}") from error
    if held["spec"] != manifest["spec"]:
        raise Failed(f"{where} has unknown or mistyped keys")


def policy() -> str:
    """checkov on every rendering and the Dockerfile, if it is installed (`make check-deploy` installs it)."""
    checkov = ROOT / ".cache" / "checkov" / "bin" / "checkov"
    if not checkov.is_file():
        return "SKIPPED: no checkov in .cache/checkov"
    with tempfile.TemporaryDirectory() as folder:
        for name, text in renderings().items():
            (Path(folder) / f"{name}.yaml").write_text(text, encoding="utf-8")
        shutil.copy(ROOT / "Dockerfile", folder)
        output = run(checkov, "--directory", folder, "--config-file", ROOT / "deploy" / "checkov.yaml")
    passed = sum(int(count) for count in re.findall(r"Passed checks: (\d+)", output))
    return f"checkov, {passed} checks"


def dashboards() -> str:
    """The generated dashboards and rules are up to date; each query and annotation parses."""
    run(sys.executable, "-m", "deploy.dashboards", "--check")
    run(sys.executable, "-m", "deploy.prometheus_rule", "--check")
    boards = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((MONITORING / "dashboards").glob("*.json"))
    ]
    expressions = [target["expr"] for board in boards for panel in board["panels"] for target in panel["targets"]]
    marks = [mark["expr"] for board in boards for mark in board["annotations"]["list"]]
    if len(marks) < len(boards):
        raise Failed("a dashboard does not mark activations")
    queries = [query.replace("$price", "1").replace("$task", ".*") for query in (*expressions, *marks)]
    for query in queries:
        try:
            promql_parser.parse(query)
        except ValueError as error:
            raise Failed(f"{query}: {error}") from error
    return f"{len(queries)} queries"


def rules() -> str:
    """promtool on the rules, the configuration, and a firing and a quiet case of each alert."""
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


CHECKS: tuple[Callable[[], str], ...] = (images, compose, style, kubernetes, policy, dashboards, rules)


def main() -> int:
    """Run all checks, or those named; exit status 1 if one fails."""
    wanted = set(sys.argv[1:])
    failed = 0
    for check in CHECKS:
        if wanted and check.__name__ not in wanted:
            continue
        try:
            result = check()
        except (Failed, RenderError) as error:
            result, failed = f"FAILED\n{error}", 1
        sys.stdout.write(f"{check.__name__:12} {result}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
