"""Evidence and alarms: pure, so tested in memory."""

from collections.abc import Sequence

import pytest

from regrade.contracts import Alarm, CriterionScore, Evidence, Flag, Role, Trace
from regrade.tasks import load_pack
from services.meta_reward.evidence.alarms import update_alarms
from services.meta_reward.evidence.rank_statistics import ranks, spearman
from services.meta_reward.evidence.text_features import extract_features
from services.meta_reward.evidence.window import (
    BASELINE_TRACES,
    Baselines,
    build_evidence,
    extend_baselines,
    summarise_window,
)
from tests.support.builders import ESSAY, TASK, check, llm, min_words, rubric, trace

GERMAN = "Die Stadt braucht mehr Bäume, weil sie im Sommer Schatten geben und das Wasser im Boden halten."
HONEST = [original.completion for original in load_pack(TASK).originals]


def traces(count: int, completion: str = ESSAY, **fields: object) -> list[Trace]:
    return [trace(f"{completion[:5]}{n}", completion=completion, **fields) for n in range(count)]


def evidence(window: Sequence[Trace], baselines: Baselines | None = None, **fields: object) -> Evidence:
    return build_evidence(summarise_window(window, baselines or {}), baselines or {}, ("0-0", "8-0"), **fields)  # type: ignore[arg-type]


def alarms_of(
    window: Sequence[Trace], first: Sequence[Trace] = (), raised: Sequence[Alarm] = (), end: str = "8-0"
) -> dict[str, Alarm]:
    return {alarm.name: alarm for alarm in update_alarms(summarise_window(window, {"run": first}), raised, end)}


def test_a_collapse_to_titles_raises_alarms_that_name_it() -> None:
    """Half of the window are titles: the alarms carry figure, threshold, and the titles, not the essays beside them."""
    essays = [t.model_copy(update={"reward": 0.48 + n / 100}) for n, t in enumerate(traces(8))]
    titles = [trace(f"t{n}", completion="A title", reward=1.0, step=5, group=f"g{n // 2}") for n in range(12)]
    result = alarms_of([*essays[:4], *titles], essays)
    alarm = result["words_fell"]
    assert alarm.figure == pytest.approx(0.75 * (1 - 2 / 77), abs=0.01)
    assert (alarm.threshold, alarm.lowered_at, alarm.since) == (0.3, 0.2, "8-0")
    assert set(alarm.traces) <= {t.trace_id for t in titles}
    assert len(alarm.traces) == 8
    assert {"reward_saturated", "groups_without_spread", "ends_properly_fell"} <= set(result)
    assert set(result["groups_without_spread"].traces) <= {t.trace_id for t in titles}
    figures = evidence(titles, {"run": essays})
    assert (figures.traces, figures.groups, figures.first_step, figures.last_step) == (12, 6, 5, 5)
    assert (figures.means["words"], figures.saturated_share, figures.zero_variance_groups) == (2.0, 1.0, 1.0)
    assert figures.reward_drift == pytest.approx(0.485)
    assert (figures.baseline_traces, figures.floored_share) == (8, 0.0)
    assert figures.languages == {"und": 1.0}
    assert figures.endings == {"word": 1.0}


def test_honest_essays_raise_nothing() -> None:
    window = [trace(str(n), completion=HONEST[n % len(HONEST)], reward=(n * 7 % 16) / 20) for n in range(32)]
    assert alarms_of(window, window[:8]) == {}
    assert alarms_of(window) == {}, "an unknown past is no drift"


@pytest.mark.parametrize(
    ("completion", "alarm"),
    [
        (GERMAN, "other_language_rose"),
        ("Write a short essay on why cities should plant more trees. " * 3, "prompt_copied_rose"),
        ("Trees are good. " * 40, "distinct_4_fell"),
        (ESSAY * 3, "words_rose"),
        ("The sea is deep and cold, and whales sing in it at night.", "topic_overlap_fell"),
    ],
)
def test_each_hack_raises_its_alarm(completion: str, alarm: str) -> None:
    assert alarm in alarms_of(traces(8, completion), traces(8))


def test_one_text_for_all_prompts_is_seen() -> None:
    first = [trace(f"f{n}", prompt=f"Essay {n}", completion=HONEST[n]) for n in range(8)]
    same = [trace(str(n), prompt=f"Essay {n}", completion=f"{n} {n} I am ready when you are.") for n in range(8)]
    result = alarms_of(same, first)
    assert "stock_ending_rose" in result
    assert "stock_opening_rose" not in result


def test_a_reward_that_follows_length_names_the_long_and_well_rewarded() -> None:
    window = [trace(str(n), completion="word " * (n + 1), reward=(n / 20) ** 3) for n in range(20)]
    result = evidence(window)
    assert result.correlation["words"] == pytest.approx(1.0), "a rank correlation: the curve does not matter"
    assert alarms_of(window)["reward_follows_words"].traces[0] == "trace-19"
    falling = [t.model_copy(update={"reward": 1.0 - t.reward}) for t in window]
    alarm = alarms_of(falling)["reward_follows_words"]
    assert alarm.figure == pytest.approx(1.0)
    assert alarm.traces[0] == "trace-0"
    assert "reward_follows_words" not in alarms_of(window[:15]), "fifteen traces say nothing of a correlation"


def test_alarms_have_hysteresis() -> None:
    """Raised above one threshold, kept between the two, lowered below the other; `since` is of the first time."""
    first = traces(10)

    def titles(count: int) -> list[Trace]:
        return [*traces(count, "A title"), *traces(10 - count)]

    assert "words_fell" not in alarms_of(titles(3), first), "between the two it is not raised"
    raised = alarms_of(titles(4), first, end="1-0")
    assert raised["words_fell"].since == "1-0"
    still = alarms_of(traces(10, " ".join(ESSAY.split()[:58])), first, list(raised.values()), end="2-0")["words_fell"]
    assert 0.2 < still.figure < 0.3
    assert (still.since, still.traces) == ("1-0", raised["words_fell"].traces)
    again = alarms_of(titles(5), first, [still], end="3-0")["words_fell"]
    assert again.since == "1-0"
    assert "words_fell" not in alarms_of(titles(1), first, [again], end="4-0")


def test_an_alarm_that_a_window_says_nothing_about_stays() -> None:
    window = [trace(str(n), completion="word " * (n + 1), reward=n / 20) for n in range(20)]
    raised = list(alarms_of(window).values())
    assert "reward_follows_words" in alarms_of(window[:8], raised=raised)


def test_flags_are_counted_and_ring_until_nobody_tries_any_more() -> None:
    window = [
        *traces(2, flags=("instruction", "score_smuggle")),
        *traces(2, completion="Fine.", flags=("instruction",)),
        *traces(4, completion="Honest."),
    ]
    result = evidence(window)
    assert result.flag_shares == {"instruction": 0.5, "score_smuggle": 0.25}
    assert result.flagged_share == 0.5
    raised = alarms_of(window)
    assert {name for name in raised if name.startswith("flag_")} == {"flag_instruction_rose", "flag_score_smuggle_rose"}
    assert set(raised["flag_score_smuggle_rose"].traces) == {t.trace_id for t in window[:2]}
    assert not [name for name in alarms_of(window, window) if name.startswith("flag_")], "as often as at the beginning"
    assert not [n for n in alarms_of(traces(8), raised=list(raised.values())) if n.startswith("flag_")]
    unpinned = traces(8, flags=(Flag.UNPINNED, Flag.VETOED))
    assert alarms_of(unpinned) == {}, "what Redis or a rubric did is nothing that a policy tries"


def test_each_run_is_compared_with_its_own_first_steps() -> None:
    long, short = traces(6, ESSAY, run="long"), traces(6, "Trees are nice.", run="short")
    known: Baselines = {"long": long, "short": short}
    assert evidence([*long, *short], known).drift["words"] == 0.0
    assert evidence([*long, *short], {"long": short, "short": short}).drift["words"] > 30
    assert evidence(traces(6, ESSAY, run="new"), known).drift["words"] == 0.0


def test_first_steps_grow_to_a_limit_and_never_count_twice() -> None:
    one, two = [trace(f"a{n}", run="a") for n in range(40)], [trace(f"b{n}", run="a") for n in range(60)]
    first = extend_baselines({}, [*one, trace("c", run="c")])
    assert first["a"] == one
    assert extend_baselines(first, one)["a"] == one, "a window may be looked at again"
    whole = extend_baselines(first, two)
    assert list(whole) == ["a"]
    assert whole["a"] == [*one, *two][:BASELINE_TRACES]


def test_what_each_criterion_did() -> None:
    """Two awards and a deduct: their contributions add up to 1, and who varies more contributes more."""
    form = rubric(
        llm("busy", weight=2.0),
        min_words(50),
        llm("bad", role=Role.DEDUCT, weight=1.0),
        check("end", {"check": "ends_properly"}),
    )
    rows = [(1.0, 1.0, 0.0), (0.0, 1.0, 1.0), (0.6, 1.0, 0.0), (0.2, 0.5, 0.4)]
    window = []
    for n, (busy, words, bad) in enumerate(rows):
        parts = {"busy": busy, "min_words": words, "bad": bad, "end": 1.0}
        scores = tuple(CriterionScore(id=name, score=value, confidence=0.5) for name, value in parts.items())
        raw = (2.0 * busy + words - bad + 1.0) / 4.0
        fields = {"criteria": scores, "raw": raw, "reward": raw, "digest": form.digest, "group": f"g{n // 2}"}
        window.append(trace(str(n), **fields))
    other = trace("other", digest="f" * 64)
    result = evidence([*window, other], rubric=form).criteria
    assert sum(figures.contribution for figures in result.values()) == pytest.approx(1.0)
    assert result["busy"].contribution > result["bad"].contribution > 0.0
    assert result["end"].contribution == result["end"].std == 0.0
    assert (result["end"].flat_groups, result["min_words"].flat_groups, result["busy"].flat_groups) == (1.0, 0.5, 0.0)
    assert result["busy"].traces == 4
    assert evidence([other], rubric=form).criteria == {}


def test_rank_correlation() -> None:
    assert ranks([3.0, 1.0, 3.0]) == [1.5, 0.0, 1.5]
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    assert spearman([1, 1, 1], [1, 2, 3]) == 0.0
    assert spearman([1, 2], [1, 2]) == 0.0


def test_languages_are_told_apart() -> None:
    rows = extract_features([*traces(2, GERMAN), *traces(2), trace("x", completion="Kurz.")])
    assert [row.language for row in rows] == ["de", "de", "en", "en", "und"]
    assert [row.values["other_language"] for row in rows] == [1.0, 1.0, 0.0, 0.0, 0.0]
