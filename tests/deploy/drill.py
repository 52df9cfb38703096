"""`make test-compose`: the real images and the CPU stack under load, with rollouts, faults, and all queries.

Builds the images, starts the stack as a Compose project of its own, scores through the balancer, replaces each reward
replica as docs/operate.md describes, kills a replica, kills Redis, runs a cycle, takes a backup and restores it, runs
all queries of dashboards and alerts, and removes the stack. Figures go to benchmarks/out/compose.json. Exit status 1 if
a rollout fails an attempt, a request fails after retries, an answer changes, no cycle ends, or a query is rejected.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from tests.deploy import stack
from tests.deploy.load import TASK, under_load
from tests.deploy.prometheus import alerts, ask_all, rules, scraped
from tests.deploy.restore import backup_and_restore

OUT = Path("benchmarks/out/compose.json")
_CYCLE_S = 1_200.0


class Report:
    """Figures by name, and the faults."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.faults: list[str] = []

    def note(self, name: str, figure: Any) -> None:
        """Record and print a figure."""
        self.figures[name] = figure
        sys.stdout.write(f"{name:26} {figure if isinstance(figure, str) else json.dumps(figure)}\n")
        sys.stdout.flush()

    def hold(self, true: bool, otherwise: str) -> None:
        """Record a fault unless the condition is true."""
        if not true:
            self.faults.append(otherwise)


def roll(report: Report) -> None:
    """Replace every replica by a new container, one by one, under load: no attempt may fail."""
    started = []
    with under_load("roll-out", stack.REWARD) as load:
        for old in stack.containers("reward"):
            before = stack.containers("reward")
            stack.compose("up", "-d", "--no-deps", "--no-recreate", "--scale", f"reward={len(before) + 1}", "reward")
            [new] = set(stack.containers("reward")) - set(before)
            started.append(round(stack.ready_after(new), 1))
            stack.healthy(new)
            stack.docker("stop", "--time", "150", old)
            stack.docker("rm", old)
    report.note("roll-out", load.figures)
    report.note("replica ready after (s)", started)
    report.hold(set(load.tries) == {"200"}, f"the roll-out failed tries: {load.figures['tries']}")
    report.hold(load.changed() == 0, "answers changed over the roll-out")


def kill(report: Report) -> None:
    """Kill and restart a replica, then Redis: requests are retried, and none fails in the end."""
    with under_load("replica killed", stack.REWARD) as load:
        [name, *_] = stack.containers("reward")
        stack.docker("kill", name)
        time.sleep(5)
        stack.docker("start", name)
        stack.healthy(name)
    report.note("replica killed", load.figures)
    report.hold(load.failed == 0 and load.changed() == 0, "a killed replica failed requests, or changed answers")
    with under_load("Redis killed", stack.REWARD) as load:
        [name] = stack.containers("redis")
        stack.docker("kill", name)
        time.sleep(10)
        stack.docker("start", name)
        stack.healthy(name)
    report.note("Redis killed for 10 s", load.figures)
    report.hold(load.failed == 0, "requests failed for good while Redis was away")
    report.hold(load.degraded > 0, "no answer was degraded while Redis was away")


def evolve(report: Report) -> None:
    """Run one cycle on request: the gate judges hundreds of items through the balancer."""
    keys = {"Authorization": f"Bearer {json.loads(stack.secret('REGRADE_META_OPERATOR_KEYS'))[0]}"}
    started = time.monotonic()
    with httpx.Client(base_url=stack.META, headers=keys, timeout=30.0) as http:
        before = http.get(f"/status/{TASK}").json()["completed"]
        http.post(f"/cycles/{TASK}", json={"by": "drill", "reason": "drill"}).raise_for_status()
        status = http.get(f"/status/{TASK}").json()
        while status["completed"] == before and time.monotonic() < started + _CYCLE_S:
            time.sleep(1)
            status = http.get(f"/status/{TASK}").json()
        report.note("cycle (s)", round(time.monotonic() - started))
        if status["completed"] == before:
            report.hold(False, f"no cycle ended: {status}")
            return
        cycle = http.get(f"/cycles/{TASK}").json()[-1]
        report.note("cycle activated", cycle["activated"] or "nothing")


def ask_prometheus(report: Report) -> None:
    """Run every query of a dashboard, and read every rule and alert."""
    with httpx.Client(base_url=stack.PROMETHEUS, timeout=30.0) as http:
        scraped(http, "reward", 2)
        words = ask_all(http)
        silent = [title for title, word in words.items() if not word.series]
        refused = [title for title, word in words.items() if not word.accepted]
        report.note("dashboard queries", f"{len(words)}, of which {len(words) - len(silent)} return data")
        for title in silent:
            sys.stdout.write(f"  no data: {title}\n")
        held = rules(http)
        unhealthy = [name for name, rule in held.items() if rule["health"] != "ok"]
        states = alerts(http)
    report.note("rules", f"{len(held)}, {len(unhealthy)} not healthy")
    report.note("queries without data", silent)
    report.note("alerts", states)
    report.hold(not refused, f"Prometheus refuses {refused}")
    report.hold(not unhealthy, f"rules are not healthy: {unhealthy}")


def drill() -> Report:
    """Run all steps."""
    report = Report()
    report.note("images built in (s)", stack.build())
    report.note("MB, and without the base", stack.sizes())
    with stack.running() as startup_s:
        report.note("stack healthy after (s)", round(startup_s))
        time.sleep(20)
        report.note("memory at rest", stack.memory())
        with under_load("warm-up", stack.REWARD) as load:
            time.sleep(60)
        report.note("a minute's load", load.figures)
        report.note("memory under load", stack.memory())
        roll(report)
        kill(report)
        evolve(report)
        with under_load("after the cycle", stack.REWARD) as load:
            refused = load.as_tenant("known-to-everybody")
            time.sleep(25)
            refused += load.as_tenant("known-to-everybody")  # a rate needs two scrapes
            time.sleep(25)
            ask_prometheus(report)
        report.note("after the cycle", load.figures)
        report.note("statuses over budget", dict(refused))
        report.hold(refused[429] > 0, "a tenant over its budget was let in")
        report.note("backup and restore", backup_and_restore())
    return report


def main() -> int:
    """Run the drill; returns the exit status."""
    report = drill()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report.figures | {"faults": report.faults}, indent=1) + "\n", encoding="utf-8")
    sys.stdout.writelines(f"FAULT {fault}\n" for fault in report.faults)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
