"""The verdict a text comes to: of several words that are verdicts, the one named last."""

from collections.abc import Iterable

from services.kit.text import features


def normal(verdict: str) -> str:
    """A verdict in the form that verdicts are compared in."""
    return " ".join(features.words(verdict))


def last_verdict(completion: str, verdicts: Iterable[str]) -> str | None:
    """The verdict named last, in normal form; None where none is named.

    One verdict may end another ("correct", "not correct"): of those that end last, the longest is meant.
    """
    text = f" {normal(completion)} "
    known = {normal(verdict) for verdict in verdicts} - {""}
    named = {verdict: start for verdict in known if (start := text.rfind(f" {verdict} ")) >= 0}
    return max(named, key=lambda verdict: (named[verdict] + len(verdict), len(verdict)), default=None)
