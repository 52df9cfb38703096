"""What was asked and answered, item by item, and what was wrong about an answer on its face."""

import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from regrade.contracts import ErrorCode, Flag

Key = bytes
"""What an item is known by: 16 bytes of a hash of where it belongs and what it says."""
_CODES = frozenset(code.value for code in ErrorCode)
_EXAMPLES = 5


class Answer(NamedTuple):
    """A reward that an item was answered with."""

    reward: float
    digest: str
    degraded: bool


@dataclass(slots=True)
class Item:
    """An item's history. `lost`: a request with it went without an answer, so that it may have been carried out."""

    pinned: bool
    asked: int = 0
    lost: bool = False
    answers: tuple[Answer, ...] = ()
    """The different ones."""


class Violations:
    """How often each rule was broken, with a few examples."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: defaultdict[str, list[str]] = defaultdict(list)

    def note(self, rule: str, example: object) -> None:
        """One more."""
        self.counts[rule] += 1
        if len(self.examples[rule]) < _EXAMPLES:
            self.examples[rule].append(str(example)[:300])


class Book:
    """Written by the clients, read by the verdict."""

    def __init__(self) -> None:
        self.items: dict[Key, Item] = {}
        self.pins: defaultdict[str, set[str]] = defaultdict(set)
        """Digests of the items of a pin, but for those flagged `unpinned`."""
        self.violations = Violations()
        self.statuses: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        """Typed errors of items without a reward."""
        self.flags: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.rewarded = 0
        self.cached = 0
        self.degraded = 0
        self.latencies_s: list[float] = []
        """Of answered requests, but for candidates."""
        self.shadow_latencies_s: list[float] = []
        """Of candidates: they yield to all others."""

    def asked(self, keys: Sequence[Key], pins: Sequence[str]) -> None:
        """A request with these items is sent; an item without a pin has "" for it."""
        for key, pin in dict(zip(keys, pins, strict=True)).items():
            self.items.setdefault(key, Item(bool(pin))).asked += 1

    def lost(self, keys: Sequence[Key]) -> None:
        """Nobody knows what became of a request with these items."""
        for key in keys:
            self.items[key].lost = True

    def status(self, status: int, detail: object) -> None:
        """A status was answered; 5xx but 503 is not to be."""
        self.statuses[str(status)] += 1
        if status >= 500 and status != 503:
            self.violations.note("no 5xx but 503", f"{status}: {detail}")

    def took(self, seconds: float, kind: str) -> None:
        """How long a request took that was answered."""
        (self.shadow_latencies_s if kind == "shadow" else self.latencies_s).append(seconds)

    def answered(self, keys: Sequence[Key], pins: Sequence[str], answer: Mapping[str, Any]) -> None:
        """A 200. Without keys, only its face is looked at."""
        results = answer["results"]
        degraded = bool(answer["degraded"])
        self.degraded += degraded
        if keys and len(results) != len(keys):
            self.violations.note("one result an item", f"{len(results)} for {len(keys)}")
            return
        for n, result in enumerate(results):
            self._look_at(result)
            if result["reward"] is None:
                continue
            self.rewarded += 1
            self.cached += result["cached"]
            if keys:
                self._write(keys[n], pins[n], result, degraded)

    def _look_at(self, result: Mapping[str, Any]) -> None:
        reward, error = result["reward"], result["error"]
        self.flags.update(result["flags"])
        if (reward is None) == (error is None):
            self.violations.note("a reward or a typed error", result)
        elif error is not None:
            self.errors[error["code"]] += 1
            if error["code"] not in _CODES:
                self.violations.note("a reward or a typed error", result)
        elif not 0.0 <= reward <= 1.0:
            self.violations.note("a reward lies in [0, 1]", result)

    def _write(self, key: Key, pin: str, result: Mapping[str, Any], degraded: bool) -> None:
        digest = sys.intern(result["rubric"]["digest"])
        found = Answer(result["reward"], digest, degraded)
        item = self.items[key]
        if found not in item.answers:
            item.answers = (*item.answers, found)
        if pin and Flag.UNPINNED not in result["flags"]:
            self.pins[pin].add(digest)


def item_key(place: Mapping[str, Any], item: Mapping[str, Any]) -> Key:
    """The key of an item of a request. One without an id is told from its like by its text alone."""
    return _key(place, item.get("id", "#0"), item["prompt"], item["completion"])


def trace_key(trace: Mapping[str, Any]) -> Key:
    """The key of the item that left a trace."""
    return _key(trace, trace["item_id"], trace["prompt"], trace["completion"])


def pin_name(request: Mapping[str, Any], item: Mapping[str, Any]) -> str:
    """What an item's pin is called here, "" where it has none."""
    if request.get("purpose", "train") != "train" and request.get("run") is None:
        return ""
    if request.get("step") is not None:
        return f"{request['task']} {request['run']} step {request['step']}"
    return f"{request['task']} {request.get('run')} group {item.get('group') or item['prompt']}"


def _key(place: Mapping[str, Any], name: str, prompt: str, completion: str) -> Key:
    where = (place["task"], place.get("purpose", "train"), str(place.get("run")), str(place.get("step")), name)
    return hashlib.blake2b("\x00".join((*where, prompt, completion)).encode(), digest_size=16).digest()
