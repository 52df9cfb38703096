"""The gate: candidates against the active rubric, on anchors no proposer has seen. Nothing passes on looks."""

from collections.abc import Awaitable, Callable, Sequence, Set
from typing import NamedTuple

from regrade.contracts import GateReport, Rubric, RubricFigures, ScoreItem, Trace
from regrade.tasks.anchors import AnchorSet
from services.meta_reward.figures import Table, gain, kendall_tau, tabulate

_SAME = 1e-6
_MIN_ORIGINALS = 8
_WAYS_TO_GAIN = 2
"""In anchor order or in attacks resisted: chance gets a try at each, so each bound is drawn for two."""
_MAX_UNSCORED = 0.05

Rewards = list[float | None]
Scorer = Callable[[str, Rubric, Sequence[ScoreItem]], Awaitable[Rewards]]
"""Task, rubric, items; answers a reward, or None, for each item."""


class GateError(Exception):
    """The gate could not measure: too few anchors were scored. Nothing is decided."""


class Candidate(NamedTuple):
    """A rubric that passed the lint, and who proposed it."""

    rubric: Rubric
    proposer: str


class Limits(NamedTuple):
    """What a candidate has to show: error level of its gain, and the loss of order that is still non-inferior."""

    alpha: float
    margin: float


class _Measured(NamedTuple):
    """A rubric's rewards on all anchor cases (None: not scored), and its spread on trusted groups."""

    rubric: Rubric
    rewards: Rewards
    spread: float


class Gate:
    """Shadow-scores candidates, the active rubric and the best earlier one, and compares."""

    def __init__(
        self, score: Scorer, task: str, anchors: AnchorSet, limits: Limits, early: Sequence[Sequence[Trace]]
    ) -> None:
        """`early` are groups of trusted early completions; on them a rubric must keep its spread."""
        self._score = score
        self._task = task
        self._anchors = anchors
        self._limits = limits
        self._items = [case.item(index) for index, case in enumerate(anchors.cases)]
        self._groups = [
            [ScoreItem(prompt=t.prompt, completion=t.completion, id=t.trace_id) for t in group] for group in early
        ]

    async def decide(
        self, cycle: str, candidates: Sequence[Candidate], active: Rubric, best_earlier: Rubric | None
    ) -> list[GateReport]:
        """One report a candidate, in order. Raises `GateError` when too few anchors could be scored."""
        standing = [await self._measure(rubric) for rubric in (active, best_earlier) if rubric is not None]
        if sum(reward is not None for reward in standing[0].rewards[: len(self._anchors.originals)]) < _MIN_ORIGINALS:
            raise GateError(f"fewer than {_MIN_ORIGINALS} originals could be scored under the active rubric")
        level = self._limits.alpha / (_WAYS_TO_GAIN * len(candidates))
        reports = []
        for candidate in candidates:
            looked = await self._first_look(candidate.rubric, standing[0])
            measured, reasons = looked or (await self._measure(candidate.rubric), [])
            reports.append(self._report(cycle, candidate, measured, standing, level, reasons))
        return reports

    async def _first_look(self, rubric: Rubric, active: _Measured) -> tuple[_Measured, list[str]] | None:
        """What a third of the originals shows of a clear loser, and why; None for one that deserves the rest."""
        cases = self._anchors.cases
        seen = [case.original < max(_MIN_ORIGINALS // 2, len(self._anchors.originals) // 3) for case in cases]
        answers = iter(await self._score(self._task, rubric, [i for i, s in zip(self._items, seen, strict=True) if s]))
        rewards = [next(answers) if s else None for s in seen]
        loser = _Measured(rubric, rewards, active.spread)
        scored = [index for index, reward in enumerate(active.rewards) if reward is not None]
        missed = sum(seen[index] and rewards[index] is None for index in scored)
        if missed > _MAX_UNSCORED * len(scored):
            return loser, [f"could not score {missed} of {len(scored)} anchors"]
        own, other = self._tables(rewards, active.rewards)
        if own.mean_order > other.mean_order or own.mean_resisted > other.mean_resisted:
            return None
        return loser, ["dropped at the first look: no gain on a third of the originals"]

    async def _measure(self, rubric: Rubric) -> _Measured:
        flat = [item for group in self._groups for item in group]
        rewards = await self._score(self._task, rubric, [*self._items, *flat])
        rest = iter(rewards[len(self._items) :])
        groups = [[next(rest) for _ in group] for group in self._groups]
        groups.append(rewards[: len(self._anchors.originals)])
        return _Measured(rubric, rewards[: len(self._items)], _spread(groups))

    def _tables(self, own: Rewards, *others: Rewards) -> list[Table]:
        """Tables on the cases that were scored under every one of these rubrics."""
        together = [own, *others]
        counts = [all(reward is not None for reward in rewards) for rewards in zip(*together, strict=True)]
        return [tabulate(self._anchors, rewards, counts) for rewards in together]

    def _unscored(self, measured: _Measured, standing: Sequence[_Measured]) -> list[str]:
        """Which rubrics left out too much of what the active one scored: what they left out compares with nothing."""
        active, *earlier = standing
        rows = zip(measured.rewards, *(s.rewards for s in standing), strict=True)
        common = [None not in rewards for rewards in rows][: len(self._anchors.originals)]
        scored = [index for index, reward in enumerate(active.rewards) if reward is not None]
        reasons = []
        for whose, other in (("", measured), *(("the best earlier rubric ", one) for one in earlier)):
            missed = sum(other.rewards[index] is None for index in scored)
            if missed > _MAX_UNSCORED * len(scored) or (missed and sum(common) < _MIN_ORIGINALS):
                reasons.append(f"{whose}could not score {missed} of {len(scored)} anchors")
        return reasons

    def _report(
        self,
        cycle: str,
        candidate: Candidate,
        measured: _Measured,
        standing: Sequence[_Measured],
        level: float,
        reasons: Sequence[str],
    ) -> GateReport:
        own, *others = self._tables(measured.rewards, *(s.rewards for s in standing))
        order = gain(own.order, others[0].order, level)
        attack = gain(own.resisted, others[0].resisted, level)
        found = [*reasons] or self._unscored(measured, standing)
        for name, other in zip(("active", "best earlier"), others, strict=False):
            if gain(own.order, other.order, level).lower < -self._limits.margin:
                found.append(f"anchor order may be worse than the {name} rubric's by more than the margin")
            if own.mean_resisted < other.mean_resisted - _SAME:
                found.append(f"lets more attacks through than the {name} rubric")
        if measured.spread < standing[0].spread - _SAME:
            found.append("takes the spread out of trusted groups")
        if max(order.lower, attack.lower) <= 0.0:
            found.append("no certain gain in anchor order or resisted attacks")
        figures = [_figures(m, t) for m, t in zip((measured, *standing), (own, *others), strict=True)]
        return GateReport(
            cycle=cycle,
            proposer=candidate.proposer,
            candidate=figures[0],
            active=figures[1],
            best_earlier=figures[2] if len(figures) > 2 else None,
            order_gain=order.mean,
            order_gain_lower=order.lower,
            attack_gain=attack.mean,
            attack_gain_lower=attack.lower,
            rank_agreement=kendall_tau(own.rewards, others[0].rewards),
            passed=not found,
            reasons=tuple(found),
        )


def best_measured(reports: Sequence[GateReport], digests: Set[str]) -> str | None:
    """The digest that orders anchors best, by each one's fullest (then latest) figures; None if none was measured.

    Figures of a first look, or of few common anchors, do not compare with those of a whole measurement.
    """
    figures: dict[str, RubricFigures] = {}
    for report in reports:
        for new in (report.active, report.candidate, report.best_earlier):
            if new is None or new.digest not in digests:
                continue
            if new.digest not in figures or new.judged >= figures[new.digest].judged:
                figures[new.digest] = new
    fullest = max((found.judged for found in figures.values()), default=0)
    full = [found for found in figures.values() if found.judged >= (1 - _MAX_UNSCORED) * fullest]
    return max(full, key=lambda found: found.order).digest if full else None


def _spread(groups: Sequence[Rewards]) -> float:
    """Share of groups whose rewards differ."""
    scored = [[reward for reward in group if reward is not None] for group in groups]
    compared = [group for group in scored if len(group) > 1]
    alive = sum(max(group) - min(group) > _SAME for group in compared)
    return alive / len(compared) if compared else 0.0


def _figures(measured: _Measured, table: Table) -> RubricFigures:
    return RubricFigures(
        digest=measured.rubric.digest,
        order=table.mean_order,
        order_by_transform=table.by_transform,
        attacks_resisted=table.mean_resisted,
        spread=measured.spread,
        judged=len(table.rewards),
        llm_criteria=len(measured.rubric.llm_criteria),
    )
