"""The reward service's app: its lifespan opens each part once and closes the parts in reverse order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from aiohttp import ClientSession
from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.kit.asyncio_utils import cancel_and_wait
from services.kit.checks.workers import CheckWorkers
from services.kit.http.client import JsonClient, open_session
from services.kit.redis_faults import problem_text
from services.kit.store.redis import check_writable, connect
from services.kit.store.rubric_store import RubricStore
from services.kit.store.trace_log import TraceLog
from services.kit.web.server import Readiness, install_common_routes
from services.reward.api.candidates import Candidates
from services.reward.api.micro_batching import RetryingBatcher
from services.reward.api.publishing import starting_rubrics
from services.reward.api.quotas import Quotas
from services.reward.api.routes import router, score_router
from services.reward.api.state import RewardState
from services.reward.api.trainer_routes import router as trainer_router
from services.reward.judge.admission import Admission
from services.reward.judge.batch import JudgeLimits
from services.reward.judge.engine.discovery import INPROCESS, EngineHandle, check_dialect, open_engine
from services.reward.judge.engine_client import EngineClient
from services.reward.judge.judge import Judge
from services.reward.metrics import RewardMetrics
from services.reward.persistence.circuit_breaker import CircuitBreaker
from services.reward.persistence.fence_key import FenceKey
from services.reward.persistence.judgement_cache import JudgementStore
from services.reward.persistence.multiplexed import MultiplexedConnection
from services.reward.persistence.outcome_store import OutcomeStore
from services.reward.persistence.recovery import Recovery
from services.reward.persistence.replica_cache import ActiveRubricCache, PinCache
from services.reward.persistence.restoration import LineageRestorer
from services.reward.persistence.spool import Spool, SpoolLimits, open_spool
from services.reward.scoring.pins import Pins
from services.reward.scoring.pipeline import ScoringPipeline
from services.reward.settings import RewardSettings

if TYPE_CHECKING:
    from services.reward.tracing import Tracing

_TEMPERATURE = 0.7
"""Of several rationales for one criterion: they must differ for their mean to be worth more than one of them."""
_READINESS_AGE_S = 1.0
"""Anybody may ask for `/readyz`, however often, and each answer costs a request to the engine."""


def create_app(settings: RewardSettings, tracing: "Tracing | None" = None) -> FastAPI:
    """The app; nothing is opened before its lifespan starts. `tracing` replaces the collector of the settings.

    Raises `ValueError` for an unknown `judge_dialect`.
    """
    check_dialect(settings.judge_dialect)
    tracing = tracing or _tracing(settings)
    traced = tracing.engine_requests() if tracing is not None else None
    registry = CollectorRegistry()
    metrics = RewardMetrics(registry)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as closing:
            if tracing is not None:
                closing.push_async_callback(asyncio.to_thread, tracing.close)
            session = await closing.enter_async_context(
                open_session(connections=settings.judge_in_flight, timeout_s=settings.judge_timeout_s, traced=traced)
            )
            engine = _engine(settings, session, metrics, closing)
            redis = connect(settings.redis_url)
            closing.push_async_callback(redis.aclose)
            pipe = MultiplexedConnection(redis, timeout_s=settings.redis_timeout_s)
            closing.push_async_callback(pipe.aclose)
            workers = CheckWorkers()
            closing.callback(workers.close)
            app.state.reward = state = await _open_state(settings, redis, pipe, engine, metrics, workers)
            closing.push_async_callback(_close_state, state)
            for background in (state.actives.follow(), state.recovery.run()):
                closing.push_async_callback(cancel_and_wait, asyncio.create_task(background))
            yield

    app = FastAPI(
        title="Regrade reward service",
        version=version("regrade"),
        summary="Scores rollouts of a policy by a rubric that re-grades itself.",
        lifespan=lifespan,
        docs_url=None,  # `install_common_routes` has a page without foreign scripts
        redoc_url=None,
    )
    app.include_router(score_router)
    app.include_router(router)
    app.include_router(trainer_router)
    install_common_routes(app, settings, registry, _ready)
    if tracing is not None:
        from services.reward.tracing import TracedRequests

        app.add_middleware(TracedRequests, tracing=tracing)
    return app


def _tracing(settings: RewardSettings) -> "Tracing | None":
    if not settings.trace_url:
        return None
    try:
        from services.reward.tracing import open_tracing
    except ModuleNotFoundError as error:
        raise RuntimeError("trace_url needs the extra otel: pip install 'regrade[reward,otel]'") from error
    return open_tracing("regrade-reward", settings.trace_url, settings.trace_share)


def _engine(
    settings: RewardSettings, session: ClientSession, metrics: RewardMetrics, closing: AsyncExitStack
) -> EngineHandle:
    """The judge's engine, opened at its first use; a model in this process is closed by `closing`."""
    if settings.judge_dialect == INPROCESS:
        from services.reward.judge.engine.inprocess import InprocessModel

        model = InprocessModel(
            settings.judge_model,
            batch_size=settings.judge_batch,
            timeout_s=settings.judge_timeout_s,
            max_model_len=settings.judge_context,
            gpu_memory=settings.judge_gpu_memory,
            engine_args=settings.judge_engine_args,
        )
        closing.push_async_callback(model.aclose)
        return EngineHandle(model.open)
    client = JsonClient(
        session,
        settings.judge_url,
        key=settings.judge_key,
        retries=settings.judge_retries,
        metrics=metrics,
        name="the judge",
    )
    open_remote = partial(
        open_engine,
        client,
        dialect=settings.judge_dialect,
        model=settings.judge_model,
        batch_size=settings.judge_batch,
        params=settings.judge_params,
    )
    return EngineHandle(open_remote)


async def _open_state(
    settings: RewardSettings,
    redis: Redis,
    pipe: MultiplexedConnection,
    engine: EngineHandle,
    metrics: RewardMetrics,
    workers: CheckWorkers,
) -> RewardState:
    circuit = CircuitBreaker(timeout_s=settings.redis_timeout_s)
    store = RubricStore(redis)
    trace_log = _trace_log(settings, redis, pipe)
    restorer = LineageRestorer(store, starting_rubrics(settings.bootstrap_tasks), metrics)
    pins, actives = PinCache(), ActiveRubricCache(store, circuit, metrics, restorer)
    spool = _spool(settings)
    outcomes = OutcomeStore(trace_log, circuit, pins, actives, spool)
    admission = _admission(settings)
    fence_key = FenceKey(settings.fence_key.get_secret_value())
    client = EngineClient(JudgementStore(pipe, circuit, ttl_s=settings.judgement_ttl_s), admission, metrics)
    pipeline = ScoringPipeline(
        pins=Pins(actives, outcomes),
        outcomes=outcomes,
        engine=engine,
        judge=Judge(client, judge_limits(settings)),
        admission=admission,
        modes=settings.task_modes,
        workers=workers,
        metrics=metrics,
        fence_key=fence_key,
        max_completion_chars=settings.max_completion_chars,
    )
    recovery = Recovery(
        redis=redis,
        circuit=circuit,
        store=store,
        trace_log=trace_log,
        pins=pins,
        actives=actives,
        spool=spool,
        metrics=metrics,
        poll_s=settings.active_poll_s,
        prepare=partial(_prepare, redis, actives, fence_key),
        fence_key=fence_key,
    )
    await recovery.start()
    metrics.watch_admission(lambda: admission.waiting, settings.judge_in_flight)
    _watch_outages(metrics, settings, circuit, spool)
    batcher = RetryingBatcher(pipeline, wait_s=settings.trainer_batch_wait_s)
    quotas, candidates = Quotas(settings.tenants, metrics), Candidates(store, workers)
    return RewardState(redis, store, engine, pipeline, batcher, circuit, actives, spool, recovery, quotas, candidates)


def _trace_log(settings: RewardSettings, redis: Redis, pipe: MultiplexedConnection) -> TraceLog:
    return TraceLog(
        redis, pipe, outcome_ttl_s=settings.outcome_ttl_s, cap=settings.trace_cap, cap_bytes=settings.trace_cap_bytes
    )


def _spool(settings: RewardSettings) -> Spool | None:
    limits = SpoolLimits(settings.spool_max_bytes, settings.spool_max_age_s, settings.spool_fsync)
    return open_spool(settings.spool_dir, limits)


def _watch_outages(
    metrics: RewardMetrics, settings: RewardSettings, circuit: CircuitBreaker, spool: Spool | None
) -> None:
    metrics.limit_trace_logs(settings.trace_cap_bytes)
    metrics.watch_outages(
        lambda: circuit.is_open,
        lambda: spool.size if spool else 0,
        lambda: spool.entries if spool else 0,
        settings.spool_max_bytes if spool else 0,
    )


async def _close_state(state: RewardState) -> None:
    await state.batcher.aclose()
    await state.pipeline.aclose()
    if state.spool is not None:
        await state.spool.aclose()
    await state.circuit.aclose()


def _admission(settings: RewardSettings) -> Admission:
    return Admission(
        capacity=settings.judge_in_flight,
        shadow_capacity=settings.shadow_in_flight or max(1, settings.judge_in_flight // 8),
        queue=settings.judge_queue,
    )


def judge_limits(settings: RewardSettings) -> JudgeLimits:
    """The judge's limits from the settings."""
    return JudgeLimits(
        criteria_per_call=settings.judge_criteria_per_call,
        rationale_words=settings.rationale_words,
        plan_words=settings.plan_words,
        samples=settings.judge_samples,
        temperature=_TEMPERATURE,
    )


async def _prepare(redis: Redis, actives: ActiveRubricCache, fence_key: FenceKey) -> None:
    """At the start, and when Redis answers again: activate rubrics where none is active, share the fence key."""
    await actives.prepare()
    await fence_key.load(redis)


async def _ready(request: Request) -> Readiness:
    """Without Redis, a replica is ready if its spool has room and a rubric is known: it serves degraded."""
    state: RewardState = request.app.state.reward
    problems: dict[str, str] = {}
    try:
        await state.circuit.call(lambda: check_writable(state.redis))
    except RedisError as error:
        problems["redis"] = problem_text(error)
    parts = {"redis": not problems, "judge": await state.engine.ready(max_age_s=_READINESS_AGE_S)}
    if state.spool is not None:
        parts["spool"] = not state.spool.full
    serves_degraded = parts.get("spool", False) and state.actives.any
    return Readiness(parts, parts["judge"] and (parts["redis"] or serves_degraded), problems)
