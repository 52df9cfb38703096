"""Grafana's dashboards as tables of panels and queries; `python -m deploy.dashboards` writes them as JSON.

Compose and Kubernetes provision the JSON files. With `--check`, the exit status is 1 if a file is out of date.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent.parent / "k8s" / "components" / "monitoring" / "dashboards"
SOURCE = {"type": "prometheus", "uid": "prometheus"}
TASK = 'task=~"$task"'
ACTIVATIONS = f"max by (task, lineage) (changes(regrade_active_rubric_version{{{TASK}}}[1m])) > 0"
"""Query of the annotation that marks activations."""
_WIDTH, _HEIGHT = 8, 7


class Panel(NamedTuple):
    """A panel: title, queries by legend, unit, whether it shows a single figure, and whether values may be below 0."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    figure: bool = False
    negative: bool = False


def quantile(percent: int, buckets: str) -> str:
    """A percentile over the last five minutes and all replicas."""
    return f"histogram_quantile(0.{percent}, sum by (le) (rate({buckets}[5m])))"


OVERVIEW = (
    Panel("Reward replicas up", {"replicas": 'sum(up{job="reward"})'}, figure=True),
    Panel("Degraded: Redis unreachable", {"degraded": "max(regrade_degraded_state)"}, figure=True),
    Panel(
        "Alerts firing",
        {"alerts": 'count(ALERTS{alertstate="firing", alertname=~"Regrade.*"}) or vector(0)'},
        figure=True,
    ),
    Panel("Items scored", {"{{task}} {{purpose}}": f"sum by (task, purpose) (regrade:items:rate5m{{{TASK}}})"}, "ops"),
    Panel("Mean reward", {"{{task}}": f"regrade:reward:mean15m{{{TASK}}}"}, "percentunit"),
    Panel(
        "Active rubric", {"{{task}} {{lineage}}": f"max by (task, lineage) (regrade_active_rubric_version{{{TASK}}})"}
    ),
    Panel("/score latency (95 %)", {"p95": "regrade:score_seconds:p95_5m"}, "s"),
    Panel(
        "/score failures and refusals",
        {"5xx": "regrade:score_failures:ratio5m", "429": "regrade:score_refused:ratio5m"},
        "percentunit",
    ),
    Panel("Failed judge calls", {"failed": "regrade:judge_failures:ratio5m"}, "percentunit"),
    Panel("Is the judge the bottleneck?", {"busy": "regrade:judge_busy:ratio"}, "percentunit"),
    Panel("Spool", {"{{instance}}": "regrade_spool_bytes"}, "bytes"),
    Panel("Spooled items not yet in Redis", {"{{instance}}": "regrade_spool_records"}),
    Panel(
        "Traces in Redis",
        {
            "{{task}}": f"max by (task) (regrade_trace_log_bytes{{{TASK}}})",
            "limit": "max(regrade_trace_log_limit_bytes)",
        },
        "bytes",
    ),
    Panel("Number of traces in Redis", {"{{task}}": f"max by (task) (regrade_trace_log_records{{{TASK}}})"}),
    Panel(
        "Lineages restored after Redis lost them",
        {"{{task}} {{origin}}": f"sum by (task, origin) (increase(regrade_restored_lineages_total{{{TASK}}}[1d]))"},
    ),
    Panel("Items by tenant", {"{{tenant}}": "sum by (tenant) (rate(regrade_tenant_items_total[5m]))"}, "ops"),
    Panel("Bytes by tenant", {"{{tenant}}": "sum by (tenant) (rate(regrade_tenant_bytes_total[5m]))"}, "Bps"),
    Panel(
        "Requests over a tenant's budget",
        {"{{tenant}}": 'sum by (tenant) (rate(regrade_tenant_requests_total{outcome="refused"}[5m]))'},
        "ops",
    ),
)
JUDGE = (
    Panel(
        "Calls in flight, waiting, capacity",
        {
            "in flight": "sum(regrade_judge_in_flight_calls)",
            "waiting": "sum(regrade_judge_waiting_calls)",
            "capacity": "sum(regrade_judge_capacity_calls)",
        },
    ),
    Panel(
        "Call latency",
        {f"p{q}": quantile(q, "regrade_judge_call_seconds_bucket") for q in (50, 95, 99)},
        "s",
    ),
    Panel("Calls by outcome", {"{{outcome}}": "sum by (outcome) (rate(regrade_judge_call_seconds_count[5m]))"}, "ops"),
    Panel("Retries", {"{{outcome}}": "sum by (outcome) (rate(regrade_judge_retries_total[5m]))"}, "ops"),
    Panel("Ejected endpoints", {"{{instance}}": "regrade_judge_ejected_endpoints"}),
    Panel(
        "Items without a reward",
        {"{{task}} {{outcome}}": f'regrade:items:rate5m{{outcome!~"scored|cached", {TASK}}}'},
        "ops",
    ),
    Panel("Tokens", {"{{task}} {{kind}}": f"regrade:judge_tokens:rate5m{{{TASK}}}"}, "ops"),
    Panel(
        "Tokens per item",
        {
            "{{task}}": (
                f'sum by (task) (regrade:judge_tokens:rate5m{{kind!="cached", {TASK}}})'
                f' / (sum by (task) (regrade:items:rate5m{{outcome="scored", {TASK}}}) > 0)'
            )
        },
    ),
    Panel(
        "Cost per hour at $price per million tokens",
        {"{{task}}": (f'sum by (task) (regrade:judge_tokens:rate5m{{kind!="cached", {TASK}}}) * 3600 / 1e6 * $price')},
        "currencyUSD",
    ),
)
EVOLUTION = (
    Panel(
        "Active rubric", {"{{task}} {{lineage}}": f"max by (task, lineage) (regrade_active_rubric_version{{{TASK}}})"}
    ),
    Panel(
        "Time since activation",
        {"{{task}}": f"time() - min by (task) (regrade_active_rubric_since_seconds{{{TASK}}})"},
        "s",
        figure=True,
    ),
    Panel("Traces waiting for a cycle", {"{{task}}": f"max by (task) (regrade_meta_reward_lag_traces{{{TASK}}})"}),
    Panel(
        "Finished cycles and activations per day",
        {
            "{{task}} cycles": f"sum by (task) (increase(regrade_cycle_seconds_count{{{TASK}}}[1d]))",
            "{{task}} activations": f"sum by (task) (increase(regrade_activations_total{{{TASK}}}[1d]))",
        },
    ),
    Panel(
        "Cycle duration (95 %)",
        {"{{task}}": f"histogram_quantile(0.95, sum by (le, task) (rate(regrade_cycle_seconds_bucket{{{TASK}}}[6h])))"},
        "s",
    ),
    Panel(
        "Failures",
        {"{{task}} {{error}}": f"sum by (task, error) (increase(regrade_cycle_failures_total{{{TASK}}}[15m]))"},
    ),
    Panel(
        "Decisions on candidates per day",
        {"{{outcome}} {{reason}}": f"sum by (outcome, reason) (increase(regrade_meta_verdicts_total{{{TASK}}}[1d]))"},
    ),
    Panel(
        "Stage duration (95 %)",
        {
            "{{stage}}": "histogram_quantile(0.95, sum by (le, stage) "
            f"(rate(regrade_meta_stage_seconds_bucket{{{TASK}}}[6h])))"
        },
        "s",
    ),
    Panel(
        "Automatic rollbacks",
        {"{{task}} {{reason}}": f"sum by (task, reason) (increase(regrade_meta_rollbacks_total{{{TASK}}}[1d]))"},
    ),
    Panel(
        "Audited traces",
        {"{{task}} {{outcome}}": f"sum by (task, outcome) (rate(regrade_meta_audited_traces_total{{{TASK}}}[15m]))"},
        "ops",
    ),
    Panel(
        "Share of traces to audit",
        {"{{task}}": f"max by (task) (regrade_meta_audit_share_ratio{{{TASK}}})"},
        "percentunit",
    ),
    Panel(
        "Traces archived", {"{{task}}": f"sum by (task) (rate(regrade_archived_traces_total{{{TASK}}}[15m]))"}, "ops"
    ),
)
TRAINER = (
    Panel("Step of the run", {"{{instance}}": "max by (instance) (regrade_trainer_step)"}, figure=True),
    Panel(
        "Rubric of the last step", {"{{instance}}": "max by (instance) (regrade_trainer_rubric_version)"}, figure=True
    ),
    Panel("Completions without a reward", {"{{instance}}": "regrade_trainer_unscored_share"}, "percentunit"),
    Panel(
        "Reward of the step: mean, spread",
        {"{{instance}} {{name}}": 'regrade_trainer_figure{name=~"reward|reward_std"}'},
    ),
    Panel("Divergence from the first policy", {"{{instance}} {{name}}": 'regrade_trainer_figure{name=~"kl|entropy"}'}),
    Panel(
        "Loss, gradient norm",
        {"{{instance}} {{name}}": 'regrade_trainer_figure{name=~"loss|grad_norm"}'},
        negative=True,
    ),
    Panel(
        "Reward: median, 90 %",
        {
            f"{{{{task}}}} p{q}": f"histogram_quantile(0.{q}, "
            f"sum by (le, task) (rate(regrade_reward_ratio_bucket{{{TASK}}}[15m])))"
            for q in (50, 90)
        },
        "percentunit",
    ),
    Panel(
        "Is the reward saturating? Share above 0.9",
        {"{{task}}": f"regrade:reward_above_09:ratio15m{{{TASK}}}"},
        "percentunit",
    ),
    Panel("Groups without spread", {"{{task}}": f"regrade:groups_without_spread:ratio15m{{{TASK}}}"}, "percentunit"),
    Panel("Flags", {"{{task}} {{flag}}": f"sum by (task, flag) (rate(regrade_flags_total{{{TASK}}}[15m]))"}, "ops"),
    Panel("Completions that address the judge", {"{{task}}": f"regrade:attacked:ratio15m{{{TASK}}}"}, "percentunit"),
    Panel("Training items", {"{{task}} {{outcome}}": f'regrade:items:rate5m{{purpose="train", {TASK}}}'}, "ops"),
    Panel(
        "/score latency",
        {f"p{q}": quantile(q, 'regrade_http_request_seconds_bucket{route="/score"}') for q in (50, 95, 99)},
        "s",
    ),
)
ENGINE = (
    Panel(
        "vLLM: requests running, waiting",
        {
            "{{job}} running": "sum by (job) (vllm:num_requests_running)",
            "{{job}} waiting": "sum by (job) (vllm:num_requests_waiting)",
        },
    ),
    Panel("vLLM: key-value cache", {"{{job}} {{instance}}": "vllm:kv_cache_usage_perc"}, "percentunit"),
    Panel(
        "vLLM: prompt tokens from the prefix cache",
        {
            "{{job}}": (
                "sum by (job) (rate(vllm:prefix_cache_hits_total[5m]))"
                " / (sum by (job) (rate(vllm:prefix_cache_queries_total[5m])) > 0)"
            )
        },
        "percentunit",
    ),
    Panel(
        "vLLM: tokens",
        {
            "{{job}} prompt": "sum by (job) (rate(vllm:prompt_tokens_total[5m]))",
            "{{job}} generated": "sum by (job) (rate(vllm:generation_tokens_total[5m]))",
        },
        "ops",
    ),
    Panel(
        "vLLM: request latency (95 %)",
        {"{{job}}": "histogram_quantile(0.95, sum by (le, job) (rate(vllm:e2e_request_latency_seconds_bucket[5m])))"},
        "s",
    ),
    Panel("vLLM: preemptions", {"{{job}}": "sum by (job) (rate(vllm:num_preemptions_total[5m]))"}, "ops"),
    Panel(
        "llama.cpp: requests processed, deferred",
        {"processing": "sum(llamacpp:requests_processing)", "deferred": "sum(llamacpp:requests_deferred)"},
    ),
    Panel(
        "llama.cpp: tokens",
        {
            "prompt": "sum(rate(llamacpp:prompt_tokens_total[5m]))",
            "generated": "sum(rate(llamacpp:tokens_predicted_total[5m]))",
        },
        "ops",
    ),
)
BOARDS = {"overview": OVERVIEW, "judge": JUDGE, "evolution": EVOLUTION, "trainer": TRAINER, "engine": ENGINE}


def dashboard(name: str, panels: tuple[Panel, ...]) -> dict[str, Any]:
    """A dashboard in Grafana's schema, with three panels per row."""
    return {
        "uid": f"regrade-{name}",
        "title": f"Regrade: {name}",
        "tags": ["regrade"],
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "links": [{"type": "dashboards", "tags": ["regrade"], "title": "Regrade", "asDropdown": True}],
        "annotations": {"list": [_activations()]},
        "templating": {"list": _variables()},
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    column, row = number % 3, number // 3
    return {
        "id": number + 1,
        "title": panel.title,
        "type": "stat" if panel.figure else "timeseries",
        "datasource": SOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit} | ({} if panel.negative else {"min": 0}), "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for n, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _activations() -> dict[str, Any]:
    return {
        "name": "Activations",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "purple",
        "expr": ACTIVATIONS,
        "titleFormat": "new rubric of {{task}}",
    }


def _variables() -> list[dict[str, Any]]:
    task = {
        "name": "task",
        "type": "query",
        "datasource": SOURCE,
        "query": "label_values(regrade_active_rubric_version, task)",
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "refresh": 2,
        "current": {"text": "All", "value": "$__all"},
    }
    price = {"name": "price", "type": "textbox", "label": "US$ per million tokens", "query": "0.2"}
    return [task, price]


def main() -> int:
    """Write the files, or with `--check` compare them; exit status 1 if one differs."""
    stale = 0
    for name, panels in BOARDS.items():
        text = json.dumps(dashboard(name, panels), indent=1) + "\n"
        path = FOLDER / f"{name}.json"
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.stderr.write(f"{path} is stale: run python -m deploy.dashboards\n")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
