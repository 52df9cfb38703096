"""Surface measures: known values, and bounds for whatever a policy writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.text import features
from services.kit.text.segments import sentence_count, words

_TEXTS = st.text(max_size=200)


def test_distinct_copied_and_on_topic() -> None:
    assert features.distinct_share(["a", "b", "a", "b"], 2) == pytest.approx(2 / 3)
    assert features.distinct_share(["a"], 2) == 1.0
    prompt = words("Why should cities plant more trees than they do today?")
    assert features.copied_share(prompt, prompt) == 1.0
    assert features.copied_share(words("nothing of it stands there at all"), prompt) == 0.0
    assert features.topic_overlap(words("cities plant trees today"), prompt) == 1.0
    assert features.topic_overlap(words("bananas"), prompt) == 0.0
    assert features.topic_overlap([], words("to be or not")) == 1.0


def test_repetition_compresses() -> None:
    assert features.compression_ratio("again and again " * 50) < 0.1
    assert features.compression_ratio("") == 1.0


@given(_TEXTS, _TEXTS, st.integers(1, 8))
def test_shares_stay_in_0_and_1(completion: str, prompt: str, n: int) -> None:
    tokens, prompt_tokens = words(completion), words(prompt)
    assert 0.0 < features.distinct_share(tokens, n) <= 1.0
    assert 0.0 <= features.copied_share(tokens, prompt_tokens) <= 1.0
    assert 0.0 <= features.topic_overlap(tokens, prompt_tokens) <= 1.0
    assert sentence_count(completion) >= 0
