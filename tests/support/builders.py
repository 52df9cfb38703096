"""Small valid values to start a test from."""

import time
from collections.abc import Mapping
from typing import Any

from regrade.contracts import (
    CheckCriterion,
    Criterion,
    GateReport,
    ItemResult,
    LlmCriterion,
    Override,
    Purpose,
    Reason,
    ReasonCode,
    Role,
    Rubric,
    RubricFigures,
    RubricRef,
    Trace,
    Usage,
)
from services.kit import results
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import OutcomeRecord

TASK = "essay_writing"
LINEAGE = LineageKey(TASK, "main")

PROMPT = "Write a short essay on why cities should plant more trees."
ESSAY = (
    "Trees make a city kinder to the people who live in it. Their shade cools the streets in summer, and their roots "
    "drink the rain that would otherwise flood a cellar. A park with old trees gives a child a place to climb and an "
    "old man a bench to rest on. Planting costs little beside what it saves in cooling and in health. Cities that "
    "plant today will be thanked by those who walk under the branches in thirty years."
)


def llm(name: str = "quality", **fields: Any) -> LlmCriterion:
    """A criterion for the judge."""
    levels = tuple(f"Level {level} of {name}." for level in range(6))
    values: dict[str, Any] = {"id": name, "name": name.capitalize(), "description": f"How much {name} is there?"}
    return LlmCriterion.model_validate(values | {"kind": "llm", "levels": levels} | fields)


def check(name: str, parameters: Mapping[str, Any], **fields: Any) -> CheckCriterion:
    """A criterion of the check catalogue; its id is `name`."""
    return CheckCriterion.model_validate({"kind": "check", "id": name, "name": name, "check": parameters} | fields)


def min_words(words: int, **fields: Any) -> CheckCriterion:
    """A check that wants `words` words."""
    return check("min_words", {"check": "min_words", "words": words}, **fields)


def rubric(*criteria: Criterion, **fields: Any) -> Rubric:
    """A rubric of these criteria, of one for the judge when there are none."""
    return Rubric(criteria=criteria or (llm(),), **fields)


def checks_only(words: int = 20) -> Rubric:
    """A rubric that costs no judge call; each number of words has a digest of its own."""
    return rubric(min_words(words))


def item(number: int = 0, **fields: Any) -> dict[str, Any]:
    """An item of a score request; another completion for each number."""
    return {"prompt": PROMPT, "completion": f"{ESSAY} This is version {number} of it."} | fields


def result(digest: str, *, item_id: str = "a", reward: float = 0.5) -> ItemResult:
    """An outcome under a rubric."""
    return ItemResult(
        id=item_id,
        reward=reward,
        raw=reward,
        rubric=RubricRef(lineage="main", scope=None, version=1, digest=digest),
        criteria=(),
        flags=(),
        error=None,
        trace_id=f"trace-{item_id}",
        cached=False,
    )


def trace(item_id: str = "a", **fields: Any) -> Trace:
    """A trace of the task's main lineage."""
    values: dict[str, Any] = {
        "trace_id": f"trace-{item_id}",
        "task": TASK,
        "lineage": "main",
        "scope": None,
        "run": "run",
        "step": 1,
        "group": "group",
        "item_id": item_id,
        "purpose": Purpose.TRAIN,
        "prompt": PROMPT,
        "completion": ESSAY,
        "reference": None,
        "digest": "0" * 64,
        "version": 1,
        "reward": 0.5,
        "raw": 0.5,
        "criteria": (),
        "flags": (),
        "judge_model": "fake-judge",
        "usage": Usage(),
        "latency_ms": 1.0,
        "time": time.time(),
    }
    return Trace.model_validate(values | fields)


def record(identity: str, *, reward: float = 0.5, **fields: Any) -> OutcomeRecord:
    """An outcome and its trace, to be appended."""
    contract = trace(identity, reward=reward, **fields)
    written = results.Trace(**{name: getattr(contract, name) for name in Trace.model_fields})
    outcome = results.parse_result(result("0" * 64, item_id=identity, reward=reward).model_dump_json())
    return OutcomeRecord(identity, outcome, written)


def figures(digest: str) -> RubricFigures:
    """A gate's figures of one rubric."""
    return RubricFigures(
        digest=digest, order=0.9, order_by_transform={}, attacks_resisted=0.9, spread=0.9, judged=10, llm_criteria=1
    )


def gate_report(candidate: str, active: str, *, passed: bool = True, cycle: str = "cycle-1") -> GateReport:
    """A gate's report on `candidate` against `active` (digests)."""
    return GateReport(
        cycle=cycle,
        proposer="catalogue",
        candidate=figures(candidate),
        active=figures(active),
        best_earlier=None,
        order_gain=0.1,
        order_gain_lower=0.05,
        attack_gain=0.0,
        attack_gain_lower=0.0,
        rank_agreement=1.0,
        passed=passed,
        reasons=() if passed else (Reason(code=ReasonCode.NO_GAIN, text="no gain"),),
    )


OVERRIDE = Override(by="tester", reason="a test")


async def activate(store: RubricStore, wanted: Rubric, *, lineage: LineageKey = LINEAGE) -> int:
    """Store a rubric and make it active by override, over whatever is active; returns its version."""
    active = await store.active(lineage)
    digest = await store.put(lineage.task, wanted)
    bootstrap = Override(by="tester", reason="a test", bootstrap=active is None)
    expected = active.digest if active else None
    return await store.activate(lineage, digest, expected=expected, authority=bootstrap)


def veto(name: str, parameters: Mapping[str, Any], threshold: float = 0.5) -> CheckCriterion:
    """A check whose violation makes the reward 0."""
    return check(name, parameters, role=Role.VETO, threshold=threshold, weight=0.0)
