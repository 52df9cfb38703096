"""Surface features of a text, for the checks (one completion) and the evidence (a window of traces). Pure."""

import re
import zlib
from collections.abc import Sequence

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_SENTENCE_END = re.compile(r"[.!?。！？…]+(?=[\s\"'”’)\]]|$)")
_CLOSING = " \t\n\r\"'”’)]*_`»"
_ENDINGS = (".", "!", "?", "…", "。", "！", "？")
_STEM = 5
_MIN_CONTENT_WORD = 4
_FUNCTION_WORDS = frozenset(
    """
    about above after again against also another because been before being below between both cannot could does
    doing down during each essay explain describe discuss argue compare reflect short write words word paragraph
    every from further have having here himself into itself just many more most much must only other ourselves over
    same should some such than that their them then there these they this those through under until very were what
    when where which while whom whose will with would your yours
    """.split()  # noqa: SIM905 - a list of quoted words is harder to read
)


def words(text: str) -> list[str]:
    """The words of a text, lower-cased, in order."""
    return [match.group().lower() for match in _WORD.finditer(text)]


def sentence_count(text: str) -> int:
    """The number of finished sentences."""
    return len(_SENTENCE_END.findall(text.strip()))


def ends_properly(text: str) -> bool:
    """Whether the last sentence is finished (closing quotes, brackets and emphasis aside)."""
    return text.rstrip(_CLOSING).endswith(_ENDINGS)


def ending_kind(text: str) -> str:
    """How a text ends, without closing marks: sentence, question, colon, word, other, or empty."""
    last = text.rstrip(_CLOSING)[-1:]
    if not last:
        return "empty"
    if last in _ENDINGS:
        return "question" if last in "?？" else "sentence"
    if last == ":":
        return "colon"
    return "word" if last.isalnum() else "other"


def distinct_share(tokens: Sequence[str], n: int) -> float:
    """Distinct n-grams per n-gram, in (0, 1]; 1 for a text shorter than n."""
    total = len(tokens) - n + 1
    if total <= 0:
        return 1.0
    return len({tuple(tokens[i : i + n]) for i in range(total)}) / total


def copied_share(completion: Sequence[str], prompt: Sequence[str], n: int = 5) -> float:
    """Share of the completion's n-grams that occur in the prompt, in [0, 1]."""
    total = len(completion) - n + 1
    if total <= 0:
        return 0.0
    known = {tuple(prompt[i : i + n]) for i in range(len(prompt) - n + 1)}
    return sum(tuple(completion[i : i + n]) in known for i in range(total)) / total


def topic_overlap(completion: Sequence[str], prompt: Sequence[str]) -> float:
    """Share of the prompt's content words whose stem the completion uses, in [0, 1]; 1 when it has none."""
    wanted = _stems(prompt)
    return len(wanted & _stems(completion)) / len(wanted) if wanted else 1.0


def compression_ratio(text: str) -> float:
    """Compressed bytes per byte: near 0 for repetition, about 0.5 to 0.7 for short prose."""
    raw = text.encode()
    return len(zlib.compress(raw)) / len(raw) if raw else 1.0


def _stems(tokens: Sequence[str]) -> set[str]:
    return {w[:_STEM] for w in tokens if len(w) >= _MIN_CONTENT_WORD and w not in _FUNCTION_WORDS and not w.isdigit()}
