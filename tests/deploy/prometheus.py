"""Runs all queries of the deployment's files on a running Prometheus."""

import re
import time
from typing import Any, NamedTuple

import httpx

from deploy import dashboards
from tests.deploy.alerts import alert_names

_METRIC = re.compile(r"\b(?:regrade|vllm|llamacpp)[_:][\w:]+|\bup\b")


class Word(NamedTuple):
    """The result of a query: whether it was accepted, and the number of series returned."""

    accepted: bool
    series: int


def ask(http: httpx.Client, query: str) -> Word:
    """One instant query."""
    answer: dict[str, Any] = http.get("/api/v1/query", params={"query": query}).json()
    return Word(answer["status"] == "success", len(answer.get("data", {}).get("result", ())))


def panel_queries() -> dict[str, str]:
    """Each query and annotation of a dashboard, with its variables filled in as Grafana does."""
    queries = {
        f"{name}: {panel.title} ({legend})": query
        for name, panels in dashboards.BOARDS.items()
        for panel in panels
        for legend, query in panel.queries.items()
    }
    queries["annotation: activations"] = dashboards.ACTIVATIONS
    return {title: query.replace("$task", ".*").replace("$price", "0.2") for title, query in queries.items()}


def ask_all(http: httpx.Client) -> dict[str, Word]:
    """The result of every query of a dashboard."""
    return {title: ask(http, query) for title, query in panel_queries().items()}


def rules(http: httpx.Client) -> dict[str, dict[str, Any]]:
    """The rules loaded by Prometheus, by name."""
    groups = http.get("/api/v1/rules").json()["data"]["groups"]
    return {rule["name"]: rule for group in groups for rule in group["rules"]}


def alerts(http: httpx.Client) -> dict[str, str]:
    """The state of each alert: inactive, pending, firing, or `broken` if its evaluation fails.

    An inactive alert without any of its series is `blind`.
    """
    held = rules(http)
    states = {}
    for name in alert_names():
        rule = held[name]
        series = sorted(set(_METRIC.findall(rule["query"])))
        blind = [metric for metric in series if not ask(http, metric).series]
        state = rule["state"] if rule["health"] == "ok" else "broken"
        states[name] = f"blind ({', '.join(blind)})" if blind and state == "inactive" else state
    return states


def scraped(http: httpx.Client, job: str, count: int, limit_s: float = 120.0) -> None:
    """Wait until this number of a job's targets is up. Raises `TimeoutError`."""
    deadline = time.monotonic() + limit_s
    while ask(http, f'up{{job="{job}"}} == 1').series < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"Prometheus does not see {count} of {job}")
        time.sleep(1.0)
