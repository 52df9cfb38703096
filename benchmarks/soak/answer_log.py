"""Records requests and answers by item, and the rules that an answer breaks by itself."""

import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from regrade.contracts import ErrorCode, Flag

Key = bytes
"""Identity of an item: a 16-byte hash of its task, purpose, run, step, id and texts."""
_CODES = frozenset(code.value for code in ErrorCode)
_EXAMPLES = 5


class ItemAnswer(NamedTuple):
    """An answer to an item."""

    reward: float
    digest: str
    degraded: bool


@dataclass(slots=True)
class ItemHistory:
    """The requests and answers of an item. `answer_lost`: a request got no answer, and may have been processed."""

    pinned: bool
    requests: int = 0
    answer_lost: bool = False
    answers: tuple[ItemAnswer, ...] = ()
    """Distinct ones."""


class Violations:
    """How often each rule was broken, with a few examples."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, rule: str, example: object) -> None:
        self.counts[rule] += 1
        if len(self.examples[rule]) < _EXAMPLES:
            self.examples[rule].append(str(example)[:300])


class AnswerLog:
    """Filled by the clients, read by the assessment."""

    def __init__(self) -> None:
        self.items: dict[Key, ItemHistory] = {}
        self.pins: defaultdict[str, set[str]] = defaultdict(set)
        """Rubric digests of each pin's items, except items flagged `unpinned`."""
        self.violations = Violations()
        self.epoch = 0
        """How often Redis has been emptied: a pin then may get another rubric."""
        self.statuses: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        """Error codes of items without a reward."""
        self.flags: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.rewarded = 0
        self.cached = 0
        self.degraded = 0
        self.latencies_s: list[float] = []
        """Of answered requests, except candidates'."""
        self.shadow_latencies_s: list[float] = []
        """Of candidates' requests, which have the lowest priority."""

    def record_request(self, keys: Sequence[Key], pins: Sequence[str]) -> None:
        """A request with these items is being sent; the pin of an item without one is ""."""
        for key, pin in dict(zip(keys, pins, strict=True)).items():
            self.items.setdefault(key, ItemHistory(bool(pin))).requests += 1

    def record_lost(self, keys: Sequence[Key]) -> None:
        """A request with these items got no answer."""
        for key in keys:
            self.items[key].answer_lost = True

    def record_status(self, status: int, detail: object) -> None:
        """An HTTP status; a 5xx other than 503 is a violation."""
        self.statuses[str(status)] += 1
        if status >= 500 and status != 503:
            self.violations.add("no 5xx except 503", f"{status}: {detail}")

    def record_latency(self, seconds: float, kind: str) -> None:
        """The duration of an answered request."""
        (self.shadow_latencies_s if kind == "shadow" else self.latencies_s).append(seconds)

    def record_answer(self, keys: Sequence[Key], pins: Sequence[str], answer: Mapping[str, Any]) -> None:
        """An answer with status 200. Without keys, only its form is checked."""
        results = answer["results"]
        degraded = bool(answer["degraded"])
        self.degraded += degraded
        if keys and len(results) != len(keys):
            self.violations.add("one result per item", f"{len(results)} for {len(keys)}")
            return
        for n, result in enumerate(results):
            self._check_result(result)
            if result["reward"] is None:
                continue
            self.rewarded += 1
            self.cached += result["cached"]
            if keys:
                self._record_result(keys[n], pins[n], result, degraded)

    def _check_result(self, result: Mapping[str, Any]) -> None:
        reward, error = result["reward"], result["error"]
        self.flags.update(result["flags"])
        if (reward is None) == (error is None):
            self.violations.add("a reward or a typed error", result)
        elif error is not None:
            self.errors[error["code"]] += 1
            if error["code"] not in _CODES:
                self.violations.add("a reward or a typed error", result)
        elif not 0.0 <= reward <= 1.0:
            self.violations.add("a reward lies in [0, 1]", result)

    def _record_result(self, key: Key, pin: str, result: Mapping[str, Any], degraded: bool) -> None:
        digest = sys.intern(result["rubric"]["digest"])
        answer = ItemAnswer(result["reward"], digest, degraded)
        item = self.items[key]
        if answer not in item.answers:
            item.answers = (*item.answers, answer)
        if pin and Flag.UNPINNED not in result["flags"]:
            self.pins[f"{pin} after {self.epoch} losses" if self.epoch else pin].add(digest)


def item_key(context: Mapping[str, Any], item: Mapping[str, Any]) -> Key:
    """The key of an item of a request; items without an id differ by their texts alone."""
    return _key(context, item.get("id", "#0"), item["prompt"], item["completion"])


def trace_key(trace: Mapping[str, Any]) -> Key:
    """The key of a trace's item."""
    return _key(trace, trace["item_id"], trace["prompt"], trace["completion"])


def pin_name(request: Mapping[str, Any], item: Mapping[str, Any]) -> str:
    """A name for the pin of an item, "" if it has none."""
    if request.get("purpose", "train") != "train" and request.get("run") is None:
        return ""
    if request.get("step") is not None:
        return f"{request['task']} {request['run']} step {request['step']}"
    return f"{request['task']} {request.get('run')} group {item.get('group') or item['prompt']}"


def _key(context: Mapping[str, Any], name: str, prompt: str, completion: str) -> Key:
    origin = (context["task"], context.get("purpose", "train"), str(context.get("run")), str(context.get("step")), name)
    return hashlib.blake2b("\x00".join((*origin, prompt, completion)).encode(), digest_size=16).digest()
