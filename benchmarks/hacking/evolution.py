"""The meta-reward worker with its proposers, driven step by step, so that a run depends on its seed alone.

The components are those of `services.meta_reward`. Training waits for a cycle here, because a step of this policy takes
milliseconds, whereas one of a language model takes longer than a cycle.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from regrade import RewardClient
from regrade.contracts import CycleReport, LineageEvent, ScoreItem, ScoreResponse
from services.kit.http.client import JsonClient, open_session
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from services.meta_reward.clients.meta_judge import MetaJudge
from services.meta_reward.deps import ServiceDeps
from services.meta_reward.metrics import MetaRewardMetrics
from services.meta_reward.propose.registry import build_proposers
from services.meta_reward.settings import MetaRewardSettings
from services.meta_reward.stores.anchors import AnchorStore
from services.meta_reward.stores.checkpoints import CheckpointStore
from services.meta_reward.stores.leases import Leases
from services.meta_reward.stores.status import StatusStore
from services.meta_reward.worker.worker import Worker


@dataclass
class Usage:
    """The cost of a run without any cache: judge calls and words read, meta-judge calls and tokens."""

    judge_calls: int = 0
    judge_words: int = 0
    shadow_calls: int = 0
    shadow_words: int = 0
    meta_calls: int = 0
    meta_tokens: int = 0

    def add_items(self, items: Sequence[ScoreItem], criteria: int, *, shadow: bool) -> None:
        """Add items that are judged by `criteria` LLM criteria each."""
        calls = criteria * len(items)
        words = criteria * sum(len(str(item.prompt).split()) + len(str(item.completion).split()) for item in items)
        if shadow:
            self.shadow_calls, self.shadow_words = self.shadow_calls + calls, self.shadow_words + words
        else:
            self.judge_calls, self.judge_words = self.judge_calls + calls, self.judge_words + words


class MeteredClient(RewardClient):
    """The worker's client; adds the gate's items to `usage`."""

    usage: Usage

    async def shadow(self, task: str, rubric: Any, items: Sequence[ScoreItem]) -> ScoreResponse:
        """See `RewardClient.shadow`."""
        self.usage.add_items(items, len(rubric.llm_criteria), shadow=True)
        return await super().shadow(task, rubric, items)


class MeteredJsonClient(JsonClient):
    """The meta-judge's endpoint; adds its reported token usage to `usage`."""

    usage: Usage

    async def post(self, *args: Any, **options: Any) -> Any:
        """See `JsonClient.post`."""
        reply = await super().post(*args, **options)
        tokens = reply.get("usage") or {}
        self.usage.meta_calls += 1
        self.usage.meta_tokens += int(tokens.get("prompt_tokens", 0)) + int(tokens.get("completion_tokens", 0))
        return reply


class Evolution:
    """The cycles of one lineage. `poll` does what the service's two loops do at every poll."""

    def __init__(self, worker: Worker, deps: ServiceDeps, lineage: LineageKey) -> None:
        self._worker = worker
        self._deps = deps
        self._lineage = lineage

    async def poll(self) -> None:
        """Check the last activation for a rollback, and run a cycle if one is due."""
        await self._worker.watch(self._lineage)
        await self._worker.run_due_cycle(self._lineage)

    async def stage(self) -> str:
        """The stage of the running cycle, or "" if none runs."""
        status = await self._deps.status_store.status(self._lineage)
        return f"{status.stage.value}: {status.detail}" if status.stage is not None else ""

    async def reports(self) -> list[CycleReport]:
        """All finished cycles."""
        return await self._deps.status_store.reports(self._lineage)

    async def history(self) -> list[LineageEvent]:
        """All events of the lineage."""
        return await self._deps.store.history(self._lineage)


@asynccontextmanager
async def running_evolution(
    redis: Redis,
    reward_url: str,
    meta_url: str,
    model: str,
    lineage: LineageKey,
    usage: Usage,
    settings: MetaRewardSettings,
) -> AsyncIterator[Evolution]:
    """A worker for one lineage."""
    async with (
        open_session(connections=settings.meta_judge_in_flight, timeout_s=settings.meta_judge_timeout_s) as session,
        MeteredClient(reward_url) as client,
    ):
        client.usage = usage
        json_client = MeteredJsonClient(session, meta_url)
        json_client.usage = usage
        judge = MetaJudge(
            json_client,
            model=model,
            max_tokens=settings.meta_judge_max_tokens,
            in_flight=settings.meta_judge_in_flight,
            redis=redis,
        )
        deps = ServiceDeps(
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
