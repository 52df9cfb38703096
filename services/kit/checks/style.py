"""Checks of how a completion is written, and of what it shares with its prompt."""

from collections.abc import Sequence

from regrade.contracts.checks import EndsProperly, Language, NoPromptCopy, NotRepetitive, OnTopic
from services.kit.checks.base import CheckEntry, CheckInput, CheckNeed, TextPair, ramp, share, tenth_percentile
from services.kit.text.features import copied_share, distinct_share, topic_overlap
from services.kit.text.language import UNKNOWN_LANGUAGE, detect_language, is_shorter, language_of
from services.kit.text.segments import ends_properly, words

_MIN_LANGUAGE_BYTES = 20
"""In UTF-8. A shorter completion passes: its language would be a guess, and to refuse it is for other checks."""
_CODE_LETTERS = 2
"""Of ISO 639-1; the model also gives codes of three letters, for rare languages and for no language."""
_NGRAM = 4
_TOPIC_SHARE = 0.25
"""Share of a prompt's content words that tells an answer to it from an answer to another prompt."""


def _language(check: Language, texts: CheckInput) -> float:
    if is_shorter(texts.completion, _MIN_LANGUAGE_BYTES):
        return 1.0
    return float(detect_language(texts.completion) == check.language)


def _propose_language(produced: Sequence[TextPair], trusted: Sequence[TextPair]) -> CheckNeed | None:
    """Only where all trusted text is in one language."""
    languages = {language_of(text) for _, text in trusted} - {UNKNOWN_LANGUAGE}
    if len(languages) != 1:
        return None
    expected = languages.pop()
    if len(expected) != _CODE_LETTERS:
        return None
    missing = share(language_of(text) not in (expected, UNKNOWN_LANGUAGE) for _, text in produced)
    return CheckNeed(Language(check="language", language=expected), missing)


def _ends_properly(_: EndsProperly, texts: CheckInput) -> float:
    return float(ends_properly(texts.completion))


def _propose_ends_properly(produced: Sequence[TextPair], trusted: Sequence[TextPair]) -> CheckNeed | None:
    if not all(ends_properly(text) for _, text in trusted):
        return None
    return CheckNeed(EndsProperly(check="ends_properly"), share(not ends_properly(text) for _, text in produced))


def _not_repetitive(check: NotRepetitive, texts: CheckInput) -> float:
    return ramp(distinct_share(words(texts.completion), check.ngram), check.min_distinct / 2, check.min_distinct)


def _propose_not_repetitive(produced: Sequence[TextPair], trusted: Sequence[TextPair]) -> CheckNeed | None:
    def distinct(text: str) -> float:
        return distinct_share(words(text), _NGRAM)

    limit = round(0.95 * tenth_percentile(distinct(text) for _, text in trusted), 2)
    if limit <= 0.0:
        return None
    check = NotRepetitive(check="not_repetitive", ngram=_NGRAM, min_distinct=limit)
    return CheckNeed(check, share(distinct(text) < limit for _, text in produced))


def _on_topic(check: OnTopic, texts: CheckInput) -> float:
    return ramp(topic_overlap(words(texts.completion), words(texts.prompt)), 0.0, check.min_overlap)


def _propose_on_topic(produced: Sequence[TextPair], trusted: Sequence[TextPair]) -> CheckNeed | None:
    def overlap(pair: TextPair) -> float:
        return topic_overlap(words(pair[1]), words(pair[0]))

    # The shorter a prompt, the larger the share of its words that an answer uses: half of what trusted text has is
    # a limit for long prompts, a quarter is enough for short ones.
    limit = round(min(_TOPIC_SHARE, 0.5 * tenth_percentile(overlap(pair) for pair in trusted)), 2)
    if limit <= 0.0:
        return None
    missing = share(overlap(pair) < limit for pair in produced)
    return CheckNeed(OnTopic(check="on_topic", min_overlap=limit), missing)


def _no_prompt_copy(check: NoPromptCopy, texts: CheckInput) -> float:
    return ramp(copied_share(words(texts.completion), words(texts.prompt)), 1.0, check.max_copied)


def _propose_no_prompt_copy(produced: Sequence[TextPair], trusted: Sequence[TextPair]) -> CheckNeed | None:
    def copied(pair: TextPair) -> float:
        return copied_share(words(pair[1]), words(pair[0]))

    limit = round(min(0.9, max((copied(pair) for pair in trusted), default=0.0) + 0.1), 2)
    missing = share(copied(pair) > limit for pair in produced)
    return CheckNeed(NoPromptCopy(check="no_prompt_copy", max_copied=limit), missing)


LANGUAGE = CheckEntry(evaluate=_language, title="In the language asked for", propose=_propose_language)
ENDS_PROPERLY = CheckEntry(
    evaluate=_ends_properly, title="Ends with a finished sentence", propose=_propose_ends_properly
)
NOT_REPETITIVE = CheckEntry(evaluate=_not_repetitive, title="Does not repeat itself", propose=_propose_not_repetitive)
ON_TOPIC = CheckEntry(evaluate=_on_topic, title="Takes up the prompt", propose=_propose_on_topic)
NO_PROMPT_COPY = CheckEntry(evaluate=_no_prompt_copy, title="Does not copy the prompt", propose=_propose_no_prompt_copy)
