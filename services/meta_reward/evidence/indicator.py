"""The figures that alarms watch."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from regrade.contracts import Audited, Trace


class AlarmThresholds(NamedTuple):
    """An alarm is raised above the first value and cleared below the second: near one threshold it would flicker."""

    raised_above: float
    cleared_below: float


class Indicator(NamedTuple):
    """A figure that an alarm watches; more is worse. `examples` gives the traces that show it, the clearest first."""

    name: str
    figure: float
    thresholds: AlarmThresholds
    examples: Callable[[], Iterable[Trace | Audited]]
