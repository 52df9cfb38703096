"""One run: a policy trained by `/score` under one arm with one seed. What the services see of it are texts."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis.asyncio import Redis

from benchmarks.attacks.__main__ import with_checks
from benchmarks.common.essays import rubric as long_rubric
from benchmarks.hacking.evolution import Bill, Evolution, evolving
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

TASK = "essay_writing"
GROUP = 8
GROUPS_A_STEP = 2
LEARNING_RATE = 0.6
HONEST_START = 0.6
ARRIVES_WITH = 0.04
_TELL_EVERY_S = 5.0
_TWICE_WHAT_IS_ASKED = 200
"""Words: every prompt asks for about a hundred."""
KINDS = tuple(strategy.kind for strategy in STRATEGIES)


class Arm(NamedTuple):
    """How the rubric comes about: `strategy` evolves it (None: it is fixed), asked of the small model or the script."""

    name: str
    start: Callable[[], Rubric]
    strategy: str | None = None
    scripted: bool = False


def _one_line() -> Rubric:
    return load_pack(TASK).starting_rubric


ARMS = (
    Arm("fixed one-line", _one_line),
    Arm("fixed long", long_rubric),
    Arm("whole catalogue", lambda: with_checks(load_pack(TASK), _TWICE_WHAT_IS_ASKED)),
    Arm("paper, scripted", _one_line, "paper", scripted=True),
    Arm("Regrade, scripted", _one_line, "regrade", scripted=True),
    Arm("paper, 135M", _one_line, "paper"),
    Arm("Regrade, 135M", _one_line, "regrade"),
)


class Places(NamedTuple):
    """Where the parts are; the small meta-judge is the judge's own engine."""

    redis: Redis
    reward: str
    engine: str
    model: str
    script: str


@dataclass
class Run:
    """What became of one seed under one arm. `honest` are the rewards of honest texts, by rubric that was active."""

    arm: str
    seed: int
    masses: list[list[float]] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    honest: list[list[float | None]] = field(default_factory=list)
    rejected: list[float] = field(default_factory=list)
    docked: list[float] = field(default_factory=list)
    bill: Bill = field(default_factory=Bill)
    cycles: list[dict[str, Any]] = field(default_factory=list)
    lineage: list[dict[str, Any]] = field(default_factory=list)


Tell = Callable[[int, Run, str], None]
"""Is told the step, the run so far, and what its cycle is doing."""


def start() -> list[float]:
    """The policy's first probabilities: mostly honest, the rest on the hacks that are there at once."""
    early = [strategy.onset == 0.0 for strategy in STRATEGIES]
    honest = KINDS.count(Kind.HONEST)
    hacks = sum(is_early and kind is not Kind.HONEST for is_early, kind in zip(early, KINDS, strict=True))
    return [
        HONEST_START / honest if kind is Kind.HONEST else (1.0 - HONEST_START) / hacks if is_early else 0.0
        for is_early, kind in zip(early, KINDS, strict=True)
    ]


def batch(groups: Sequence[tuple[int, Sequence[int]]], written: Sequence[Sequence[str]]) -> list[ScoreItem]:
    """What the services see of a step: of each (prompt, strategies) the texts, and ids that are places."""
    return [
        ScoreItem(id=f"{n}-{k}", group=str(n), prompt=topics()[prompt].prompt, completion=written[strategy][prompt])
        for n, (prompt, sampled) in enumerate(groups)
        for k, strategy in enumerate(sampled)
    ]


class Training:
    """The training loop of one run."""

    def __init__(self, places: Places, arm: Arm, seed: int, steps: int, settings: dict[str, Any]) -> None:
        self.run = Run(arm.name, seed)
        self._places, self._arm, self._steps = places, arm, steps
        self._lineage = LineageKey(TASK, "".join(c if c.isalnum() else "-" for c in f"{arm.name}.{seed}"))
        self._settings = settings
        self._policy = Policy(start(), LEARNING_RATE, f"policy {seed}")
        self._texts = [texts(strategy, topics()) for strategy in STRATEGIES]
        self._store = RubricStore(places.redis)
        self._first: list[float | None] = []

    async def to_its_end(self, tell: Tell) -> Run:
        """All steps; `tell` is called after each, and while a cycle runs."""
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(RewardClient(self._places.reward))
            rubric = self._arm.start().model_copy(update={"lineage": self._lineage.name})
            await self._put(rubric)
            self._first = [r for r, _, _ in await self._honest(client, _one_line())]
            evolution = await self._evolution(stack)
            await self._note_rubric(client)
            for step in range(self._steps):
                self._come_upon(step)
                self.run.masses.append(self._policy.mass)
                await self._step(client, step)
                if evolution is not None:
                    await self._look(evolution, step, tell)
                    await self._note_rubric(client)
                tell(step, self.run, "")
            self.run.masses.append(self._policy.mass)
            if evolution is not None:
                await self._note_cycles(evolution)
        await self._places.redis.delete(keys.traces_key(TASK))
        return self.run

    async def _look(self, evolution: Evolution, step: int, tell: Tell) -> None:
        looking = asyncio.create_task(evolution.look())
        try:
            while not (await asyncio.wait([looking], timeout=_TELL_EVERY_S))[0]:
                tell(step, self.run, await evolution.doing())
            looking.result()
        finally:
            looking.cancel()

    def _come_upon(self, step: int) -> None:
        for number, strategy in enumerate(STRATEGIES):
            if strategy.onset and int(strategy.onset * self._steps) == step:
                self._policy.come_upon(number, ARRIVES_WITH)

    async def _put(self, rubric: Rubric) -> None:
        """The line's first rubric, on record as such; a line of an earlier experiment would go on with its own."""
        digest = await self._store.put(TASK, rubric)
        authority = Override(by="bench-hacking", reason="the arm's first rubric", bootstrap=True)
        await self._store.activate(self._lineage, digest, expected=None, authority=authority)

    async def _evolution(self, stack: AsyncExitStack) -> Evolution | None:
        if self._arm.strategy is None:
            return None
        places, scripted = self._places, self._arm.scripted
        settings = MetaRewardSettings.model_validate(self._settings | {"strategy": self._arm.strategy})
        url, model = (places.script, "script") if scripted else (places.engine, places.model)
        return await stack.enter_async_context(
            evolving(places.redis, places.reward, url, model, self._lineage, self.run.bill, settings)
        )

    async def _step(self, client: RewardClient, step: int) -> None:
        """Sample, have it scored, learn. Ids are places in the batch."""
        groups = [(p, self._policy.sample(GROUP)) for p in self._policy.choose(GROUPS_A_STEP, len(topics()))]
        items = batch(groups, self._texts)
        answer = await client.score(TASK, items, run=self._lineage.name, step=step, lineage=self._lineage.name)
        rewards = [result.reward for result in answer.results]
        rubric = await self._store.get(TASK, answer.results[0].rubric.digest)
        self.run.bill.read(items, len(rubric.llm_criteria), shadow=False)
        self.run.versions.append(answer.results[0].rubric.version or 0)
        told = [rewards[n * GROUP : (n + 1) * GROUP] for n in range(GROUPS_A_STEP)]
        self._policy.learn([(sampled, told[n]) for n, (_, sampled) in enumerate(groups)])

    async def _note_rubric(self, client: RewardClient) -> None:
        """What honest texts get, whenever another rubric has become active."""
        active = await self._store.active(self._lineage)
        if active is None or (self.run.lineage and self.run.lineage[-1]["digest"] == active.digest):
            return
        rubric = await self._store.labelled(self._lineage, active.digest)
        found = await self._honest(client, rubric)
        now = [reward for reward, _, _ in found]
        self.run.honest.append(now)
        self.run.rejected.append(rejected(self._first, now, [vetoed for _, vetoed, _ in found]))
        self.run.docked.append(sum(docked for _, _, docked in found) / len(found))
        criteria = [c.check.check if isinstance(c, CheckCriterion) else c.name for c in rubric.criteria]
        at = len(self.run.versions)
        self.run.lineage.append({"step": at, "version": active.version, "digest": active.digest, "criteria": criteria})

    async def _honest(self, client: RewardClient, rubric: Rubric) -> list[tuple[float | None, bool, bool]]:
        """Of every honest text: its reward, whether a veto hit it, whether a check takes something off it."""
        items = [
            ScoreItem(id=f"{n}-{k}", prompt=topic.prompt, completion=self._texts[n][k])
            for n, kind in enumerate(KINDS)
            if kind is Kind.HONEST
            for k, topic in enumerate(topics())
        ]
        checks = {criterion.id for criterion in rubric.check_criteria}
        answer = await client.shadow(TASK, rubric.model_copy(update={"lineage": self._lineage.name}), items)
        return [
            (
                result.reward,
                Flag.VETOED in result.flags,
                any(c.id in checks and c.score is not None and c.score < 1.0 for c in result.criteria),
            )
            for result in answer.results
        ]

    async def _note_cycles(self, evolution: Evolution) -> None:
        """What became of every cycle and candidate, for the report."""
        for report in await evolution.reports():
            about = {"trigger": report.trigger, "candidates": report.candidates, "activated": report.activated}
            self.run.cycles.append(about | {"steps": report.evidence.last_step, "notes": report.notes[:6]})
        for event in await evolution.history():
            if event.kind.value not in ("proposed", "activated"):
                self.run.cycles.append({"event": event.kind.value, "by": event.by, "reason": event.reason[:300]})
