"""Callers that score continuously, and the results of their requests."""

import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import httpx

from regrade.tasks import load_pack
from tests.deploy.stack import secret

TASK = "essay_writing"
_CALLERS = 4
_TRIES = 8
_PAUSE_S = 0.05
"""Between a caller's requests: the judge, Prometheus and the callers share two cores."""
_TEXT = "Trees cool a street and keep water in the ground; a town that plants them pays less for its drains."


class Load:
    """Small training batches of two completions of a prompt, by four callers, until stopped.

    A request is retried as the client does: after 429, 503 and broken connections. `tries` counts the results of all
    attempts, `failed` the requests for which no attempt succeeded.
    """

    def __init__(self, url: str, run: str) -> None:
        self._url, self._run = url, run
        self._stop = threading.Event()
        self._prompts = [prompt.prompt for prompt in load_pack(TASK).prompts[:4]]
        self.tries: Counter[str] = Counter()
        self.failed = 0
        self.degraded = 0
        self.seconds: list[float] = []
        self.answers: list[tuple[dict[str, Any], list[float | None]]] = []
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(_CALLERS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def figures(self) -> dict[str, Any]:
        """The figures to report."""
        ordered = sorted(self.seconds)
        return {
            "requests": len(ordered) + self.failed,
            "failed": self.failed,
            "tries": dict(self.tries),
            "degraded": self.degraded,
            "p50_ms": round(1e3 * statistics.median(ordered), 1) if ordered else None,
            "p99_ms": round(1e3 * ordered[int(0.99 * len(ordered))], 1) if ordered else None,
        }

    def changed(self, most: int = 40) -> int:
        """Repeat the last requests; returns the number of rewards that differ."""
        with _caller(self._url) as http:
            again = [(first, _rewards(http.post("/score", json=body).json())) for body, first in self.answers[-most:]]
        return sum(before != after for first, repeated in again for before, after in zip(first, repeated, strict=True))

    def as_tenant(self, key: str) -> Counter[int]:
        """Score as a tenant with a very small budget; returns the statuses."""
        with httpx.Client(base_url=self._url, headers={"Authorization": f"Bearer {key}"}, timeout=60.0) as http:
            return Counter(http.post("/score", json=self._body(9, step)).status_code for step in range(8))

    def _call(self, number: int) -> None:
        with _caller(self._url) as http:
            for step in count():
                if self._stop.is_set():
                    return
                self._score(http, self._body(number, step))
                time.sleep(_PAUSE_S)

    def _body(self, number: int, step: int) -> dict[str, Any]:
        """Mostly texts with cached judgements, so that requests are fast; one in forty is new."""
        prompt = self._prompts[step % len(self._prompts)]
        cut = " ".join(_TEXT.split()[: 4 + step % 4])
        completions = (cut, f"{_TEXT} Draft {self._run} {number} {step}." if step % 40 == 39 else _TEXT)
        items = [
            {"id": f"{number}-{step}-{n}", "prompt": prompt, "completion": completion}
            for n, completion in enumerate(completions)
        ]
        return {"task": TASK, "run": f"{self._run}-{number}", "step": step, "items": items}

    def _score(self, http: httpx.Client, body: dict[str, Any]) -> None:
        started = time.monotonic()
        for attempt in range(_TRIES):
            try:
                answer = http.post("/score", json=body)
                self.tries[str(answer.status_code)] += 1
            except httpx.TransportError as error:
                self.tries[type(error).__name__] += 1
            else:
                if answer.status_code == 200:
                    response = answer.json()
                    self.seconds.append(time.monotonic() - started)
                    self.degraded += response["degraded"]
                    self.answers.append((body, _rewards(response)))
                    return
            time.sleep(0.25 * 2**attempt)
        self.failed += 1


def _caller(url: str) -> httpx.Client:
    key = {"Authorization": f"Bearer {secret('REGRADE_TRAINER_REWARD_KEY')}"}
    return httpx.Client(base_url=url, headers=key, timeout=60.0)


def _rewards(response: dict[str, Any]) -> list[float | None]:
    return [result["reward"] for result in response["results"]]


@contextmanager
def under_load(what: str, url: str) -> Iterator[Load]:
    """Score for the duration of a `with` block, and a few seconds before and after it."""
    with Load(url, f"{what.replace(' ', '-')}-{int(time.time())}") as load:
        time.sleep(3)
        yield load
        time.sleep(3)
