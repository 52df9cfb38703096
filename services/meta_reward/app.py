"""The meta-reward service: routes, console and the background worker in one process."""

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
from services.kit.asyncio_utils import cancel_and_wait
from services.kit.http.client import JsonClient, open_session
from services.kit.redis_faults import problem_text
from services.kit.store.redis import check_writable, connect
from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from services.kit.web.server import Readiness, install_common_routes
from services.meta_reward.api.routes import operating, reading
from services.meta_reward.clients.meta_judge import MetaJudge, MetaJudgeCache
from services.meta_reward.console.actions import action_routes
from services.meta_reward.console.pages import pages
from services.meta_reward.console.sign_in_throttle import SignInThrottle
from services.meta_reward.cycle_run import RESUME_WITHIN_S
from services.meta_reward.deps import ServiceDeps
from services.meta_reward.metrics import MetaRewardMetrics
from services.meta_reward.monitoring.auditor import Auditor
from services.meta_reward.propose.registry import build_proposers
from services.meta_reward.settings import MetaRewardSettings
from services.meta_reward.stores.anchors import AnchorStore
from services.meta_reward.stores.audits import AuditStore
from services.meta_reward.stores.checkpoints import CheckpointStore
from services.meta_reward.stores.leases import Leases
from services.meta_reward.stores.status import StatusStore
from services.meta_reward.worker.worker import Worker

if TYPE_CHECKING:
    from services.meta_reward.archive.archiver import Archiver


def create_app(settings: MetaRewardSettings) -> FastAPI:
    """The app. Clients and background tasks are opened in its lifespan and closed in reverse order."""
    registry = CollectorRegistry()
    metrics = MetaRewardMetrics(registry)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            redis = connect(settings.redis_url)
            stack.push_async_callback(redis.aclose)
            app.state.redis = redis
            app.state.deps = await _open_deps(settings, redis, stack)
            leases = Leases(redis, ttl_ms=int(1_000 * settings.lease_ttl_s))
            worker = Worker(app.state.deps, leases, metrics)
            background = [worker.run(), worker.keep_watch()]
            if app.state.deps.audits is not None:
                auditor = await _open_audit(app.state.deps, app.state.deps.audits, leases, metrics, stack)
                background.append(worker.keep_auditing(auditor))
            if settings.archive_url:
                archiver = _open_archive(settings, redis, leases, metrics)
                background.append(archiver.run(settings.tasks, settings.poll_s))
            for coroutine in background:
                stack.push_async_callback(cancel_and_wait, asyncio.create_task(coroutine))
            yield

    app = FastAPI(
        title="Regrade meta-reward service",
        version=version("regrade"),
        summary="Reads traces, proposes rubrics, and activates those that pass the gate.",
        lifespan=lifespan,
        docs_url=None,  # `install_common_routes` has a page without foreign scripts
        redoc_url=None,
    )
    app.state.sign_in_throttle = SignInThrottle()
    app.include_router(reading)
    app.include_router(operating)
    app.include_router(action_routes)
    app.include_router(pages)
    return install_common_routes(app, settings, registry, _ready)


async def _open_deps(settings: MetaRewardSettings, redis: Redis, stack: AsyncExitStack) -> ServiceDeps:
    session = await stack.enter_async_context(
        open_session(connections=settings.meta_judge_in_flight, timeout_s=settings.meta_judge_timeout_s)
    )
    key = settings.reward_key.get_secret_value()
    client = await stack.enter_async_context(RewardClient(settings.reward_url, key=key))
    meta_judge: MetaJudge | None = None
    if settings.llm_proposer:
        meta_judge = MetaJudge(
            JsonClient(session, settings.meta_judge_url, key=settings.meta_judge_key, name="the meta-judge"),
            model=settings.meta_judge_model,
            params=settings.meta_judge_params,
            max_tokens=settings.meta_judge_max_tokens,
            in_flight=settings.meta_judge_in_flight,
            redis=redis,
            cache=MetaJudgeCache(redis, ttl_s=int(RESUME_WITHIN_S) + 1),
        )
    return ServiceDeps(
        store=RubricStore(redis),
        log=TraceLog(redis),
        status_store=StatusStore(redis),
        checkpoints=CheckpointStore(redis),
        anchors=AnchorStore(redis, settings.gate_originals),
        client=client,
        proposers=build_proposers(settings, meta_judge),
        settings=settings,
        audits=AuditStore(redis) if settings.audit_share > 0.0 else None,
    )


async def _open_audit(
    deps: ServiceDeps, audits: AuditStore, leases: Leases, metrics: MetaRewardMetrics, stack: AsyncExitStack
) -> Auditor:
    """An auditor that uses the reward service at `audit_url`, or the training judge when there is none."""
    settings, client = deps.settings, deps.client
    if settings.audit_url:
        key = settings.audit_key.get_secret_value()
        client = await stack.enter_async_context(RewardClient(settings.audit_url, key=key))
    return Auditor(deps, audits, client, leases, metrics)


def _open_archive(settings: MetaRewardSettings, redis: Redis, leases: Leases, metrics: MetaRewardMetrics) -> "Archiver":
    """Imported here because pyarrow takes a hundred megabytes of memory, and most services archive nothing."""
    from services.meta_reward.archive.archiver import ArchiveLimits, Archiver
    from services.meta_reward.archive.parquet import ArchiveStore

    return Archiver(redis, ArchiveStore(settings.archive_url), leases, metrics, ArchiveLimits.of(settings))


async def _ready(request: Request) -> Readiness:
    redis: Redis = request.app.state.redis
    try:
        await check_writable(redis)
    except RedisError as error:
        return Readiness({"redis": False}, False, {"redis": problem_text(error)})
    return Readiness({"redis": True}, True)
