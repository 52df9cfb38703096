"""The alert rules as the Prometheus operator's resource; `python -m deploy.prometheus_rule` writes it.

rules.yml stays the one place where rules are written. `--check` answers 1 where the resource is not what it says.
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
    """Write the resource, or with `--check` compare it; answers 1 where it differs."""
    text = _HEAD + yaml.safe_dump(resource(), sort_keys=False, width=118)
    if "--check" not in sys.argv[1:]:
        RESOURCE.write_text(text, encoding="utf-8")
    elif RESOURCE.read_text(encoding="utf-8") != text:
        sys.stderr.write(f"{RESOURCE} is stale: python -m deploy.prometheus_rule\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
