"""The client names its step's first rubric in later calls, and no call fails because of that."""

from typing import Any

import pytest

from regrade import PinConflictError, RewardClient
from regrade.contracts import ScoreResponse, Usage
from services.kit.store.rubric_store import RubricStore
from tests.support.builders import LINEAGE, TASK, activate, checks_only, item, result
from tests.support.scripted import Answer, scripted_service

ONE, TWO = "1" * 64, "2" * 64


def _scored(*digests: str) -> Answer:
    response = ScoreResponse(results=tuple(map(result, digests)), usage=Usage(), degraded=False)
    return Answer(200, response.model_dump(mode="json"))


async def _names(calls: list[dict[str, Any]], *answers: Answer) -> list[Any]:
    """The rubric that each request named."""
    with scripted_service(answers) as service:
        async with RewardClient(service.url) as client:
            for call in calls:
                await client.score(TASK, **{"items": [item()]} | call)
    return [request.body["rubric"] for request in service.requests]


async def test_later_calls_of_a_step_name_its_first_rubric() -> None:
    step = {"run": "r", "step": 1}
    assert await _names([{**step} for _ in range(3)], _scored(ONE), _scored(TWO)) == [None, ONE, ONE]


@pytest.mark.parametrize(
    "other",
    [
        {"run": "r", "step": 2},
        {"run": "s", "step": 1},
        {"run": "r", "step": 1, "lineage": "mine"},
        {"run": "r"},
        {"run": "r", "step": 1, "purpose": "eval"},
        {"run": "r", "step": 1, "items": [item(scope="algebra")]},
    ],
)
async def test_what_may_have_another_rubric_names_none(other: dict[str, Any]) -> None:
    assert await _names([{"run": "r", "step": 1}, other], _scored(ONE)) == [None, None]
    assert await _names([{**other}, {"run": "r", "step": 1}], _scored(ONE)) == [None, None]


async def test_the_callers_own_rubric_is_kept() -> None:
    assert await _names([{"run": "r", "step": 1}, {"run": "r", "step": 1, "rubric": 7}], _scored(ONE)) == [None, 7]


async def test_after_a_response_by_several_rubrics_none_is_named() -> None:
    step = {"run": "r", "step": 1, "items": [item(), item(1)]}
    assert await _names([{**step}, {**step}], _scored(ONE, TWO)) == [None, None]


@pytest.mark.parametrize("refusal", [(409, "pinned"), (404, "unknown_rubric"), (422, "never_active")])
async def test_a_name_that_is_refused_is_dropped(refusal: tuple[int, str]) -> None:
    refused = Answer(refusal[0], {"error": refusal[1], "detail": "why"})
    answers = (_scored(ONE), refused, _scored(TWO), _scored(TWO))
    assert await _names([{"run": "r", "step": 1} for _ in range(3)], *answers) == [None, ONE, None, TWO]


async def test_the_callers_own_conflict_is_raised() -> None:
    with scripted_service([Answer(409, {"error": "pinned", "detail": "why"})]) as service:
        async with RewardClient(service.url) as client:
            with pytest.raises(PinConflictError):
                await client.score(TASK, [item()], run="r", step=1, rubric=3)
    assert len(service.requests) == 1


async def test_it_remembers_a_bounded_number_of_steps() -> None:
    steps = [*range(300), 299, 0]
    names = await _names([{"run": "r", "step": step} for step in steps], _scored(ONE))
    assert names == [None] * 300 + [ONE, None]


async def test_normal_operation_has_no_conflict(client: RewardClient, store: RubricStore) -> None:
    """Activations in mid-step, rollbacks, scoped and unscoped items in turn: a step stays with its first rubric."""
    for step in range(4):
        first = await client.score(TASK, [item(step)], run="r", step=step)
        await activate(store, checks_only(step + 3))
        if step > 1:
            await store.rollback(LINEAGE, by="me", reason="why")
        for scope in (None, "narrative", None):
            answer = await client.score(TASK, [item(step + 50, scope=scope)], run="r", step=step)
            if scope is None:
                assert answer.results[0].rubric == first.results[0].rubric
