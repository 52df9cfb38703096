"""Unit tests of the alert rules for `promtool test rules`: series that make each alert fire, and series that do not.

`python -m tests.deploy.alerts FILE` writes them. They are a table here, because promtool's format is verbose.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

RULES = Path(__file__).parents[2] / "k8s" / "components" / "monitoring" / "rules.yml"
_HTTP = 'regrade_http_request_seconds_count{route="/score", status="%s", instance="a"}'
_RISING = "0+%dx120"


class Fire(NamedTuple):
    """Series (one sample per minute) that make an alert fire by `at`, and `quiet` series that do not."""

    firing: dict[str, str]
    quiet: dict[str, str]
    at: str = "60m"


def _http(bad: str, rate: int) -> dict[str, str]:
    return {_HTTP % "200": _RISING % (100 - rate), _HTTP % bad: _RISING % rate}


def _calls(failing: int) -> dict[str, str]:
    name = 'regrade_judge_call_seconds_count{outcome="%s"}'
    return {name % "ok": _RISING % (100 - failing), name % "UpstreamUnavailable": _RISING % failing}


def _slow(below_30: int) -> dict[str, str]:
    name = 'regrade_http_request_seconds_bucket{route="/score", le="%s"}'
    return {name % "30.0": _RISING % below_30, name % "60.0": _RISING % 100, name % "+Inf": _RISING % 100}


def _rewards(below_09: int) -> dict[str, str]:
    return {
        'regrade_reward_ratio_bucket{task="essay_writing", le="0.9"}': _RISING % below_09,
        'regrade_reward_ratio_count{task="essay_writing"}': _RISING % 100,
    }


def _groups(flat: int) -> dict[str, str]:
    name = 'regrade_groups_total{task="essay_writing", spread="%s"}'
    return {name % "none": _RISING % flat, name % "some": _RISING % (100 - flat)}


def _attacks(share: int) -> dict[str, str]:
    return {
        'regrade_flags_total{task="essay_writing", flag="role_spoof"}': _RISING % share,
        'regrade_reward_ratio_count{task="essay_writing"}': _RISING % 100,
    }


def _one(series: str, firing: str, quiet: str) -> Fire:
    return Fire({series: f"{firing}x120"}, {series: f"{quiet}x120"})


def _busy(calls: int, waiting: int) -> dict[str, str]:
    return {
        "regrade_judge_in_flight_calls": f"{calls}x120",
        "regrade_judge_capacity_calls": "64x120",
        "regrade_judge_waiting_calls": f"{waiting}x120",
    }


def _versions(second: int) -> dict[str, str]:
    name = 'regrade_active_rubric_version{task="essay_writing", lineage="main", instance="%s"}'
    return {name % "a": "3x120", name % "b": f"{second}x120"}


ALERTS = {
    "RegradeRewardDown": _one('up{job="reward", instance="a"}', "0", "1"),
    "RegradeReplicaDown": _one('up{job="reward", instance="a"}', "0", "1"),
    "RegradeMetaRewardDown": _one('up{job="meta-reward", instance="a"}', "0", "1"),
    "RegradeDegraded": _one("regrade_degraded_state", "1", "0"),
    "RegradeSpoolFilling": Fire(
        {"regrade_spool_bytes": "80x120", "regrade_spool_limit_bytes": "100x120"},
        {"regrade_spool_bytes": "0x120", "regrade_spool_limit_bytes": "0x120"},
    ),
    "RegradeScoreFailing": Fire(_http("503", 5), _http("503", 0)),
    "RegradeScoreRefused": Fire(_http("429", 10), _http("429", 2)),
    "RegradeScoreSlow": Fire(_slow(80), _slow(99)),
    "RegradeJudgeFailing": Fire(_calls(20), _calls(1)),
    "RegradeJudgeEndpointOut": _one("regrade_judge_ejected_endpoints", "1", "0"),
    "RegradeJudgeSaturated": Fire(_busy(64, 200), _busy(64, 0)),
    "RegradeEngineQueueing": _one('vllm:num_requests_waiting{job="engine"}', "50", "3"),
    "RegradeEngineCacheFull": _one('vllm:kv_cache_usage_perc{job="engine"}', "0.99", "0.6"),
    "RegradeRewardSaturated": Fire(_rewards(10), _rewards(70)),
    "RegradeGroupsWithoutSpread": Fire(_groups(70), _groups(20)),
    "RegradeAttacksRising": Fire(_attacks(10), _attacks(1)),
    "RegradeReplicasDisagree": Fire(_versions(2), _versions(3)),
    "RegradeMetaRewardBehind": _one('regrade_meta_reward_lag_traces{task="essay_writing"}', "3000", "400"),
    "RegradeCyclesFailing": Fire(
        {'regrade_cycle_failures_total{task="essay_writing", error="HTTPError"}': _RISING % 1},
        # Redis was unreachable for ten seconds, and the poll of each lineage failed
        {'regrade_cycle_failures_total{task="essay_writing", error="ConnectionError"}': "0x50 10x70"},
    ),
}


def promtool_tests() -> dict[str, Any]:
    """The table in the format of `promtool test rules`.

    promtool's alert tests compare labels and texts, too; a query of the series `ALERTS` tests only whether it fires.
    """
    tests = [case for name, fire in ALERTS.items() for case in (_case(name, fire, 1), _case(name, fire, 0))]
    return {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}


def _case(name: str, fire: Fire, count: int) -> dict[str, Any]:
    series = fire.firing if count else fire.quiet
    firing = f'(count(ALERTS{{alertname="{name}", alertstate="firing"}}) or vector(0)) > bool 0'
    return {
        "name": f"{name} {'fires' if count else 'stays quiet'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": fire.at, "exp_samples": [{"labels": "{}", "value": count}]}],
    }


def alert_names() -> list[str]:
    """The alerts of the rules file, in order."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(promtool_tests(), indent=1), encoding="utf-8")
