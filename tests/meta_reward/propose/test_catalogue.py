"""The catalogue proposer: checks that the traces call for and that trusted text meets."""

import pytest

from regrade.contracts import Trace
from regrade.tasks import load_pack
from regrade.tasks.anchors import build_anchors
from services.kit.text.segments import sentence_count, words
from services.meta_reward.propose.catalogue import find_missing_checks
from tests.support.builders import ESSAY, TASK, trace

GERMAN = (
    "Viele Menschen denken heute darüber nach, wie sie ihren Alltag besser gestalten können. Am Morgen beginnt der Tag "
    "oft mit einer Tasse Kaffee und einem kurzen Blick in die Zeitung."
)


def _traces(count: int, completion: str = ESSAY) -> list[Trace]:
    return [trace(f"{completion[:5]}{n}", completion=completion) for n in range(count)]


def test_catalogue_proposes_what_the_traces_need_and_honest_text_has() -> None:
    visible = [(o.prompt, o.completion) for o in build_anchors(load_pack(TASK), 24).visible]
    poor = _traces(10, completion="Trees are nice and trees are nice and")
    needs = {need.criterion.check.check: need for need in find_missing_checks(poor, visible)}
    assert {"min_words", "ends_properly"} <= set(needs)
    limit = needs["min_words"].criterion.check
    assert limit.check == "min_words"
    honest = [len(words(completion)) for _, completion in visible]
    assert sum(count >= limit.words for count in honest) >= 0.9 * len(honest)
    honest_traces = [trace(str(n), prompt=p, completion=c) for n, (p, c) in enumerate(visible)]
    assert {n.criterion.check.check for n in find_missing_checks(honest_traces, visible)} <= {"on_topic"}


def test_catalogue_answers_drawn_out_text_with_a_limit_that_honest_text_keeps() -> None:
    visible = [(original.prompt, original.completion) for original in load_pack(TASK).originals]
    long = max(len(completion.split()) for _, completion in visible)
    drawn_out = [trace(str(n), completion=" ".join(f"word{m}" for m in range(4 * long)) + ".") for n in range(8)]
    limit = {n.criterion.id: n.criterion.check for n in find_missing_checks(drawn_out, visible)}["max_words"]
    assert limit.check == "max_words"
    assert long <= limit.words < 2 * long


def test_catalogue_answers_another_language_where_all_trusted_text_has_one() -> None:
    visible = [(original.prompt, original.completion) for original in load_pack(TASK).originals]
    window = _traces(20) + _traces(4, completion=GERMAN)
    proposal = {n.criterion.id: n for n in find_missing_checks(window, visible)}["language"]
    assert proposal.criterion.check.model_dump() == {"check": "language", "language": "en"}
    assert proposal.missing == pytest.approx(4 / 24)
    both = [*visible, ("Schreibe etwas.", GERMAN)]
    assert not any(need.criterion.id == "language" for need in find_missing_checks(window, both))


def test_catalogue_asks_for_sentences_where_trusted_text_has_some() -> None:
    visible = [(original.prompt, original.completion) for original in load_pack(TASK).originals]
    listed = _traces(8, completion=", ".join(ESSAY.replace(".", "").split()) + ".")
    limit = {n.criterion.id: n.criterion.check for n in find_missing_checks(listed, visible)}["min_sentences"]
    assert limit.check == "min_sentences"
    assert 2 <= limit.sentences <= min(sentence_count(completion) for _, completion in visible)
    one_sentence = [(prompt, completion.replace(".", ",") + ".") for prompt, completion in visible]
    assert not any(need.criterion.id == "min_sentences" for need in find_missing_checks(listed, one_sentence))


@pytest.mark.parametrize(("titles", "essays", "called_for"), [(2, 20, False), (3, 60, True), (3, 200, False)])
def test_catalogue_answers_a_hack_while_it_is_rare(titles: int, essays: int, called_for: bool) -> None:
    visible = [(o.prompt, o.completion) for o in build_anchors(load_pack(TASK), 24).visible]
    window = _traces(essays, completion=f"{ESSAY} {ESSAY}") + _traces(titles, completion="Trees: A Study.")
    assert any(need.criterion.check.check == "min_words" for need in find_missing_checks(window, visible)) is called_for
