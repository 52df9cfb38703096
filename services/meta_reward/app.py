"""Composition of the meta-reward service: the worker and its HTTP face in one process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from redis.exceptions import RedisError

from regrade import RewardClient
from services.kit.asyncio_utils import end_task
from services.kit.http.client import JsonEndpoint, open_session
from services.kit.store.leases import Leases
from services.kit.store.redis import connect, shared_fence_key
from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from services.kit.web.server import Readiness, assemble
from services.meta_reward.api.routes import operating, reading
from services.meta_reward.clients.meta_judge import AnswerMemory, MetaJudge
from services.meta_reward.console.actions import deeds
from services.meta_reward.console.pages import pages
from services.meta_reward.cycle import Parts
from services.meta_reward.metrics import MetaRewardMetrics
from services.meta_reward.monitoring.auditor import AuditBook, Auditor
from services.meta_reward.propose.registry import build_proposers
from services.meta_reward.settings import MetaRewardSettings
from services.meta_reward.stores.anchors import AnchorStore
from services.meta_reward.stores.checkpoints import Checkpoints
from services.meta_reward.stores.status import Board
from services.meta_reward.worker.worker import Worker

if TYPE_CHECKING:
    from services.meta_reward.archive.archiver import Archiver


def create_app(settings: MetaRewardSettings) -> FastAPI:
    """The meta-reward service's app. Nothing is opened before its lifespan starts."""
    registry = CollectorRegistry()
    metrics = MetaRewardMetrics(registry)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            redis = connect(settings.redis_url)
            stack.push_async_callback(redis.aclose)
            app.state.redis = redis
            app.state.parts = await _open_parts(settings, redis, stack)
            leases = Leases(redis, ttl_ms=int(1_000 * settings.lease_ttl_s))
            worker = Worker(app.state.parts, leases, metrics)
            endless_ones = [worker.run(), worker.keep_watch()]
            if app.state.parts.audits is not None:
                auditor = await _open_audit(app.state.parts, app.state.parts.audits, leases, metrics, stack)
                endless_ones.append(worker.keep_auditing(auditor))
            if settings.archive_url:
                archiver = _open_archive(settings, redis, leases, metrics)
                endless_ones.append(archiver.run(settings.tasks, settings.poll_s))
            for endless in endless_ones:
                stack.push_async_callback(end_task, asyncio.create_task(endless))
            yield

    app = FastAPI(
        title="Regrade meta-reward service",
        version=version("regrade"),
        summary="Reads traces, proposes rubrics, and lets none become active but through the gate.",
        lifespan=lifespan,
    )
    app.include_router(reading)
    app.include_router(operating)
    app.include_router(deeds)
    app.include_router(pages)
    return assemble(app, settings, registry, _ready)


async def _open_parts(settings: MetaRewardSettings, redis: Redis, stack: AsyncExitStack) -> Parts:
    session = await stack.enter_async_context(
        open_session(connections=settings.meta_judge_in_flight, timeout_s=settings.meta_judge_timeout_s)
    )
    key = settings.reward_key.get_secret_value()
    client = await stack.enter_async_context(RewardClient(settings.reward_url, key=key))
    meta_judge: MetaJudge | None = None
    if settings.llm_proposer:
        meta_judge = MetaJudge(
            JsonEndpoint(session, settings.meta_judge_url, key=settings.meta_judge_key),
            model=settings.meta_judge_model,
            max_tokens=settings.meta_judge_max_tokens,
            in_flight=settings.meta_judge_in_flight,
            fence_key=await shared_fence_key(redis),
            memory=AnswerMemory(redis, ttl_s=int(settings.resume_within_s) + 1),
        )
    return Parts(
        store=RubricStore(redis),
        log=TraceLog(redis),
        board=Board(redis),
        checkpoints=Checkpoints(redis),
        anchors=AnchorStore(redis, settings.gate_originals),
        client=client,
        proposers=build_proposers(settings, meta_judge),
        settings=settings,
        audits=AuditBook(redis) if settings.audit_share > 0.0 else None,
    )


async def _open_audit(
    parts: Parts, book: AuditBook, leases: Leases, metrics: MetaRewardMetrics, stack: AsyncExitStack
) -> Auditor:
    """The judge that trains audits by another rubric, or another service's judge does, under a key of its own."""
    settings, client = parts.settings, parts.client
    if settings.audit_url:
        key = settings.audit_key.get_secret_value()
        client = await stack.enter_async_context(RewardClient(settings.audit_url, key=key))
    return Auditor(
        book=book,
        store=parts.store,
        log=parts.log,
        client=client,
        leases=leases,
        settings=settings,
        metrics=metrics,
    )


def _open_archive(settings: MetaRewardSettings, redis: Redis, leases: Leases, metrics: MetaRewardMetrics) -> "Archiver":
    """Imported only where it is wanted: pyarrow takes a hundred megabytes."""
    from services.meta_reward.archive.archiver import Archiver, Limits
    from services.meta_reward.archive.parquet import ArchiveStore

    return Archiver(redis, ArchiveStore(settings.archive_url), leases, metrics, Limits.of(settings))


async def _ready(request: Request) -> Readiness:
    redis: Redis = request.app.state.redis
    try:
        answers = bool(await redis.ping())
    except RedisError:
        answers = False
    return Readiness({"redis": answers}, answers)
