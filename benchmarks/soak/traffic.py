"""What is sent: requests as trainers, evaluations, candidates, twins, stragglers and broken callers make them."""

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
"""Each task and how many criteria its rubric asks the judge for."""
MAX_BODY_BYTES = 2_000_000

_BATCH, _GROUP = 16, 8
_REQUESTS_A_STEP = 12
_REMEMBERED = 2_000
_VOCABULARY = (
    "tree street rain shade summer river market school garden stone bridge morning neighbour council budget "
    "green quiet narrow early public common patient careful grows keeps holds carries gives needs shows brings "
    "and but while because although until where which that when so for with under over between beside"
)
_KINDS: Mapping[str, int] = {
    "step": 40, "client": 14, "group": 12, "again": 9, "eval": 6, "look": 4, "shadow": 5, "twins": 4, "hasty": 3,
    "bad": 3,
}  # fmt: skip


@dataclass(slots=True, eq=False)
class Order:
    """A request, and what is expected of it."""

    kind: str
    request: dict[str, Any]
    keys: tuple[Key, ...] = ()
    """Of the items, where their outcomes are kept; empty for what leaves nothing."""
    pins: tuple[str, ...] = ()
    """For each item the name of its pin, or "" where it has none."""
    refused: int | None = None
    """The status that a broken one is answered with."""
    timeout_s: float | None = None
    body: bytes = b""
    path: str = "/score"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def items(self) -> list[dict[str, Any]]:
        """As they are sent."""
        return list(self.request.get("items", []))


class _Run:
    """A training run: its ranks share a step until all its requests are made."""

    def __init__(self, task: str, name: str) -> None:
        self.task = task
        self.name = name
        self._requests = count()

    def step(self) -> int:
        return next(self._requests) // _REQUESTS_A_STEP


class Traffic:
    """Makes orders without end, the same ones for the same seed."""

    def __init__(self, seed: str) -> None:
        self._rng = random.Random(seed)
        self._numbers = count()
        self._sentences = [self._sentence() for _ in range(2_000)]
        self._runs = {k: [_Run(t, f"{k}-{t}-{n}") for t in TASKS for n in range(2)] for k in ("step", "client")}
        self._recent: deque[Order] = deque(maxlen=_REMEMBERED)
        self._bad = self._broken()
        self._makers: dict[str, Callable[[], Order]] = {
            "step": lambda: self._stepped("step"),
            "client": lambda: self._stepped("client"),
            "group": self._grouped,
            "again": self._again,
            "eval": self._evaluation,
            "look": self._look,
            "shadow": self._shadow,
            "twins": lambda: self._stepped("step", kind="twins"),
            "hasty": self._hasty,
            "bad": lambda: next(self._bad),
        }

    def next(self) -> Order:
        """One more."""
        kind = self._rng.choices(list(_KINDS), weights=list(_KINDS.values()))[0]
        order = self._makers[kind]()
        if order.keys and order.kind != "again":
            self._recent.append(order)
        return order

    def _stepped(self, runs: str, *, kind: str = "") -> Order:
        run = self._rng.choice(self._runs[runs])
        return _order(kind or runs, run.task, self._items(), run=run.name, step=run.step())

    def _grouped(self) -> Order:
        """Groups of a trainer that does not tell its step, or not even its run; some name their group, some no item."""
        task = self._rng.choice(list(TASKS))
        items = self._items()
        if self._rng.random() < 0.5:
            items = [_without("group", item) for item in items]
        if self._rng.random() < 0.3:
            items = [_without("id", item) for item in items]
            items = [item for n, item in enumerate(items) if item not in items[:n]]
        return _order("group", task, items, **self._rng.choice(({}, {"run": "asynchronous"})))

    def _again(self) -> Order:
        """What was sent before, all of it or a part, as a caller sends it that has not seen the answer."""
        if not self._recent:
            return self._stepped("step")
        old = self._rng.choice(self._recent)
        request = old.request
        if all("id" in item for item in old.items) and self._rng.random() < 0.5:
            first = self._rng.randrange(len(old.items))
            request = request | {"items": old.items[first:]}
        return _kept("again", request)

    def _evaluation(self) -> Order:
        run = self._rng.choice(self._runs["step"])
        return _order("eval", run.task, self._items(), run=run.name, step=run.step(), purpose="eval")

    def _look(self) -> Order:
        """An evaluation outside of any run: nothing is pinned."""
        return _order("look", self._rng.choice(list(TASKS)), self._items(), purpose="eval")

    def _shadow(self) -> Order:
        task = self._rng.choice(list(TASKS))
        rubric = rubric_of(task, f"candidate {self._rng.randrange(4)}")
        request = {"task": task, "items": self._items(), "purpose": "shadow", "rubric": rubric}
        return Order("shadow", request, body=_json(request))

    def _hasty(self) -> Order:
        """A caller who waits so briefly that it has to ask again."""
        order = self._stepped("step", kind="hasty")
        order.headers["Regrade-Timeout-S"] = "0.02"
        return order

    def _items(self) -> list[dict[str, Any]]:
        """Two groups; now and then a text twice, as two items or as the very same one, and now and then a long one."""
        items = []
        for _ in range(_BATCH // _GROUP):
            group, prompt = f"g{next(self._numbers)}", self._prompt()
            items += [self._item(prompt, group) | {"id": self._id()} for _ in range(_GROUP)]
        luck = self._rng.random()
        if luck < 0.1:
            items[1]["completion"] = items[0]["completion"]
        elif luck < 0.15:
            items[1] = items[0]
        elif luck < 0.18:
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

    def _broken(self) -> Iterator[Order]:
        """One of each kind in turn, without end."""
        item = {"prompt": "p", "completion": "A text."}
        task = next(iter(TASKS))
        candidate = rubric_of(task, "not activated")
        requests: list[tuple[int, Any]] = [
            (422, {"task": task, "items": []}),
            (422, {"task": task, "items": [item], "step": 1}),
            (422, {"task": task, "items": [item], "purpose": "shadow"}),
            (422, {"task": task, "items": [item], "rubric": candidate}),
            (422, {"task": task, "items": [item | {"completion": 7}]}),
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
                yield Order("bad", {}, refused=status, body=body, path=path)


def rubric_of(task: str, wording: str) -> dict[str, Any]:
    """A rubric of the task: its criteria for the judge and one check; another wording is another rubric."""
    wanted = ("keeps to the subject", "gives reasons for what it claims", "is written in plain sentences")
    levels = [f"Level {level} of five." for level in LEVELS]
    criteria: list[dict[str, Any]] = [
        {"kind": "llm", "id": f"c{n}", "name": f"Criterion {n}", "levels": levels,
         "description": f"The response {text} ({wording})."}
        for n, text in enumerate(wanted[: TASKS[task]])
    ]  # fmt: skip
    criteria.append({"kind": "check", "id": "words", "name": "Words", "check": {"check": "min_words", "words": 20}})
    return {"criteria": criteria}


def _without(name: str, item: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in item.items() if field != name}


def _order(kind: str, task: str, items: list[dict[str, Any]], **fields: Any) -> Order:
    return _kept(kind, {"task": task, **fields, "items": items})


def _kept(kind: str, request: dict[str, Any]) -> Order:
    """An order whose items leave outcomes."""
    keys = tuple(item_key(request, item) for item in request["items"])
    pins = tuple(pin_name(request, item) for item in request["items"])
    return Order(kind, request, keys, pins, body=_json(request))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
