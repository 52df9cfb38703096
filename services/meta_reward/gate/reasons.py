"""Verdicts in a closed set of reasons: what a counter may be labelled with. Pure.

The lineage tells each verdict in full sentences; these are its kinds.
"""

from collections import Counter
from collections.abc import Sequence

from regrade.contracts import EventKind, LineageEvent

PASSED = "passed"
OTHER = "other"
_KINDS: tuple[tuple[str, str], ...] = (
    ("rolled back", "rolled_back"),
    ("same as the active", "same"),
    ("size", "size"),
    ("duplicate", "duplicate"),
    ("overlap", "duplicate"),
    ("weights", "weights"),
    ("levels", "levels"),
    ("instruction", "instruction"),
    ("leak", "leak"),
    ("language", "language"),
    ("budget", "budget"),
    ("not measured", "not_measured"),
    ("could not score", "unscored"),
    ("the best earlier rubric could not score", "unscored"),
    ("not calibrated", "unscored"),
    ("dropped early", "no_gain"),
    ("anchor order may be worse", "worse"),
    ("lets more attacks through", "attacks"),
    ("takes the spread", "spread"),
    ("prefers damaged text", "inversion"),
    ("no certain gain", "no_gain"),
)
"""How a reason begins, and its kind. Of several reasons the first counts."""


def count_outcomes(events: Sequence[LineageEvent], cycle: str) -> Counter[tuple[str, str]]:
    """How often a cycle came to which outcome for which kind of reason."""
    own = [event for event in events if event.cycle == cycle]
    told: Counter[tuple[str, str]] = Counter()
    for event in own:
        if event.kind is EventKind.GATED:
            told["gated", PASSED] += 1
        elif event.kind is EventKind.FAILED:
            told["failed", OTHER] += 1
        elif event.kind is EventKind.REJECTED:
            told["rejected", "activation" if event.by == "activation" else reason_code(event.reason)] += 1
    return told


def reason_code(reason: str) -> str:
    """The kind of a refusal."""
    return next((kind for beginning, kind in _KINDS if reason.startswith(beginning)), OTHER)
