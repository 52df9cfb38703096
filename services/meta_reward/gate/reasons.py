"""Outcomes of a cycle's candidates, for the metrics: closed sets of label values. Pure."""

from collections import Counter
from collections.abc import Sequence

from regrade.contracts import EventKind, LineageEvent, ReasonCode

PASSED = "passed"


def count_outcomes(events: Sequence[LineageEvent], cycle: str) -> Counter[tuple[str, str]]:
    """Counts by outcome (gated, failed, rejected) and reason. A refusal counts under the first of its reasons."""
    outcomes: Counter[tuple[str, str]] = Counter()
    for event in events:
        if event.cycle != cycle:
            continue
        if event.kind is EventKind.GATED:
            outcomes["gated", PASSED] += 1
        elif event.kind in (EventKind.FAILED, EventKind.REJECTED):
            outcomes[event.kind.value, (event.codes or (ReasonCode.OTHER,))[0].value] += 1
    return outcomes
