"""The soak's verdict: what it lets pass and what it does not."""

from collections.abc import Sequence

import pytest

from benchmarks.soak.answer_log import Book, Violations, item_key, pin_name, trace_key
from benchmarks.soak.assessment import Flatness, compare, flatness, judge_flatness
from benchmarks.soak.monitor import Sample, Traced
from benchmarks.soak.traffic import Traffic
from regrade.contracts import ScoreRequest

KEY, PIN = b"item", "run step 1"
HALF = Traced("t", 0.5, "d")


def _result(reward: float | None = 0.5, digest: str = "d", flags: Sequence[str] = ()) -> dict[str, object]:
    error = None if reward is not None else {"code": "judge_unavailable", "message": "away", "retryable": True}
    return {"reward": reward, "rubric": {"digest": digest}, "flags": flags, "error": error, "cached": False}


def _answered(*results: dict[str, object], pin: str = PIN, degraded: bool = False, asked: int = 1) -> Book:
    book = Book()
    for _ in range(asked):
        book.asked([KEY], [pin])
    for result in results:
        book.answered([KEY], [pin], {"results": [result], "degraded": degraded})
    return book


def _broken(book: Book, *traces: Traced, outcomes: Sequence[Traced] | None = None) -> list[str]:
    kept: dict[str, list[Traced]] = {}
    for outcome in traces if outcomes is None else outcomes:
        kept.setdefault(outcome.trace_id, []).append(outcome)
    return sorted(compare(book, {KEY: traces} if traces else {}, kept).violations.counts)


def test_an_answered_item_with_its_trace_and_outcome_passes() -> None:
    assert _broken(_answered(_result(), _result(), asked=2), HALF) == []
    assert _broken(_answered(_result(None), asked=2)) == []


def test_an_answered_item_without_a_trace_does_not() -> None:
    assert _broken(_answered(_result())) == ["a trace of every answered item"]


def test_a_second_trace_does_not_unless_nothing_pins_the_item() -> None:
    other = Traced("u", 0.25, "e")
    assert _broken(_answered(_result()), HALF, other) == ["one trace an item"]
    looks = _answered(_result(), _result(0.25, "e"), pin="", asked=2)
    assert _broken(looks, HALF, other) == []
    assert [compare(book, {}, {}).items for book in (looks, _answered(_result(), _result(0.25, "e")))] == [2, 1]
    assert "one trace an item" in _broken(looks, HALF, other, HALF)


@pytest.mark.parametrize(("degraded", "asked", "passes"), [(True, 2, True), (True, 1, False), (False, 2, False)])
def test_another_reward_than_the_one_kept_passes_only_in_an_outage(degraded: bool, asked: int, passes: bool) -> None:
    book = _answered(_result(0.75), degraded=degraded, asked=asked)
    assert _broken(book, HALF) == ([] if passes else ["the reward answered is the one kept"])


def test_a_trace_without_an_answer_passes_only_where_an_answer_was_lost() -> None:
    book = _answered(_result(None))
    assert _broken(book, HALF) == ["no trace without an answer"]
    book.lost([KEY])
    assert _broken(book, HALF) == []
    assert _broken(Book(), HALF) == ["a trace is of something that was asked"]


def test_traces_and_outcomes_belong_together() -> None:
    book = _answered(_result())
    assert _broken(book, HALF, outcomes=[]) == ["a trace has its outcome"]
    assert _broken(book, HALF, outcomes=[HALF, HALF]) == ["one outcome an item"]
    assert _broken(book, HALF, outcomes=[HALF, Traced("u", 0.5, "d")]) == ["an outcome has its trace"]
    assert _broken(book, HALF, outcomes=[HALF._replace(reward=0.25)]) == ["an outcome has its trace"]


def test_a_pin_has_one_rubric_but_for_what_is_flagged() -> None:
    assert "one rubric a pin" in _broken(_answered(_result(), _result(0.5, "e"), asked=2), HALF)
    flagged = _answered(_result(), _result(0.5, "e", ["unpinned"]), degraded=True, asked=2)
    assert "one rubric a pin" not in _broken(flagged, HALF)


def test_an_answer_is_looked_at_on_its_face() -> None:
    wrong = [_result(None) | {"error": None}, _result() | {"error": {"code": "judge_unavailable"}}, _result(1.5)]
    wrong.append(_result(None) | {"error": {"code": "unheard_of"}})
    for result in wrong:
        assert _answered(result).violations.counts.total() == 1
    book = _answered(_result())
    for status in (200, 429, 503, 500):
        book.status(status, "")
    assert list(book.violations.counts) == ["no 5xx but 503"]


def _samples(rss: Sequence[float], *, away: range = range(0), born: float = 0.0) -> list[Sample]:
    return [
        Sample(2.0 * n, 1.0, 1.0, 1.0, "redis" if n in away else "", [born], [mb], [40]) for n, mb in enumerate(rss)
    ]


def test_memory_that_grows_is_noted_and_an_outage_is_not() -> None:
    leak = flatness(_samples([100.0 + 0.2 * n for n in range(200)]), 0)
    assert leak.rss_slope == pytest.approx(6.0)
    warm_up = flatness(_samples([min(n, 60) for n in range(200)]), 0)
    spooling = flatness(_samples([100.0 + 50.0 * (n in range(120, 140)) for n in range(200)], away=range(120, 140)), 0)
    assert warm_up.rss_slope == spooling.rss_slope == 0.0
    violations = Violations()
    found = {"a": leak, "b": warm_up, "c": spooling, "d": Flatness(3, None, None, 41)}
    judge_flatness(found, violations, max_descriptors=40)
    assert dict(violations.examples) == {
        "memory lies flat": ["a: +6.00 MB a minute"],
        "descriptors are bounded": ["d: 41, at most 40"],
    }


def test_a_restarted_replica_is_judged_by_its_last_life() -> None:
    samples = _samples([100.0 + n for n in range(100)]) + [
        Sample(200.0 + 2.0 * n, 1.0, 1.0, 1.0, "", [199.0], [50.0], [40]) for n in range(100)
    ]
    assert flatness(samples, 0).rss_slope == 0.0
    assert flatness(samples[:110], 0).rss_slope is None


def test_the_traffic_is_what_the_service_takes() -> None:
    """Every kind turns up, all but the broken ones are valid, and an item is known again by its trace."""
    traffic = Traffic("seed")
    orders = [traffic.next() for _ in range(2_000)]
    assert {order.kind for order in orders} >= {"step", "client", "group", "again", "eval", "look", "shadow", "bad"}
    for order in orders:
        if order.kind == "bad":
            continue
        request = ScoreRequest.model_validate_json(order.body)
        for item, key in zip(request.items, order.keys, strict=bool(order.keys)):
            trace = request.model_dump(mode="json") | item.model_dump() | {"item_id": item.id or "#0"}
            assert trace_key(trace) == key == item_key(order.request, item.model_dump(exclude_none=True))
    assert pin_name({"task": "t", "run": "r", "step": 1, "purpose": "eval"}, {}) == "t r step 1"
    assert pin_name({"task": "t", "purpose": "eval"}, {}) == ""
