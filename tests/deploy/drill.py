"""`make test-compose`: a running Compose stack under load while its parts go, and what Prometheus has to say of it.

Start the CPU stack first (`docker compose up -d --wait`). Requests are sent bare, without the client's retries: what
the balancer cannot hide counts. Answers 1 where a roll-out fails a request, or an item's answer changes.
"""

import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from deploy import dashboards
from tests.deploy.alerts import alert_names

ROOT = Path(__file__).parents[2]
TASK = "essay_writing"
_CYCLE_S = 600.0
_TEXT = "Trees cool a street and keep water in the ground; a town that plants them pays less for its drains."


def docker(*arguments: str) -> list[str]:
    """What docker says, line by line."""
    command = [shutil.which("docker") or "docker", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[:-1]


def containers(service: str) -> list[str]:
    """The names of a service's running containers, of either Compose."""
    wanted = f"label=com.docker.compose.service={service}"
    return docker("ps", "--filter", wanted, "--format", "{{.Names}}")


def secret(name: str) -> str:
    return (ROOT / "secrets" / name).read_text(encoding="utf-8").strip()


class Load:
    """Four callers that score small batches, until stopped; counts statuses, keeps answers by item."""

    def __init__(self, url: str, run: str) -> None:
        self._url, self._run = url, run
        self._stop = threading.Event()
        self.statuses: Counter[str] = Counter()
        self.degraded = 0
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(4)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        headers = {"Authorization": f"Bearer {secret('REGRADE_TRAINER_REWARD_KEY')}"}
        with httpx.Client(base_url=self._url, headers=headers, timeout=60.0) as http:
            step = 0
            while not self._stop.is_set():
                step += 1
                items = [
                    {
                        "id": f"{number}-{step}-{n}",
                        "prompt": "Why trees?",
                        "completion": f"{_TEXT} Draft {step % 8}.{n}.",
                    }
                    for n in range(2)
                ]
                body = {"task": TASK, "run": f"{self._run}-{number}", "step": step, "items": items}
                try:
                    answer = http.post("/score", json=body)
                    self.statuses[str(answer.status_code)] += 1
                    self.degraded += answer.status_code == 200 and answer.json()["degraded"]
                except httpx.HTTPError as error:
                    self.statuses[type(error).__name__] += 1


@contextmanager
def under_load(what: str, url: str) -> Iterator[Load]:
    """Score meanwhile; says what came of it."""
    with Load(url, f"{what.replace(' ', '-')}-{int(time.time())}") as load:
        time.sleep(3)
        yield load
        time.sleep(3)
    sys.stdout.write(f"{what}: {dict(load.statuses)}, {load.degraded} of them degraded\n")


def healthy(name: str, limit_s: float = 90.0) -> None:
    """Wait until a container is healthy. Raises `TimeoutError`."""
    deadline = time.monotonic() + limit_s
    while docker("inspect", "--format", "{{.State.Health.Status}}", name) != ["healthy"]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} is not healthy after {limit_s:.0f} s")
        time.sleep(0.5)


def roll_and_kill(url: str) -> int:
    """Every replica restarted in turn; then one killed; then Redis. Answers how many requests a roll-out failed."""
    replicas = containers("reward")
    with under_load("roll-out", url) as rolled:
        for name in replicas:
            started = time.monotonic()
            docker("restart", "--time", "20", name)
            healthy(name)
            sys.stdout.write(f"  {name} is back after {time.monotonic() - started:.1f} s\n")
    with under_load("one replica killed", url):
        docker("kill", replicas[0])
        time.sleep(3)
        docker("start", replicas[0])
        healthy(replicas[0])
    with under_load("Redis restarted", url):
        docker("restart", containers("redis")[0])
        healthy(containers("redis")[0])
    return sum(count for status, count in rolled.statuses.items() if status != "200")


def evolve(url: str) -> int:
    """One cycle on request; answers 1 where none ends in ten minutes: the gate judges hundreds of items."""
    keys = {"Authorization": f"Bearer {secret('REGRADE_META_OPERATOR_KEYS')[2:-2]}"}
    with httpx.Client(base_url=url, headers=keys, timeout=30.0) as http:
        before = http.get(f"/status/{TASK}").json()["completed"]
        http.post(f"/cycles/{TASK}", json={"by": "drill", "reason": "drill"}).raise_for_status()
        deadline = time.monotonic() + _CYCLE_S
        while time.monotonic() < deadline:
            status = http.get(f"/status/{TASK}").json()
            if status["completed"] > before:
                report = http.get(f"/cycles/{TASK}").json()[-1]
                sys.stdout.write(f"cycle ended: activated {report['activated'] or 'nothing'}\n")
                return 0
            time.sleep(1)
    sys.stdout.write(f"no cycle ended: {status}\n")
    return 1


def ask_prometheus(url: str) -> int:
    """Every dashboard query and alert, asked of a real Prometheus; answers how many it refuses."""
    refused, silent = 0, []
    with httpx.Client(base_url=url, timeout=30.0) as http:
        queries = {
            f"{name}: {panel.title} ({legend})": expr.replace("$task", ".*").replace("$price", "0.2")
            for name, panels in dashboards.BOARDS.items()
            for panel in panels
            for legend, expr in panel.queries.items()
        }
        for title, query in queries.items():
            answer: dict[str, Any] = http.get("/api/v1/query", params={"query": query}).json()
            refused += answer["status"] != "success"
            if not answer.get("data", {}).get("result"):
                silent.append(title)
        rules = http.get("/api/v1/rules").json()["data"]["groups"]
    alerts = {rule["name"]: rule for group in rules for rule in group["rules"] if rule["type"] == "alerting"}
    bad = [name for name in alert_names() if alerts[name]["health"] != "ok"]
    firing = [name for name, rule in alerts.items() if rule["state"] != "inactive"]
    sys.stdout.write(f"dashboards: {len(queries)} queries, {refused} refused, {len(silent)} without data\n")
    sys.stdout.writelines(f"  no data: {title}\n" for title in silent)
    sys.stdout.write(f"alerts: {len(alerts)} evaluated, {len(bad)} not healthy, firing or pending: {firing}\n")
    return refused + len(bad)


def main() -> int:
    """Drill the stack on its usual ports."""
    failed = roll_and_kill("http://127.0.0.1:8700")
    failed += evolve("http://127.0.0.1:8701")
    failed += ask_prometheus("http://127.0.0.1:9090")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
