"""The real worker with the real proposers, driven step by step, so that a seed decides when a cycle sees what.

The parts are those that `services.meta_reward` is made of. Training waits for a cycle here: a step of this policy takes
milliseconds, where one of a language model takes longer than a cycle.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from regrade import RewardClient
from regrade.contracts import CycleReport, LineageEvent, ScoreItem, ScoreResponse
from services.kit.http.client import JsonEndpoint, open_session
from services.kit.store.keys import LineageKey
from services.kit.store.redis import shared_fence_key
from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from services.meta_reward.clients.meta_judge import MetaJudge
from services.meta_reward.deps import CycleDeps
from services.meta_reward.metrics import MetaRewardMetrics
from services.meta_reward.propose.registry import build_proposers
from services.meta_reward.settings import MetaRewardSettings
from services.meta_reward.stores.anchors import AnchorStore
from services.meta_reward.stores.checkpoints import CheckpointStore
from services.meta_reward.stores.leases import Leases
from services.meta_reward.stores.status import StatusStore
from services.meta_reward.worker.worker import Worker


@dataclass
class Bill:
    """What a run asked for, as if nothing had been known: judge calls, words read, meta-judge calls, tokens."""

    judge_calls: int = 0
    judge_words: int = 0
    shadow_calls: int = 0
    shadow_words: int = 0
    meta_calls: int = 0
    meta_tokens: int = 0

    def read(self, items: Sequence[ScoreItem], criteria: int, *, shadow: bool) -> None:
        """Items judged by so many LLM criteria each."""
        calls = criteria * len(items)
        words = criteria * sum(len(str(item.prompt).split()) + len(str(item.completion).split()) for item in items)
        if shadow:
            self.shadow_calls, self.shadow_words = self.shadow_calls + calls, self.shadow_words + words
        else:
            self.judge_calls, self.judge_words = self.judge_calls + calls, self.judge_words + words


class BilledClient(RewardClient):
    """The worker's client; what a gate asks goes on the bill."""

    bill: Bill

    async def shadow(self, task: str, rubric: Any, items: Sequence[ScoreItem]) -> ScoreResponse:
        """As the client does it."""
        self.bill.read(items, len(rubric.llm_criteria), shadow=True)
        return await super().shadow(task, rubric, items)


class BilledEndpoint(JsonEndpoint):
    """The meta-judge's endpoint; what it tells of its usage goes on the bill."""

    bill: Bill

    async def post(self, *args: Any, **options: Any) -> Any:
        """As the endpoint does it."""
        reply = await super().post(*args, **options)
        usage = reply.get("usage") or {}
        self.bill.meta_calls += 1
        self.bill.meta_tokens += int(usage.get("prompt_tokens", 0)) + int(usage.get("completion_tokens", 0))
        return reply


class Evolution:
    """One line's cycles. `look` is what the service's two loops do at every poll."""

    def __init__(self, worker: Worker, deps: CycleDeps, lineage: LineageKey) -> None:
        self._worker = worker
        self._deps = deps
        self._lineage = lineage

    async def look(self) -> None:
        """Watch the last activation, and run a cycle if one is due."""
        await self._worker.watch(self._lineage)
        await self._worker.run_due_cycle(self._lineage)

    async def doing(self) -> str:
        """The stage of the cycle that runs, or an empty text."""
        status = await self._deps.status_store.status(self._lineage)
        return f"{status.stage.value}: {status.detail}" if status.stage is not None else ""

    async def reports(self) -> list[CycleReport]:
        """Every cycle that has ended."""
        return await self._deps.status_store.reports(self._lineage)

    async def history(self) -> list[LineageEvent]:
        """Everything that happened to the line's rubrics."""
        return await self._deps.store.history(self._lineage)


@asynccontextmanager
async def evolving(
    redis: Redis,
    reward_url: str,
    meta_url: str,
    model: str,
    lineage: LineageKey,
    bill: Bill,
    settings: MetaRewardSettings,
) -> AsyncIterator[Evolution]:
    """A worker for one line."""
    async with (
        open_session(connections=settings.meta_judge_in_flight, timeout_s=settings.meta_judge_timeout_s) as session,
        BilledClient(reward_url) as client,
    ):
        client.bill = bill
        endpoint = BilledEndpoint(session, meta_url)
        endpoint.bill = bill
        judge = MetaJudge(
            endpoint,
            model=model,
            max_tokens=settings.meta_judge_max_tokens,
            in_flight=settings.meta_judge_in_flight,
            fence_key=await shared_fence_key(redis),
        )
        deps = CycleDeps(
            store=RubricStore(redis),
            log=TraceLog(redis),
            status_store=StatusStore(redis),
            checkpoints=CheckpointStore(redis),
            anchors=AnchorStore(redis, settings.gate_originals),
            client=client,
            proposers=build_proposers(settings, judge),
            settings=settings,
        )
        worker = Worker(deps, Leases(redis, ttl_ms=60_000), MetaRewardMetrics(CollectorRegistry()))
        yield Evolution(worker, deps, lineage)
