"""The requests: those of trainers, evaluations, candidates, and of retrying, duplicating and faulty callers."""

import json
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from benchmarks.soak.answer_log import Key, item_key, pin_name
from regrade.contracts import LEVELS

TASKS = {"soak_1": 1, "soak_3": 3}
"""Each task with the number of LLM criteria of its rubric."""
MAX_BODY_BYTES = 2_000_000

_BATCH, _GROUP = 16, 8
_REQUESTS_A_STEP = 12
_REMEMBERED = 2_000
_VOCABULARY = (
    "tree street rain shade summer river market school garden stone bridge morning neighbour council budget "
    "green quiet narrow early public common patient careful grows keeps holds carries gives needs shows brings "
    "and but while because although until where which that when so for with under over between beside"
)
_WEIGHTS: Mapping[str, int] = {
    "step": 40, "client": 14, "group": 12, "repeat": 9, "eval": 6, "unpinned_eval": 4, "shadow": 5, "duplicate": 4,
    "short_timeout": 3, "invalid": 3,
}  # fmt: skip


@dataclass(slots=True, eq=False)
class PlannedRequest:
    """A request and its expected answer."""

    kind: str
    request: dict[str, Any]
    keys: tuple[Key, ...] = ()
    """Keys of the items whose outcomes are stored; empty if none is."""
    pins: tuple[str, ...] = ()
    """The name of each item's pin, or "" if it has none."""
    expected_status: int | None = None
    """The status of the answer to an invalid request."""
    body: bytes = b""
    path: str = "/score"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def items(self) -> list[dict[str, Any]]:
        return list(self.request.get("items", []))


class _Run:
    """A training run, whose step advances after a fixed number of requests by its ranks."""

    def __init__(self, task: str, name: str) -> None:
        self.task = task
        self.name = name
        self._requests = count()

    def step(self) -> int:
        return next(self._requests) // _REQUESTS_A_STEP


class Traffic:
    """An endless supply of requests, determined by the seed."""

    def __init__(self, seed: str) -> None:
        self._rng = random.Random(seed)
        self._numbers = count()
        self._sentences = [self._sentence() for _ in range(2_000)]
        self._runs = {k: [_Run(t, f"{k}-{t}-{n}") for t in TASKS for n in range(2)] for k in ("step", "client")}
        self._recent: deque[PlannedRequest] = deque(maxlen=_REMEMBERED)
        self._invalid = self._invalid_requests()
        self._makers: dict[str, Callable[[], PlannedRequest]] = {
            "step": lambda: self._stepped("step"),
            "client": lambda: self._stepped("client"),
            "group": self._grouped,
            "repeat": self._repeated,
            "eval": self._evaluation,
            "unpinned_eval": self._unpinned_evaluation,
            "shadow": self._shadow,
            "duplicate": lambda: self._stepped("step", kind="duplicate"),
            "short_timeout": self._short_timeout,
            "invalid": lambda: next(self._invalid),
        }

    def next(self) -> PlannedRequest:
        """The next request."""
        kind = self._rng.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()))[0]
        planned = self._makers[kind]()
        if planned.keys and planned.kind != "repeat":
            self._recent.append(planned)
        return planned

    def _stepped(self, runs: str, *, kind: str = "") -> PlannedRequest:
        run = self._rng.choice(self._runs[runs])
        return _request(kind or runs, run.task, self._items(), run=run.name, step=run.step())

    def _grouped(self) -> PlannedRequest:
        """Groups of a trainer that sends no step, or no run either; sometimes without group names or item ids."""
        task = self._rng.choice(list(TASKS))
        items = self._items()
        if self._rng.random() < 0.5:
            items = [_without("group", item) for item in items]
        if self._rng.random() < 0.3:
            items = [_without("id", item) for item in items]
            items = [item for n, item in enumerate(items) if item not in items[:n]]
        return _request("group", task, items, **self._rng.choice(({}, {"run": "asynchronous"})))

    def _repeated(self) -> PlannedRequest:
        """An earlier request or its last items, as from a caller that lost the answer."""
        if not self._recent:
            return self._stepped("step")
        old = self._rng.choice(self._recent)
        request = old.request
        if all("id" in item for item in old.items) and self._rng.random() < 0.5:
            first = self._rng.randrange(len(old.items))
            request = request | {"items": old.items[first:]}
        return _planned("repeat", request)

    def _evaluation(self) -> PlannedRequest:
        run = self._rng.choice(self._runs["step"])
        return _request("eval", run.task, self._items(), run=run.name, step=run.step(), purpose="eval")

    def _unpinned_evaluation(self) -> PlannedRequest:
        """An evaluation without a run: nothing is pinned."""
        return _request("unpinned_eval", self._rng.choice(list(TASKS)), self._items(), purpose="eval")

    def _shadow(self) -> PlannedRequest:
        task = self._rng.choice(list(TASKS))
        rubric = rubric_of(task, f"candidate {self._rng.randrange(4)}")
        request = {"task": task, "items": self._items(), "purpose": "shadow", "rubric": rubric}
        return PlannedRequest("shadow", request, body=_json(request))

    def _short_timeout(self) -> PlannedRequest:
        """A caller with a timeout so short that it has to retry."""
        planned = self._stepped("step", kind="short_timeout")
        planned.headers["Regrade-Timeout-S"] = "0.02"
        return planned

    def _items(self) -> list[dict[str, Any]]:
        """Two groups; sometimes with a repeated text, a repeated item, or a long text."""
        items = []
        for _ in range(_BATCH // _GROUP):
            group, prompt = f"g{next(self._numbers)}", self._prompt()
            items += [self._item(prompt, group) | {"id": self._id()} for _ in range(_GROUP)]
        draw = self._rng.random()
        if draw < 0.1:
            items[1]["completion"] = items[0]["completion"]
        elif draw < 0.15:
            items[1] = items[0]
        elif draw < 0.18:
            items[2]["completion"] = ""
        return items

    def _item(self, prompt: str, group: str | None) -> dict[str, Any]:
        sentences = self._rng.randint(300, 800) if self._rng.random() < 0.002 else self._rng.randint(2, 6)
        item = {"prompt": prompt, "completion": f"{next(self._numbers)}. {self._prose(sentences)}"}
        return item if group is None else item | {"group": group}

    def _prompt(self) -> str:
        return f"Write an essay, number {next(self._numbers)}. {self._prose(3)}"

    def _id(self) -> str:
        return f"i{next(self._numbers)}"

    def _prose(self, sentences: int) -> str:
        return " ".join(self._rng.choices(self._sentences, k=sentences))

    def _sentence(self) -> str:
        return " ".join(self._rng.choices(_VOCABULARY.split(), k=11)).capitalize() + "."

    def _invalid_requests(self) -> Iterator[PlannedRequest]:
        """An invalid request of each kind in turn, endlessly."""
        item = {"prompt": "p", "completion": "A text."}
        task = next(iter(TASKS))
        candidate = rubric_of(task, "not activated")
        requests: list[tuple[int, Any]] = [
            (422, {"task": task, "items": []}),
            (422, {"task": task, "items": [item], "step": 1}),
            (422, {"task": task, "items": [item], "purpose": "shadow"}),
            (422, {"task": task, "items": [item], "rubric": candidate}),
            (422, {"task": task, "items": "no list"}),
            (422, {"task": task, "items": [item], "unheard_of": True}),
            (404, {"task": "unheard_of", "items": [item]}),
            (404, {"task": task, "items": [item], "rubric": "0" * 64}),
            (413, {"task": task, "items": [item | {"completion": "x" * MAX_BODY_BYTES}]}),
        ]
        bodies = [(status, _json(request), "/score") for status, request in requests]
        bodies += [
            (422, b'{"task": "soak_1", "items": [', "/score"),
            (422, b"\xff\xfe", "/score"),
            (404, b"{}", "/scores"),
        ]
        while True:
            for status, body, path in bodies:
                yield PlannedRequest("invalid", {}, expected_status=status, body=body, path=path)


def rubric_of(task: str, wording: str) -> dict[str, Any]:
    """A rubric of the task: its LLM criteria and one check; a different `wording` makes a different rubric."""
    descriptions = ("keeps to the subject", "gives reasons for what it claims", "is written in plain sentences")
    levels = [f"Level {level} of five." for level in LEVELS]
    criteria: list[dict[str, Any]] = [
        {"kind": "llm", "id": f"c{n}", "name": f"Criterion {n}", "levels": levels,
         "description": f"The response {text} ({wording})."}
        for n, text in enumerate(descriptions[: TASKS[task]])
    ]  # fmt: skip
    criteria.append({"kind": "check", "id": "words", "name": "Words", "check": {"check": "min_words", "words": 20}})
    return {"criteria": criteria}


def _without(name: str, item: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in item.items() if field != name}


def _request(kind: str, task: str, items: list[dict[str, Any]], **fields: Any) -> PlannedRequest:
    return _planned(kind, {"task": task, **fields, "items": items})


def _planned(kind: str, request: dict[str, Any]) -> PlannedRequest:
    """A request whose items leave outcomes."""
    keys = tuple(item_key(request, item) for item in request["items"])
    pins = tuple(pin_name(request, item) for item in request["items"])
    return PlannedRequest(kind, request, keys, pins, body=_json(request))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
