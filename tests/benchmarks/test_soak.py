"""The soak's assessment: what it accepts and what is a violation."""

from collections.abc import Sequence

import pytest

from benchmarks.soak.answer_log import AnswerLog, Violations, item_key, pin_name, trace_key
from benchmarks.soak.assessment import MemoryTrend, assess, check_memory, memory_trend
from benchmarks.soak.monitor import MonitorSample, StoredReward
from benchmarks.soak.traffic import Traffic
from regrade.contracts import ScoreRequest

KEY, PIN = b"item", "run step 1"
HALF = StoredReward("t", 0.5, "d")


def _result(reward: float | None = 0.5, digest: str = "d", flags: Sequence[str] = ()) -> dict[str, object]:
    error = None if reward is not None else {"code": "judge_unavailable", "message": "away", "retryable": True}
    return {"reward": reward, "rubric": {"digest": digest}, "flags": flags, "error": error, "cached": False}


def _answered(*results: dict[str, object], pin: str = PIN, degraded: bool = False, requests: int = 1) -> AnswerLog:
    answers = AnswerLog()
    for _ in range(requests):
        answers.record_request([KEY], [pin])
    for result in results:
        answers.record_answer([KEY], [pin], {"results": [result], "degraded": degraded})
    return answers


def _violated(answers: AnswerLog, *traces: StoredReward, outcomes: Sequence[StoredReward] | None = None) -> list[str]:
    stored: dict[str, list[StoredReward]] = {}
    for outcome in traces if outcomes is None else outcomes:
        stored.setdefault(outcome.trace_id, []).append(outcome)
    return sorted(assess(answers, {KEY: traces} if traces else {}, [stored]).violations.counts)


def test_an_answered_item_with_its_trace_and_outcome_passes() -> None:
    assert _violated(_answered(_result(), _result(), requests=2), HALF) == []
    assert _violated(_answered(_result(None), requests=2)) == []


def test_an_answered_item_without_a_trace_is_a_violation() -> None:
    assert _violated(_answered(_result())) == ["every answered item has a trace"]


def test_a_second_trace_is_a_violation_unless_the_item_is_unpinned() -> None:
    other = StoredReward("u", 0.25, "e")
    assert _violated(_answered(_result()), HALF, other) == ["one trace per item"]
    unpinned = _answered(_result(), _result(0.25, "e"), pin="", requests=2)
    assert _violated(unpinned, HALF, other) == []
    assert [assess(answers, {}, [{}]).items for answers in (unpinned, _answered(_result(), _result(0.25, "e")))] == [
        2,
        1,
    ]
    assert "one trace per item" in _violated(unpinned, HALF, other, HALF)


@pytest.mark.parametrize(("degraded", "requests", "passes"), [(True, 2, True), (True, 1, False), (False, 2, False)])
def test_an_answer_may_differ_from_the_stored_reward_only_in_an_outage(
    degraded: bool, requests: int, passes: bool
) -> None:
    answers = _answered(_result(0.75), degraded=degraded, requests=requests)
    assert _violated(answers, HALF) == ([] if passes else ["the answered reward is the stored one"])


def test_a_trace_without_an_answer_passes_only_if_an_answer_was_lost() -> None:
    answers = _answered(_result(None))
    assert _violated(answers, HALF) == ["every trace has an answer"]
    answers.record_lost([KEY])
    assert _violated(answers, HALF) == []
    assert _violated(AnswerLog(), HALF) == ["every trace has a request"]


def test_traces_and_outcomes_belong_together() -> None:
    answers = _answered(_result())
    assert _violated(answers, HALF, outcomes=[]) == ["every trace has its outcome"]
    assert _violated(answers, HALF, outcomes=[HALF, HALF]) == ["one outcome per item"]
    assert _violated(answers, HALF, outcomes=[HALF, StoredReward("u", 0.5, "d")]) == ["every outcome has its trace"]
    assert _violated(answers, HALF, outcomes=[HALF._replace(reward=0.25)]) == ["every outcome has its trace"]


def test_an_emptied_redis_permits_a_second_trace_and_another_rubric_of_a_pin() -> None:
    answers = _answered(_result(), requests=2)
    answers.epoch = 1
    answers.record_answer([KEY], [PIN], {"results": [_result(0.25, "e")], "degraded": False})
    later = StoredReward("t", 0.25, "e", 1)
    outcomes = [{"t": [HALF]}, {"t": [later]}]
    assert not assess(answers, {KEY: [HALF, later]}, outcomes).violations.counts
    assert sorted(assess(answers, {KEY: [HALF, later, later]}, outcomes).violations.counts) == ["one trace per item"]
    lost = assess(answers, {KEY: [later]}, outcomes).violations.counts
    assert sorted(lost) == ["every outcome has its trace", "the answered reward is the stored one"]


def test_a_pin_has_one_rubric_except_for_flagged_items() -> None:
    assert "one rubric per pin" in _violated(_answered(_result(), _result(0.5, "e"), requests=2), HALF)
    flagged = _answered(_result(), _result(0.5, "e", ["unpinned"]), degraded=True, requests=2)
    assert "one rubric per pin" not in _violated(flagged, HALF)


def test_the_form_of_an_answer_is_checked() -> None:
    wrong = [_result(None) | {"error": None}, _result() | {"error": {"code": "judge_unavailable"}}, _result(1.5)]
    wrong.append(_result(None) | {"error": {"code": "unheard_of"}})
    for result in wrong:
        assert _answered(result).violations.counts.total() == 1
    answers = _answered(_result())
    for status in (200, 429, 503, 500):
        answers.record_status(status, "")
    assert list(answers.violations.counts) == ["no 5xx except 503"]


def _samples(rss: Sequence[float], *, outage: range = range(0), started_at: float = 0.0) -> list[MonitorSample]:
    return [
        MonitorSample(2.0 * n, 1.0, 1.0, 1.0, "redis" if n in outage else "", [started_at], [mb], [40])
        for n, mb in enumerate(rss)
    ]


def test_growing_memory_is_a_violation_and_an_outage_is_not() -> None:
    leak = memory_trend(_samples([100.0 + 0.2 * n for n in range(200)]), 0)
    assert leak.rss_slope == pytest.approx(6.0)
    warm_up = memory_trend(_samples([min(n, 60) for n in range(200)]), 0)
    spooling = memory_trend(
        _samples([100.0 + 50.0 * (n in range(120, 140)) for n in range(200)], outage=range(120, 140)), 0
    )
    assert warm_up.rss_slope == spooling.rss_slope == 0.0
    violations = Violations()
    trends = {"a": leak, "b": warm_up, "c": spooling, "d": MemoryTrend(3, None, None, 41)}
    check_memory(trends, violations, max_descriptors=40)
    assert dict(violations.examples) == {
        "memory does not grow": ["a: +6.00 MB per minute"],
        "descriptors are bounded": ["d: 41, at most 40"],
    }


def test_only_the_last_process_of_a_replica_counts() -> None:
    samples = _samples([100.0 + n for n in range(100)]) + [
        MonitorSample(200.0 + 2.0 * n, 1.0, 1.0, 1.0, "", [199.0], [50.0], [40]) for n in range(100)
    ]
    assert memory_trend(samples, 0).rss_slope == 0.0
    assert memory_trend(samples[:110], 0).rss_slope is None


def test_the_traffic_is_valid() -> None:
    """Every kind occurs, all but the invalid ones are valid, and a trace has its item's key."""
    traffic = Traffic("seed")
    requests = [traffic.next() for _ in range(2_000)]
    assert {planned.kind for planned in requests} >= {
        "step",
        "client",
        "group",
        "repeat",
        "eval",
        "unpinned_eval",
        "shadow",
        "invalid",
    }
    for planned in requests:
        if planned.kind == "invalid":
            continue
        request = ScoreRequest.model_validate_json(planned.body)
        for item, key in zip(request.items, planned.keys, strict=bool(planned.keys)):
            trace = request.model_dump(mode="json") | item.model_dump() | {"item_id": item.id or "#0"}
            assert trace_key(trace) == key == item_key(planned.request, item.model_dump(exclude_none=True))
    assert pin_name({"task": "t", "run": "r", "step": 1, "purpose": "eval"}, {}) == "t r step 1"
    assert pin_name({"task": "t", "purpose": "eval"}, {}) == ""
