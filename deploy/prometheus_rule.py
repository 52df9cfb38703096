"""The alert rules as the Prometheus operator's resource; `python -m deploy.prometheus_rule` writes it.

rules.yml is the only source of the rules. With `--check`, the exit status is 1 if the resource is out of date.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

COMPONENTS = Path(__file__).parent.parent / "k8s" / "components"
RULES = COMPONENTS / "monitoring" / "rules.yml"
RESOURCE = COMPONENTS / "prometheus-operator" / "rules.yaml"
_HEAD = "# Written by deploy/prometheus_rule.py from components/monitoring/rules.yml.\n"


def resource() -> dict[str, Any]:
    """The rules file as a PrometheusRule."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "regrade"},
        "spec": {"groups": groups},
    }


def main() -> int:
    """Write the resource, or with `--check` compare it; exit status 1 if it differs."""
    text = _HEAD + yaml.safe_dump(resource(), sort_keys=False, width=118)
    if "--check" not in sys.argv[1:]:
        RESOURCE.write_text(text, encoding="utf-8")
    elif RESOURCE.read_text(encoding="utf-8") != text:
        sys.stderr.write(f"{RESOURCE} is stale: run python -m deploy.prometheus_rule\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
