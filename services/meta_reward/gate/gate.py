"""Gate: measures candidates and their references on held-out anchors, and decides by the acceptance criteria."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import NamedTuple

from regrade.contracts import GateReport, Mode, Reason, ReasonCode, Rubric, RubricFigures, ScoreItem, Trace
from regrade.tasks.anchors import AnchorSet
from regrade.tasks.validate import MIN_ORIGINALS
from services.meta_reward.clients.shadow import ShadowScorer
from services.meta_reward.gate.acceptance import MAX_UNSCORED, failures
from services.meta_reward.gate.alpha_spending import detectable_gain, level_per_test, min_originals
from services.meta_reward.gate.anchor_statistics import AnchorScores, kendall_tau, paired_gain, score_anchors
from services.meta_reward.gate.comparison import EPSILON, Comparison, Measurement, Rewards
from services.meta_reward.gate.interim import INTERIM_FRACTIONS, futility, interim_order
from services.meta_reward.types import Candidate

OnProgress = Callable[[str], Awaitable[None]]
"""Receives a text on what is being measured."""


class GateError(Exception):
    """Too few anchors were scored to decide anything."""


class GateLimits(NamedTuple):
    """What a candidate has to show, and what measuring may cost."""

    alpha: float
    """Error level that all decisions against one active rubric share."""
    margin: float
    """Loss of net order that still counts as non-inferior."""
    decision: int = 1
    """1-based index of this decision among those that share `alpha`."""
    calls: int | None = None
    """Judge calls that all candidates together may take; None: no limit."""
    mode: Mode = Mode.EXPECTED
    """The judge mode of the task, which sets the calls per item."""


class GateDecision(NamedTuple):
    """A report on each candidate that was measured, and the reason for each that was not."""

    reports: list[GateReport]
    unmeasured: list[tuple[Candidate, Reason]]


class Gate:
    """Scores candidates, the active rubric and the best earlier one in shadow, and compares them."""

    def __init__(
        self,
        score: ShadowScorer,
        task: str,
        anchors: AnchorSet,
        limits: GateLimits,
        trusted_groups: Sequence[Sequence[Trace]],
        on_progress: OnProgress | None = None,
    ) -> None:
        """`trusted_groups` are groups of trusted early completions, on which a rubric must keep its spread."""
        self._score = score
        self._task = task
        self._anchors = anchors
        self._limits = limits
        self._items = [case.item(index) for index, case in enumerate(anchors.cases)]
        self._groups = [
            [ScoreItem(prompt=t.prompt, completion=t.completion, reference=t.reference, id=t.trace_id) for t in group]
            for group in trusted_groups
        ]
        self._group_items = [item for group in self._groups for item in group]
        self._on_progress = on_progress or _no_progress

    async def decide(
        self, cycle: str, candidates: Sequence[Candidate], active: Rubric, best_earlier: Rubric | None
    ) -> GateDecision:
        """Measure the candidates in order, while the budget of judge calls lasts.

        Raises `GateError` when too few originals could be scored to show a gain at the remaining error level.
        """
        await self._on_progress(f"the active rubric on {len(self._items)} anchors")
        references = [await self._measure(rubric) for rubric in (active, best_earlier) if rubric is not None]
        level = level_per_test(self._limits.alpha, self._limits.decision, len(candidates))
        self._require_originals(references[0], level, len(candidates))
        decision = GateDecision([], [])
        remaining_calls = inf if self._limits.calls is None else self._limits.calls
        for number, candidate in enumerate(candidates, 1):
            await self._on_progress(f"candidate {number} of {len(candidates)} on {len(self._items)} anchors")
            per_item = self._limits.mode.judge_calls(len(candidate.rubric.llm_criteria))
            cost = per_item * (len(self._items) + len(self._group_items))
            if cost > remaining_calls:
                text = f"budget: takes up to {cost} judge calls, {remaining_calls} of {self._limits.calls} remain"
                decision.unmeasured.append((candidate, Reason(code=ReasonCode.BUDGET, text=text)))
                continue
            measurement, dropped = await self._evaluate(candidate.rubric, references[0])
            remaining_calls -= measurement.items * per_item
            # In a thread, because the bootstraps would block the worker's event loop.
            comparison = await asyncio.to_thread(self._compare, measurement, references, level, dropped is not None)
            reasons = ([dropped] if dropped else []) + failures(comparison)
            decision.reports.append(
                await asyncio.to_thread(self._report, cycle, candidate.proposer, comparison, level, reasons)
            )
        return decision

    def _require_originals(self, active: Measurement, level: float, candidates: int) -> None:
        scored = sum(reward is not None for reward in active.rewards[: len(self._anchors.originals)])
        if scored < _needed(level):
            raise GateError(
                f"{scored} originals scored under the active rubric are too few: decision {self._limits.decision} "
                f"against it, on {candidates} candidates, takes {_needed(level)}; import anchors of your own"
            )

    async def _evaluate(self, rubric: Rubric, active: Measurement) -> tuple[Measurement, Reason | None]:
        """Score a candidate on a third of the originals, two thirds, all; a reason if an interim analysis drops it."""
        rewards: Rewards = [None] * len(self._items)
        pending = list(range(len(self._items)))
        order = interim_order(self._anchors)
        for name, fraction in INTERIM_FRACTIONS:
            originals = set(order[: max(MIN_ORIGINALS // 2, int(fraction * len(order)))])
            batch = [i for i in pending if self._anchors.cases[i].original in originals]
            pending = [i for i in pending if self._anchors.cases[i].original not in originals]
            answers = await self._score(self._task, rubric, [self._items[i] for i in batch])
            for index, reward in zip(batch, answers, strict=True):
                rewards[index] = reward
            reason = self._interim_analysis(rewards, set(pending), active, name)
            if reason:
                return Measurement(rubric, rewards, active.spread, len(rewards) - len(pending)), reason
        answers = await self._score(self._task, rubric, [self._items[i] for i in pending] + self._group_items)
        for index, reward in zip(pending, answers, strict=False):
            rewards[index] = reward
        return self._measurement(rubric, rewards, answers[len(pending) :]), None

    def _interim_analysis(
        self, rewards: Rewards, pending: set[int], active: Measurement, fraction: str
    ) -> Reason | None:
        scored = [index for index, reward in enumerate(active.rewards) if reward is not None]
        missing = sum(index not in pending and rewards[index] is None for index in scored)
        if missing > MAX_UNSCORED * len(scored):
            return Reason(code=ReasonCode.UNSCORED, text=f"could not score {missing} of {len(scored)} anchors")
        own, other = self._anchor_scores(rewards, active.rewards)
        futile = futility(own, other, self._limits.margin)
        if futile is None:
            return None
        return Reason(code=ReasonCode.NO_GAIN, text=f"dropped after {fraction} of the originals: {futile}")

    async def _measure(self, rubric: Rubric) -> Measurement:
        rewards = await self._score(self._task, rubric, [*self._items, *self._group_items])
        return self._measurement(rubric, rewards[: len(self._items)], rewards[len(self._items) :])

    def _measurement(self, rubric: Rubric, rewards: Rewards, group_rewards: Rewards) -> Measurement:
        remaining = iter(group_rewards)
        groups = [[next(remaining) for _ in group] for group in self._groups]
        groups.append(rewards[: len(self._anchors.originals)])
        return Measurement(rubric, rewards, _spread(groups), len(rewards) + len(group_rewards))

    def _anchor_scores(self, *rewards: Rewards) -> list[AnchorScores]:
        """Scores of several rubrics, on the cases that all of them scored."""
        counts = [None not in case_rewards for case_rewards in zip(*rewards, strict=True)]
        return [score_anchors(self._anchors, own, counts) for own in rewards]

    def _compare(
        self, candidate: Measurement, references: Sequence[Measurement], level: float, is_partial: bool
    ) -> Comparison:
        rewards = [candidate.rewards, *(reference.rewards for reference in references)]
        scores, *others = self._anchor_scores(*rewards)
        common = [None not in case_rewards for case_rewards in zip(*rewards, strict=True)]
        return Comparison(
            candidate=candidate,
            references=references,
            scores=scores,
            reference_scores=others,
            order_gains=[paired_gain(scores.net, other.net, level) for other in others],
            attack_gain=paired_gain(scores.resisted, others[0].resisted, level),
            common_originals=sum(common[: len(self._anchors.originals)]),
            min_originals=_needed(level),
            margin=self._limits.margin,
            is_partial=is_partial,
        )

    def _report(
        self, cycle: str, proposer: str, comparison: Comparison, level: float, reasons: Sequence[Reason]
    ) -> GateReport:
        own, active = comparison.scores, comparison.reference_scores[0]
        differences = [own.net[original] - active.net[original] for original in own.net]
        measurements = (comparison.candidate, *comparison.references)
        scores = (own, *comparison.reference_scores)
        figures = [_figures(m, s) for m, s in zip(measurements, scores, strict=True)]
        return GateReport(
            cycle=cycle,
            proposer=proposer,
            candidate=figures[0],
            active=figures[1],
            best_earlier=figures[2] if len(figures) > 2 else None,
            order_gain=comparison.order_gains[0].mean,
            order_gain_lower=comparison.order_gains[0].lower,
            attack_gain=comparison.attack_gain.mean,
            attack_gain_lower=comparison.attack_gain.lower,
            rank_agreement=kendall_tau(own.rewards, active.rewards),
            passed=not reasons,
            reasons=tuple(reasons),
            anchors=self._anchors.version,
            anchors_base=self._anchors.base,
            base_originals=self._anchors.base_originals,
            originals=len(own.net),
            level=level,
            decisions=self._limits.decision,
            detectable_gain=detectable_gain(differences, level) if differences else None,
        )


async def _no_progress(_: str) -> None:
    pass


def _needed(level: float) -> int:
    return max(MIN_ORIGINALS, min_originals(level))


def _spread(groups: Sequence[Rewards]) -> float:
    """Share of groups whose rewards differ."""
    scored = [[reward for reward in group if reward is not None] for group in groups]
    compared = [group for group in scored if len(group) > 1]
    return sum(max(group) - min(group) > EPSILON for group in compared) / len(compared) if compared else 0.0


def _figures(measurement: Measurement, scores: AnchorScores) -> RubricFigures:
    return RubricFigures(
        digest=measurement.rubric.digest,
        order=scores.mean_order,
        order_by_transform=scores.by_transform,
        attacks_resisted=scores.mean_resisted,
        inversions=scores.inverted,
        trusted_mean=scores.trusted_mean,
        spread=measurement.spread,
        judged=len(scores.rewards),
        llm_criteria=len(measurement.rubric.llm_criteria),
    )
