"""The meta-reward service's parts on real ones; the scripted engine is judge and meta-judge."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from regrade import RewardClient
from regrade.tasks import load_pack
from services.kit.asyncio_utils import cancel_and_wait
from services.kit.http.client import JsonClient, open_session
from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from services.meta_reward.clients.meta_judge import MetaJudge, MetaJudgeCache
from services.meta_reward.deps import ServiceDeps
from services.meta_reward.metrics import MetaRewardMetrics
from services.meta_reward.propose.base import Proposer
from services.meta_reward.propose.catalogue import CatalogueProposer
from services.meta_reward.propose.paper import PaperProposer
from services.meta_reward.settings import MetaRewardSettings
from services.meta_reward.stores.anchors import AnchorStore
from services.meta_reward.stores.checkpoints import CheckpointStore
from services.meta_reward.stores.leases import Leases
from services.meta_reward.stores.status import StatusStore
from services.meta_reward.worker.worker import Worker
from tests.support.builders import TASK
from tests.support.fake_engine import FakeEngine, Messages, Reply, Script, chat

POOR = "Trees are nice and trees are nice and trees are nice and"
"""Short, repetitive, broken off: what the catalogue has checks against."""

GOOD_CRITERION = {
    "name": "Concrete support",
    "fault": False,
    "description": "Claims are backed by concrete detail instead of generalities.",
    "levels": [
        "Nothing concrete.",
        "One vague detail.",
        "A detail or two, loosely tied in.",
        "Several details that fit.",
        "Most claims carry a fitting detail.",
        "Every claim rests on a telling detail.",
    ],
}


def meta_script(judge: Script, replies: Callable[[str], Reply | None] = lambda _: None) -> Script:
    """Judge calls go to `judge`; meta-judge calls to `replies` by prompt, well-behaved where that answers None."""

    def script(messages: Messages) -> Reply:
        if len(messages) == 2:
            return judge(messages)
        prompt = messages[0]["content"]
        return replies(prompt) or chat(json.dumps(_well_behaved(prompt)))

    return script


def _well_behaved(prompt: str) -> dict[str, Any]:
    if '"verdict"' in prompt:
        return {"verdict": "bad"}
    if '"inflated"' in prompt:
        return {"inflated": True, "missing": "It does not ask for support.", "fault": "It lets padding pass."}
    return {"criteria": [GOOD_CRITERION]}


class Meta(NamedTuple):
    """A worker and what it works with."""

    worker: Worker
    deps: ServiceDeps
    client: RewardClient
    leases: Leases


@asynccontextmanager
async def running_meta(
    redis: Redis,
    reward_url: str,
    engine: FakeEngine,
    *,
    llm: bool = False,
    catalogue: bool = True,
    key: str = "",
    **settings: Any,
) -> AsyncIterator[Meta]:
    """A worker that is not running by itself: tests call `run_due_cycle`."""
    values = {
        "every_traces": 8,
        "request_traces": 1,
        "samples": 2,
        "gate_originals": 12,
        "tasks": [TASK],
        "watch_traces": 8,
    } | settings
    chosen = MetaRewardSettings.model_validate(values)
    proposers: list[Proposer] = [CatalogueProposer()] if catalogue else []
    async with (
        open_session(connections=8, timeout_s=60.0) as session,
        RewardClient(reward_url, key=key, patience_s=2.0) as client,
    ):
        if llm:
            proposers.append(PaperProposer(await meta_judge(session, engine, redis)))
        deps = ServiceDeps(
            store=RubricStore(redis),
            log=TraceLog(redis),
            status_store=StatusStore(redis),
            checkpoints=CheckpointStore(redis),
            anchors=AnchorStore(redis, chosen.gate_originals),
            client=client,
            proposers=proposers,
            settings=chosen,
        )
        leases = Leases(redis, ttl_ms=5_000)
        yield Meta(Worker(deps, leases, MetaRewardMetrics(CollectorRegistry())), deps, client, leases)


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[None]:
    """The worker runs by itself for the length of a `with` block, and has ended behind it whatever happened there."""
    async with AsyncExitStack() as stack:
        for endless in (worker.run(), worker.keep_watch()):
            stack.push_async_callback(cancel_and_wait, asyncio.create_task(endless))
        yield


async def meta_judge(session: Any, engine: FakeEngine, redis: Redis) -> MetaJudge:
    """A meta-judge behind the scripted engine."""
    json_client = JsonClient(session, engine.url, retries=0)
    cache = MetaJudgeCache(redis, ttl_s=60)
    return MetaJudge(json_client, model="fake", max_tokens=256, in_flight=2, redis=redis, cache=cache)


async def train(client: RewardClient, completion: str = POOR, *, step: int = 1, count: int = 8, run: str = "r") -> None:
    """Score a step's completions, so that they leave traces; prompts are the pack's."""
    prompts = load_pack(TASK).prompts
    items = [
        {"id": str(n), "prompt": prompts[n % 4].prompt, "completion": f"{completion}{' ' * n}"} for n in range(count)
    ]
    await client.score(TASK, items, run=run, step=step)
