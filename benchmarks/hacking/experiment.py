"""One run: a policy trained on `/score` under one arm with one seed. The services receive only its texts."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis.asyncio import Redis

from benchmarks.attacks.__main__ import with_checks
from benchmarks.hacking.evolution import Evolution, Usage, running_evolution
from benchmarks.hacking.measure import rejected
from benchmarks.hacking.policy import Policy
from benchmarks.hacking.strategies import STRATEGIES, Kind, texts, topics
from regrade import RewardClient
from regrade.contracts import CheckCriterion, Flag, Override, Rubric, ScoreItem
from regrade.tasks import load_pack
from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricStore
from services.meta_reward.settings import MetaRewardSettings
from tests.support.essays import rubric as long_rubric

TASK = "essay_writing"
GROUP = 8
GROUPS_A_STEP = 2
LEARNING_RATE = 0.6
HONEST_START = 0.6
INTRODUCED_MASS = 0.04
_PROGRESS_S = 5.0
_MAX_WORDS = 200
"""Twice the length that the prompts ask for."""
KINDS = tuple(strategy.kind for strategy in STRATEGIES)


class Arm(NamedTuple):
    """A first rubric, and the strategy that evolves it (None: it stays fixed) with the small or scripted meta-judge."""

    name: str
    first_rubric: Callable[[], Rubric]
    strategy: str | None = None
    scripted: bool = False


def _one_line_rubric() -> Rubric:
    return load_pack(TASK).starting_rubric


ARMS = (
    Arm("fixed one-line", _one_line_rubric),
    Arm("fixed long", long_rubric),
    Arm("whole catalogue", lambda: with_checks(load_pack(TASK), _MAX_WORDS)),
    Arm("paper, scripted", _one_line_rubric, "paper", scripted=True),
    Arm("Regrade, scripted", _one_line_rubric, "regrade", scripted=True),
    Arm("paper, 135M", _one_line_rubric, "paper"),
    Arm("Regrade, 135M", _one_line_rubric, "regrade"),
)


class Endpoints(NamedTuple):
    """The services' URLs; the judge's engine is also the small meta-judge."""

    redis: Redis
    reward: str
    engine: str
    model: str
    scripted_meta_judge: str


@dataclass
class Run:
    """The record of one seed under one arm.

    `masses` are by step; `honest`, `rejected` and `docked` are of the honest texts, by active rubric.
    """

    arm: str
    seed: int
    masses: list[list[float]] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    honest: list[list[float | None]] = field(default_factory=list)
    rejected: list[float] = field(default_factory=list)
    docked: list[float] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    cycles: list[dict[str, Any]] = field(default_factory=list)
    lineage: list[dict[str, Any]] = field(default_factory=list)


ProgressCallback = Callable[[int, Run, str], None]
"""Called with the step, the run so far, and the stage of its cycle."""


def initial_probabilities() -> list[float]:
    """The policy's initial distribution: mostly honest, the rest on the hacks with onset 0."""
    initial = [strategy.onset == 0.0 for strategy in STRATEGIES]
    honest = KINDS.count(Kind.HONEST)
    hacks = sum(is_initial and kind is not Kind.HONEST for is_initial, kind in zip(initial, KINDS, strict=True))
    return [
        HONEST_START / honest if kind is Kind.HONEST else (1.0 - HONEST_START) / hacks if is_initial else 0.0
        for is_initial, kind in zip(initial, KINDS, strict=True)
    ]


def batch(groups: Sequence[tuple[int, Sequence[int]]], written: Sequence[Sequence[str]]) -> list[ScoreItem]:
    """The items of a step, from (prompt, sampled strategies); ids are positions in the batch."""
    return [
        ScoreItem(id=f"{n}-{k}", group=str(n), prompt=topics()[prompt].prompt, completion=written[strategy][prompt])
        for n, (prompt, sampled) in enumerate(groups)
        for k, strategy in enumerate(sampled)
    ]


class Training:
    """The training loop of one run."""

    def __init__(self, endpoints: Endpoints, arm: Arm, seed: int, steps: int, settings: dict[str, Any]) -> None:
        self.run = Run(arm.name, seed)
        self._endpoints, self._arm, self._steps = endpoints, arm, steps
        self._lineage = LineageKey(TASK, "".join(c if c.isalnum() else "-" for c in f"{arm.name}.{seed}"))
        self._settings = settings
        self._policy = Policy(initial_probabilities(), LEARNING_RATE, f"policy {seed}")
        self._texts = [texts(strategy, topics()) for strategy in STRATEGIES]
        self._store = RubricStore(endpoints.redis)
        self._first_rewards: list[float | None] = []

    async def run_all_steps(self, report_progress: ProgressCallback) -> Run:
        """Run all steps; `report_progress` is called after each, and while a cycle runs."""
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(RewardClient(self._endpoints.reward))
            rubric = self._arm.first_rubric().model_copy(update={"lineage": self._lineage.name})
            await self._put(rubric)
            self._first_rewards = [r for r, _, _ in await self._score_honest_texts(client, _one_line_rubric())]
            evolution = await self._evolution(stack)
            await self._record_active_rubric(client)
            for step in range(self._steps):
                self._introduce_strategies(step)
                self.run.masses.append(self._policy.mass)
                await self._step(client, step)
                if evolution is not None:
                    await self._poll(evolution, step, report_progress)
                    await self._record_active_rubric(client)
                report_progress(step, self.run, "")
            self.run.masses.append(self._policy.mass)
            if evolution is not None:
                await self._record_cycles(evolution)
        await self._endpoints.redis.delete(keys.traces_key(TASK))
        return self.run

    async def _poll(self, evolution: Evolution, step: int, report_progress: ProgressCallback) -> None:
        polling = asyncio.create_task(evolution.poll())
        try:
            while not (await asyncio.wait([polling], timeout=_PROGRESS_S))[0]:
                report_progress(step, self.run, await evolution.stage())
            polling.result()
        finally:
            polling.cancel()

    def _introduce_strategies(self, step: int) -> None:
        for number, strategy in enumerate(STRATEGIES):
            if strategy.onset and int(strategy.onset * self._steps) == step:
                self._policy.introduce(number, INTRODUCED_MASS)

    async def _put(self, rubric: Rubric) -> None:
        """Activate the lineage's first rubric. Raises if the lineage already has one."""
        digest = await self._store.put(TASK, rubric)
        authority = Override(by="bench-hacking", reason="the arm's first rubric", bootstrap=True)
        await self._store.activate(self._lineage, digest, expected=None, authority=authority)

    async def _evolution(self, stack: AsyncExitStack) -> Evolution | None:
        if self._arm.strategy is None:
            return None
        endpoints, scripted = self._endpoints, self._arm.scripted
        settings = MetaRewardSettings.model_validate(self._settings | {"strategy": self._arm.strategy})
        url, model = (endpoints.scripted_meta_judge, "script") if scripted else (endpoints.engine, endpoints.model)
        return await stack.enter_async_context(
            running_evolution(endpoints.redis, endpoints.reward, url, model, self._lineage, self.run.usage, settings)
        )

    async def _step(self, client: RewardClient, step: int) -> None:
        """Sample completions, score them, update the policy."""
        groups = [(p, self._policy.sample(GROUP)) for p in self._policy.choose(GROUPS_A_STEP, len(topics()))]
        items = batch(groups, self._texts)
        response = await client.score(TASK, items, run=self._lineage.name, step=step, lineage=self._lineage.name)
        rewards = [result.reward for result in response.results]
        rubric = await self._store.get(TASK, response.results[0].rubric.digest)
        self.run.usage.add_items(items, len(rubric.llm_criteria), shadow=False)
        self.run.versions.append(response.results[0].rubric.version or 0)
        by_group = [rewards[n * GROUP : (n + 1) * GROUP] for n in range(GROUPS_A_STEP)]
        self._policy.update([(sampled, by_group[n]) for n, (_, sampled) in enumerate(groups)])

    async def _record_active_rubric(self, client: RewardClient) -> None:
        """If another rubric has become active, score the honest texts under it."""
        active = await self._store.active(self._lineage)
        if active is None or (self.run.lineage and self.run.lineage[-1]["digest"] == active.digest):
            return
        rubric = await self._store.labelled(self._lineage, active.digest)
        scores = await self._score_honest_texts(client, rubric)
        rewards = [reward for reward, _, _ in scores]
        self.run.honest.append(rewards)
        self.run.rejected.append(rejected(self._first_rewards, rewards, [vetoed for _, vetoed, _ in scores]))
        self.run.docked.append(sum(docked for _, _, docked in scores) / len(scores))
        criteria = [c.check.check if isinstance(c, CheckCriterion) else c.name for c in rubric.criteria]
        at = len(self.run.versions)
        self.run.lineage.append({"step": at, "version": active.version, "digest": active.digest, "criteria": criteria})

    async def _score_honest_texts(self, client: RewardClient, rubric: Rubric) -> list[tuple[float | None, bool, bool]]:
        """For each honest text: its reward, whether a veto applied, and whether a check lowered the reward."""
        items = [
            ScoreItem(id=f"{n}-{k}", prompt=topic.prompt, completion=self._texts[n][k])
            for n, kind in enumerate(KINDS)
            if kind is Kind.HONEST
            for k, topic in enumerate(topics())
        ]
        checks = {criterion.id for criterion in rubric.check_criteria}
        response = await client.shadow(TASK, rubric.model_copy(update={"lineage": self._lineage.name}), items)
        return [
            (
                result.reward,
                Flag.VETOED in result.flags,
                any(c.id in checks and c.score is not None and c.score < 1.0 for c in result.criteria),
            )
            for result in response.results
        ]

    async def _record_cycles(self, evolution: Evolution) -> None:
        """Record the cycles and the decisions on candidates."""
        for report in await evolution.reports():
            summary = {"trigger": report.trigger, "candidates": report.candidates, "activated": report.activated}
            self.run.cycles.append(summary | {"steps": report.evidence.last_step, "notes": report.notes[:6]})
        for event in await evolution.history():
            if event.kind.value not in ("proposed", "activated"):
                self.run.cycles.append({"event": event.kind.value, "by": event.by, "reason": event.reason[:300]})
