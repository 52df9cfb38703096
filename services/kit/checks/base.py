"""One entry of the check catalogue, and the arithmetic that entries share."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from regrade.contracts.checks import Check, CheckParameters

if TYPE_CHECKING:
    from services.kit.checks.workers import WorkerShare

C = TypeVar("C", bound=CheckParameters)


class CheckError(Exception):
    """A check that could not be decided: no reference, or out of time. The item's reward is null, not 0."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
        """Whether the same item may be decided later."""


class CheckInput(NamedTuple):
    """The texts that a check may read."""

    prompt: str
    completion: str
    reference: str | None


TextPair = tuple[str, str]
"""A prompt and a completion of it."""


class CheckNeed(NamedTuple):
    """A check with parameters that trusted text satisfies, and the share of the policy's completions that miss it."""

    check: Check
    missing: float


Rule = Callable[[Sequence[TextPair], Sequence[TextPair]], CheckNeed | None]
"""From the policy's pairs and trusted pairs to a check; None where trusted text sets no limit."""


@dataclass(frozen=True)
class CheckEntry(Generic[C]):
    """All that the services know of a check whose parameters are a `C`.

    Either `evaluate` or `evaluate_in_worker` gives the value in [0, 1] of one completion. Where a matter is one of
    degree, the value is a ramp, so that a policy far from the goal still gets a gradient. `evaluate_in_worker` is
    for work that may never end, and raises `CheckError` when it is not decided in time.
    """

    evaluate: Callable[[C, CheckInput], float] | None = None
    evaluate_in_worker: Callable[[C, CheckInput, "WorkerShare"], Awaitable[float]] | None = None
    validate: Callable[[C], None] | None = None
    """Raises `ValueError` for parameters that the library behind the check refuses."""
    is_surely_valid: Callable[[C], bool] | None = None
    """Decides within a millisecond; where it is false or absent, `validate` is called, in a worker."""
    title: str = ""
    """The criterion's name where the catalogue proposer adds the check."""
    propose: Rule | None = None
    """Sets the parameters from texts. Without it the catalogue proposer never proposes the check."""


def ramp(value: float, zero: float, one: float) -> float:
    """0 at `zero`, 1 at `one`, linear between them, clipped to [0, 1]."""
    return min(1.0, max(0.0, (value - zero) / (one - zero)))


def share(hits: Iterable[bool]) -> float:
    """The share that is true; 0 of nothing."""
    values = list(hits)
    return sum(values) / len(values) if values else 0.0


def tenth_percentile(values: Iterable[float]) -> float:
    """The tenth percentile; 0 of nothing.

    A limit set by it, with a margin, passes honest text and does not depend on the single shortest original.
    """
    ordered = list(values)
    return quantiles(ordered, n=10, method="inclusive")[0] if len(ordered) > 1 else min(ordered, default=0.0)
