"""The gate: candidates against the active rubric, on anchors no proposer has seen. Nothing passes on looks.

How sure a decision is, over many candidates and many cycles, is told in `power.py`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence, Set
from typing import NamedTuple

from regrade.contracts import GateReport, LineageEvent, Mode, Rubric, RubricFigures, ScoreItem, Trace
from regrade.tasks.anchors import AnchorSet
from services.meta_reward.clients.shadow import Scorer
from services.meta_reward.gate.alpha_spending import decision_alpha, detectable_gain, min_originals
from services.meta_reward.gate.anchor_statistics import AnchorScores, kendall_tau, paired_gain, score_anchors
from services.meta_reward.gate.interim import interim_order
from services.meta_reward.types import Candidate

_EPSILON = 1e-6
_MIN_ORIGINALS = 8
_WAYS_TO_GAIN = 2
"""In anchor order or in attacks resisted: chance gets a try at each, so each bound is drawn for two."""
_MAX_UNSCORED = 0.05
_MAX_INVERTED = 0.5
_FUTILITY_LEVEL = 0.05
INTERIM_FRACTIONS = (("a third", 1 / 3), ("two thirds", 2 / 3))

Rewards = list[float | None]
OnProgress = Callable[[str], Awaitable[None]]
"""Is told what is being measured."""


class GateError(Exception):
    """The gate could not measure: too few anchors were scored. Nothing is decided."""


class GateLimits(NamedTuple):
    """What a candidate has to show, and what measuring may cost.

    `alpha` is the error level that the decisions that count share, `decision` the how manieth this is of
    them, `margin` the loss of order that is still non-inferior, `calls` the judge calls all candidates may take,
    `mode` how the task's judge reaches a level: what an item costs.
    """

    alpha: float
    margin: float
    decision: int = 1
    calls: int | None = None
    mode: Mode = Mode.EXPECTED


class GateDecision(NamedTuple):
    """A report on each candidate that was measured, and why the others were not."""

    reports: list[GateReport]
    unmeasured: list[tuple[Candidate, str]]


class Measurement(NamedTuple):
    """A rubric's rewards on all anchor cases (None: not scored), its spread on trusted groups, and items asked."""

    rubric: Rubric
    rewards: Rewards
    spread: float
    asked: int


class Gate:
    """Shadow-scores candidates, the active rubric and the best earlier one, and compares."""

    def __init__(
        self,
        score: Scorer,
        task: str,
        anchors: AnchorSet,
        limits: GateLimits,
        early: Sequence[Sequence[Trace]],
        tell: OnProgress | None = None,
    ) -> None:
        """`early` are groups of trusted early completions; on them a rubric must keep its spread."""
        self._tell = tell or _no_progress
        self._score = score
        self._task = task
        self._anchors = anchors
        self._limits = limits
        self._items = [case.item(index) for index, case in enumerate(anchors.cases)]
        self._groups = [
            [ScoreItem(prompt=t.prompt, completion=t.completion, reference=t.reference, id=t.trace_id) for t in group]
            for group in early
        ]
        self._early = [item for group in self._groups for item in group]
        self._fewest = _MIN_ORIGINALS

    async def decide(
        self, cycle: str, candidates: Sequence[Candidate], active: Rubric, best_earlier: Rubric | None
    ) -> GateDecision:
        """Measure the candidates in order, while the budget lasts.

        Raises `GateError` when too few originals could be scored to show any gain at the level that is left.
        """
        await self._tell(f"the active rubric on {len(self._items)} anchors")
        standing = [await self._measure(rubric) for rubric in (active, best_earlier) if rubric is not None]
        level = decision_alpha(self._limits.alpha, self._limits.decision) / (_WAYS_TO_GAIN * len(candidates))
        self._fewest = max(_MIN_ORIGINALS, min_originals(level))
        scored = sum(reward is not None for reward in standing[0].rewards[: len(self._anchors.originals)])
        if scored < self._fewest:
            raise GateError(
                f"{scored} originals scored under the active rubric are too few: decision {self._limits.decision} "
                f"against it, on {len(candidates)} candidates, takes {self._fewest}; import anchors of your own"
            )
        decision = GateDecision([], [])
        left = self._limits.calls
        for number, candidate in enumerate(candidates, 1):
            await self._tell(f"candidate {number} of {len(candidates)} on {len(self._items)} anchors")
            each = self._limits.mode.judge_calls(len(candidate.rubric.llm_criteria))
            cost = each * (len(self._items) + len(self._early))
            if left is not None and cost > left:
                reason = f"budget: up to {cost} judge calls to measure it, {left} are left of {self._limits.calls}"
                decision.unmeasured.append((candidate, reason))
                continue
            measured, reasons = await self._evaluate(candidate.rubric, standing[0])
            if left is not None:
                left -= measured.asked * each
            about = (cycle, candidate, measured, standing, level, reasons)
            decision.reports.append(await asyncio.to_thread(self._report, *about))
        return decision

    async def _evaluate(self, rubric: Rubric, active: Measurement) -> tuple[Measurement, list[str]]:
        """Score a candidate on a third of the originals, on two, on all; a clear loser is dropped on the way."""
        rewards: Rewards = [None] * len(self._items)
        seen = [False] * len(self._items)
        order = interim_order(self._anchors)
        for name, share in INTERIM_FRACTIONS:
            looked_at = set(order[: max(_MIN_ORIGINALS // 2, int(share * len(order)))])
            new = [i for i, case in enumerate(self._anchors.cases) if case.original in looked_at and not seen[i]]
            answers = await self._score(self._task, rubric, [self._items[i] for i in new])
            for index, reward in zip(new, answers, strict=True):
                rewards[index], seen[index] = reward, True
            loser = self._futility(rewards, seen, active, name)
            if loser:
                return Measurement(rubric, rewards, active.spread, sum(seen)), [loser]
        rest = await self._score(
            self._task, rubric, [i for i, done in zip(self._items, seen, strict=True) if not done] + self._early
        )
        answers_left = iter(rest)
        rewards = [reward if done else next(answers_left) for reward, done in zip(rewards, seen, strict=True)]
        return self._measured(rubric, rewards, list(answers_left)), []

    def _futility(self, rewards: Rewards, seen: Sequence[bool], active: Measurement, name: str) -> str | None:
        """Why a candidate that has been scored in part has no prospect, or None."""
        scored = [index for index, reward in enumerate(active.rewards) if reward is not None]
        missed = sum(seen[index] and rewards[index] is None for index in scored)
        if missed > _MAX_UNSCORED * len(scored):
            return f"could not score {missed} of {len(scored)} anchors"
        own, other = self._anchor_scores(rewards, active.rewards)
        if own.mean_net <= other.mean_net and own.mean_resisted <= other.mean_resisted:
            return f"dropped early: no gain on {name} of the originals"
        if -paired_gain(other.net, own.net, _FUTILITY_LEVEL).lower < -self._limits.margin:
            return f"dropped early: on {name} of the originals it is surely worse by more than the margin"
        return None

    async def _measure(self, rubric: Rubric) -> Measurement:
        rewards = await self._score(self._task, rubric, [*self._items, *self._early])
        return self._measured(rubric, rewards[: len(self._items)], rewards[len(self._items) :])

    def _measured(self, rubric: Rubric, rewards: Rewards, early: Rewards) -> Measurement:
        rest = iter(early)
        groups = [[next(rest) for _ in group] for group in self._groups]
        groups.append(rewards[: len(self._anchors.originals)])
        return Measurement(rubric, rewards, _spread(groups), len(rewards) + len(early))

    def _anchor_scores(self, own: Rewards, *others: Rewards) -> list[AnchorScores]:
        """Tables on the cases that were scored under every one of these rubrics."""
        together = [own, *others]
        counts = [all(reward is not None for reward in rewards) for rewards in zip(*together, strict=True)]
        return [score_anchors(self._anchors, rewards, counts) for rewards in together]

    def _unscored(self, measured: Measurement, standing: Sequence[Measurement]) -> list[str]:
        """Which rubrics left out too much of what the active one scored: what they left out compares with nothing."""
        active, *earlier = standing
        rows = zip(measured.rewards, *(s.rewards for s in standing), strict=True)
        common = [None not in rewards for rewards in rows][: len(self._anchors.originals)]
        scored = [index for index, reward in enumerate(active.rewards) if reward is not None]
        reasons = []
        for whose, other in (("", measured), *(("the best earlier rubric ", one) for one in earlier)):
            missed = sum(other.rewards[index] is None for index in scored)
            if missed > _MAX_UNSCORED * len(scored) or (missed and sum(common) < self._fewest):
                reasons.append(f"{whose}could not score {missed} of {len(scored)} anchors")
        return reasons

    def _report(
        self,
        cycle: str,
        candidate: Candidate,
        measured: Measurement,
        standing: Sequence[Measurement],
        level: float,
        reasons: Sequence[str],
    ) -> GateReport:
        own, *others = self._anchor_scores(measured.rewards, *(s.rewards for s in standing))
        order = paired_gain(own.net, others[0].net, level)
        attack = paired_gain(own.resisted, others[0].resisted, level)
        found = [*reasons] or self._unscored(measured, standing)
        for name, other in zip(("active", "best earlier"), others, strict=False):
            if paired_gain(own.net, other.net, level).lower < -self._limits.margin:
                found.append(f"anchor order may be worse than the {name} rubric's by more than the margin")
            if own.mean_resisted < other.mean_resisted - _EPSILON:
                found.append(f"lets more attacks through than the {name} rubric")
        if measured.spread < standing[0].spread - _EPSILON:
            found.append("takes the spread out of trusted groups")
        found.extend(self._inversions(own, others[0]))
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
            anchors=self._anchors.version,
            anchors_base=self._anchors.base,
            base_originals=self._anchors.base_originals,
            originals=len(own.net),
            level=level,
            decisions=self._limits.decision,
            detectable_gain=_detectable(own, others[0], level),
        )

    def _inversions(self, own: AnchorScores, active: AnchorScores) -> list[str]:
        """Kinds of damage that the candidate likes: it puts most such twins above what they were made from."""
        return [
            f"prefers damaged text: {share:.0%} of {kind!r} twins score above their originals, "
            f"{active.inverted[kind]:.0%} under the active rubric"
            for kind, share in own.inverted.items()
            if share > _MAX_INVERTED and share > active.inverted[kind] + self._limits.margin
        ]


async def _no_progress(_: str) -> None:
    """Nobody listens."""


def best_measured_digest(reports: Sequence[GateReport], digests: Set[str]) -> str | None:
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
    alive = sum(max(group) - min(group) > _EPSILON for group in compared)
    return alive / len(compared) if compared else 0.0


def _figures(measured: Measurement, table: AnchorScores) -> RubricFigures:
    return RubricFigures(
        digest=measured.rubric.digest,
        order=table.mean_order,
        order_by_transform=table.by_transform,
        attacks_resisted=table.mean_resisted,
        inversions=table.inverted,
        trusted_mean=table.trusted_mean,
        spread=measured.spread,
        judged=len(table.rewards),
        llm_criteria=len(measured.rubric.llm_criteria),
    )


def count_decisions(history: Sequence[LineageEvent], base: str, active: str, originals: int) -> int:
    """How many cycles have decided so far against that active rubric, as far as they count on anchors of that base.

    A decision on another base counts until there are twice as many originals as it was made on; where a report does not
    tell on how many that was, it counts for good. `originals` are those of the base, without early completions.
    """
    gates = [event.gate for event in history if event.gate is not None and event.gate.active.digest == active]
    return len({gate.cycle for gate in gates if _counts(gate, base, originals)})


def _counts(gate: GateReport, base: str, originals: int) -> bool:
    if (gate.anchors_base or gate.anchors) == base or gate.base_originals == 0:
        return True
    return originals < 2 * gate.base_originals


def _detectable(own: AnchorScores, active: AnchorScores, level: float) -> float | None:
    differences = [own.net[original] - active.net[original] for original in own.net]
    return detectable_gain(differences, level) if differences else None
