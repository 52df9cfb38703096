"""Checks of length. Proposed limits leave a fifth (a quarter above) between themselves and trusted text."""

from collections.abc import Sequence

from regrade.contracts.checks import MOST_SENTENCES, MOST_WORDS, MaxWords, MinSentences, MinWords
from services.kit.checks.base import CheckEntry, CheckInput, CheckNeed, TextPair, ramp, share, tenth_percentile
from services.kit.text.segments import sentence_count, words

_FEWEST_SENTENCES = 2
"""A limit of one sentence would pass a title with a full stop."""


def _min_words(check: MinWords, texts: CheckInput) -> float:
    return ramp(len(words(texts.completion)), 0, check.words)


def _propose_min_words(produced: Sequence[TextPair], trusted: Sequence[TextPair]) -> CheckNeed | None:
    limit = min(MOST_WORDS, int(0.8 * tenth_percentile(len(words(text)) for _, text in trusted)))
    if limit < 1:
        return None
    missing = share(len(words(text)) < limit for _, text in produced)
    return CheckNeed(MinWords(check="min_words", words=limit), missing)


def _max_words(check: MaxWords, texts: CheckInput) -> float:
    return ramp(len(words(texts.completion)), 2 * check.words, check.words)


def _propose_max_words(produced: Sequence[TextPair], trusted: Sequence[TextPair]) -> CheckNeed | None:
    limit = min(MOST_WORDS, int(-1.25 * tenth_percentile(-len(words(text)) for _, text in trusted)))
    if limit < 1:
        return None
    missing = share(len(words(text)) > limit for _, text in produced)
    return CheckNeed(MaxWords(check="max_words", words=limit), missing)


def _min_sentences(check: MinSentences, texts: CheckInput) -> float:
    return ramp(sentence_count(texts.completion), 0, check.sentences)


def _propose_min_sentences(produced: Sequence[TextPair], trusted: Sequence[TextPair]) -> CheckNeed | None:
    limit = min(MOST_SENTENCES, int(0.8 * tenth_percentile(sentence_count(text) for _, text in trusted)))
    if limit < _FEWEST_SENTENCES:
        return None
    missing = share(sentence_count(text) < limit for _, text in produced)
    return CheckNeed(MinSentences(check="min_sentences", sentences=limit), missing)


MIN_WORDS = CheckEntry(evaluate=_min_words, title="Long enough", propose=_propose_min_words)
MAX_WORDS = CheckEntry(evaluate=_max_words, title="Not drawn out", propose=_propose_max_words)
MIN_SENTENCES = CheckEntry(evaluate=_min_sentences, title="More than a line", propose=_propose_min_sentences)
