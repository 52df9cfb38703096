"""The verdict of a text: the last of a set of labels that it names. Pure."""

from collections.abc import Iterable

from services.kit.text import features


def normal(verdict: str) -> str:
    """A verdict in the normal form for comparisons: its words in lower case."""
    return " ".join(features.words(verdict))


def last_verdict(completion: str, verdicts: Iterable[str]) -> str | None:
    """The verdict named last, in normal form, or None.

    One verdict may be the end of another ("correct", "not correct"): of those that end last, the longest counts.
    """
    text = f" {normal(completion)} "
    known = {normal(verdict) for verdict in verdicts} - {""}
    named = {verdict: start for verdict in known if (start := text.rfind(f" {verdict} ")) >= 0}
    return max(named, key=lambda verdict: (named[verdict] + len(verdict), len(verdict)), default=None)
