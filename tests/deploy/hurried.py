"""A real Prometheus with the real rules and durations divided by thirty: half an hour becomes one minute.

Expressions and thresholds are those of rules.yml.
"""

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml

from tests.deploy.alerts import RULES
from tests.support.waiting import wait_until

HASTE = 30
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def hurried(rules: str) -> str:
    """The rules with every window and every `for` divided by `HASTE`."""

    def divided(duration: re.Match[str]) -> str:
        return f"{duration[1]}{int(duration[2]) * _SECONDS[duration[3]] // HASTE}s"

    return re.sub(r"(\[|for: )(\d+)([smhd])", divided, rules)


class Hurried:
    """The alerts of a running Prometheus: those that fire, and when each first fired."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=10.0)
        self._started = time.monotonic()
        self.seen: dict[str, float] = {}

    def firing(self) -> set[str]:
        """The alerts that are firing."""
        alerts = self._http.get("/api/v1/alerts").json()["data"]["alerts"]
        now = {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}
        for name in now - self.seen.keys():
            self.seen[name] = round(time.monotonic() - self._started)
        return now

    def wait_for(self, *names: str, timeout_s: float = 180.0) -> None:
        """Wait until all of these alerts have fired. Raises `TimeoutError`."""
        wait_until(lambda: not (set(names) - self.seen.keys() - self.firing()), " ".join(names), timeout_s=timeout_s)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


@contextmanager
def hurried_prometheus(folder: Path, targets: Mapping[str, list[str]]) -> Iterator[Hurried]:
    """A Prometheus that scrapes each job's targets once a second, for the duration of a `with` block."""
    jobs = [{"job_name": job, "static_configs": [{"targets": places}]} for job, places in targets.items()]
    every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config = {"global": every, "rule_files": ["rules.yml"], "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "rules.yml").write_text(hurried(RULES.read_text(encoding="utf-8")), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    program = shutil.which("prometheus")
    if program is None:
        raise FileNotFoundError("no prometheus on the path (Debian's package prometheus has it)")
    command = [program, "--config.file", str(folder / "prometheus.yml"), f"--web.listen-address={address}"]
    command += ["--storage.tsdb.path", str(folder / "data")]
    with (folder / "prometheus.log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    watched = Hurried(f"http://{address}")
    try:
        wait_until(lambda: _ready(f"http://{address}/-/ready"), "Prometheus")
        yield watched
    finally:
        watched.close()
        process.terminate()
        process.wait(30.0)


def _ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0).status_code == 200
    except httpx.TransportError:
        return False
