"""Composition of the reward service: each part made once, in the lifespan, and closed in order."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.kit.http import JsonEndpoint, open_session
from services.kit.judgements import JudgementStore
from services.kit.redis import connect, shared_fence_key
from services.kit.rubrics import RubricStore
from services.kit.tasks import end_task
from services.kit.traces import TraceLog
from services.kit.web import assemble
from services.reward.admission import Admission
from services.reward.api import router
from services.reward.calls import EngineCalls
from services.reward.checks import CheckCatalogue
from services.reward.engine.probe import EngineHandle
from services.reward.judge import Judge, JudgeLimits
from services.reward.mathequal import MathEqualPool
from services.reward.metrics import RewardMetrics
from services.reward.pins import Pins
from services.reward.rubrics import bootstrap
from services.reward.service import ScoreService
from services.reward.settings import RewardSettings
from services.reward.state import RewardState

log = logging.getLogger(__name__)

_RECONNECT_S = 1.0


def create_app(settings: RewardSettings) -> FastAPI:
    """The reward service's app. Nothing is opened before its lifespan starts."""
    registry = CollectorRegistry()
    metrics = RewardMetrics(registry)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        redis = connect(settings.redis_url)
        math_pool = MathEqualPool()
        async with open_session(connections=settings.judge_in_flight, timeout_s=settings.judge_timeout_s) as session:
            endpoint = JsonEndpoint(
                session, settings.judge_url, key=settings.judge_key, retries=settings.judge_retries, watch=metrics
            )
            engine = EngineHandle(
                endpoint, dialect=settings.judge_dialect, model=settings.judge_model, batch=settings.judge_batch
            )
            app.state.reward = await _open_state(settings, redis, engine, metrics, math_pool)
            listener = asyncio.create_task(_follow_activations(app.state.reward.store, metrics))
            try:
                yield
            finally:
                await end_task(listener)
                await app.state.reward.service.aclose()
                math_pool.close()
                await redis.aclose()

    app = FastAPI(
        title="Regrade reward service",
        version=version("regrade"),
        summary="Scores rollouts of a policy by a rubric that re-grades itself.",
        lifespan=lifespan,
    )
    app.include_router(router)
    return assemble(app, settings, registry, _ready)


async def _open_state(
    settings: RewardSettings, redis: Redis, engine: EngineHandle, metrics: RewardMetrics, math_pool: MathEqualPool
) -> RewardState:
    store = RubricStore(redis)
    log_of_traces = TraceLog(redis, outcome_ttl_s=settings.outcome_ttl_s, cap=settings.trace_cap)
    await bootstrap(store, settings.bootstrap_tasks)
    admission = Admission(
        capacity=settings.judge_in_flight, shadow_capacity=settings.shadow_in_flight, queue=settings.judge_queue
    )
    calls = EngineCalls(JudgementStore(redis, ttl_s=settings.judgement_ttl_s), admission, metrics)
    fence_key = settings.fence_key.get_secret_value().encode() or await shared_fence_key(redis)
    service = ScoreService(
        pins=Pins(store, log_of_traces, settings),
        log=log_of_traces,
        engine=engine,
        judge=Judge(calls, _limits(settings), fence_key),
        admission=admission,
        modes=settings.task_modes,
        checks=CheckCatalogue(math_pool),
        metrics=metrics,
        fence_key=fence_key,
        max_completion_chars=settings.max_completion_chars,
    )
    return RewardState(redis=redis, store=store, engine=engine, service=service)


def _limits(settings: RewardSettings) -> JudgeLimits:
    return JudgeLimits(
        shard=settings.judge_shard,
        rationale_words=settings.rationale_words,
        plan_words=settings.plan_words,
        samples=settings.judge_samples,
        temperature=settings.judge_temperature,
    )


async def _follow_activations(store: RubricStore, metrics: RewardMetrics) -> None:
    """Have every newly active rubric in process before the first request asks for it."""
    while True:
        try:
            async for told in store.announcements():
                await store.get(told.line.task, told.digest)
                metrics.activated(told.line.task, told.line.lineage, told.version)
                log.info("rubric active", extra={"task": told.line.task, "version": told.version})
        except RedisError:
            log.warning("lost the activation channel; connecting again", exc_info=True)
        await asyncio.sleep(_RECONNECT_S)


async def _ready(request: Request) -> dict[str, bool]:
    state: RewardState = request.app.state.reward
    try:
        redis_answers = bool(await state.redis.ping())
    except RedisError:
        redis_answers = False
    return {"redis": redis_answers, "judge": await state.engine.ready()}
