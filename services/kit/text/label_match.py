"""The verdict of a text: the last of a set of labels that it names. Pure."""

from collections.abc import Iterable

from services.kit.text import features


def normalise(label: str) -> str:
    """A label in the form for comparisons: its words in lower case."""
    return " ".join(features.words(label))


def last_label(completion: str, labels: Iterable[str]) -> str | None:
    """The label that a completion names last, in normal form; None where it names none.

    One label may be the end of another ("correct", "not correct"): of those that end last, the longest counts.
    """
    text = f" {normalise(completion)} "
    known = {normalise(label) for label in labels} - {""}
    starts = {label: start for label in known if (start := text.rfind(f" {label} ")) >= 0}
    return max(starts, key=lambda label: (starts[label] + len(label), len(label)), default=None)
