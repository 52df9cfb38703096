"""Surface measures: known values, and bounds for whatever a policy writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.text import features

_TEXTS = st.text(max_size=200)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("Don't panic, it's well-known.", ["don't", "panic", "it's", "well-known"]),
        ("ÄRGER über 3 Äpfel", ["ärger", "über", "3", "äpfel"]),
        ("--- ... !!!", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert features.words(text) == words


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("One. Two! Three?", 3), ("No end", 0), ("Pi is 3.14 today.", 1), ('He said "go."', 1), ("Wait...", 1)],
)
def test_sentences(text: str, count: int) -> None:
    assert features.sentence_count(text) == count


@pytest.mark.parametrize(
    ("text", "ends"),
    [("Done.", True), ('"Done."\n', True), ("**Done!**", True), ("done", False), ("", False), ('""', False)],
)
def test_endings(text: str, ends: bool) -> None:
    assert features.ends_properly(text) is ends


def test_distinct_copied_and_on_topic() -> None:
    assert features.distinct_share(["a", "b", "a", "b"], 2) == pytest.approx(2 / 3)
    assert features.distinct_share(["a"], 2) == 1.0
    prompt = features.words("Why should cities plant more trees than they do today?")
    assert features.copied_share(prompt, prompt) == 1.0
    assert features.copied_share(features.words("nothing of it stands there at all"), prompt) == 0.0
    assert features.topic_overlap(features.words("cities plant trees today"), prompt) == 1.0
    assert features.topic_overlap(features.words("bananas"), prompt) == 0.0
    assert features.topic_overlap([], features.words("to be or not")) == 1.0


def test_repetition_compresses() -> None:
    assert features.compression_ratio("again and again " * 50) < 0.1
    assert features.compression_ratio("") == 1.0


@given(_TEXTS, _TEXTS, st.integers(1, 8))
def test_shares_stay_in_0_and_1(completion: str, prompt: str, n: int) -> None:
    tokens, prompt_tokens = features.words(completion), features.words(prompt)
    assert 0.0 < features.distinct_share(tokens, n) <= 1.0
    assert 0.0 <= features.copied_share(tokens, prompt_tokens) <= 1.0
    assert 0.0 <= features.topic_overlap(tokens, prompt_tokens) <= 1.0
    assert features.sentence_count(completion) >= 0
