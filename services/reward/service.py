"""One batch's way: pin, guards, checks, judge, aggregate, trace, reward."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from regrade.contracts import (
    CriterionScore,
    ErrorCode,
    Flag,
    ItemError,
    ItemResult,
    Mode,
    Purpose,
    Role,
    ScoreItem,
    ScoreRequest,
    ScoreResponse,
    Trace,
    Usage,
    as_text,
)
from regrade.tasks import judge_role
from services.kit.errors import Invalid, Unavailable
from services.kit.fence import neutralise
from services.kit.http import UpstreamError
from services.kit.traces import Record, TraceLog
from services.reward.aggregate import aggregate, fires
from services.reward.attempts import attempts
from services.reward.checks import CheckCatalogue, CheckError, Subject
from services.reward.engine.base import Engine
from services.reward.engine.probe import EngineHandle
from services.reward.guards import guard
from services.reward.identity import group_of, item_base, item_identity, item_ids, trace_id
from services.reward.judge import Judge, JudgeAnswer, JudgeJob
from services.reward.metrics import RewardMetrics
from services.reward.pins import Pins, Resolved
from services.reward.prompt import render

_RETRY_AFTER_S = 5


@dataclass(slots=True)
class _Case:
    """One item on its way: what is known of it grows stage by stage."""

    item: ScoreItem
    item_id: str
    identity: str
    resolved: Resolved
    prompt: str
    completion: str
    flags: list[str] = field(default_factory=list)
    scores: dict[str, CriterionScore] = field(default_factory=dict)
    error: ItemError | None = None
    decided: bool = False
    """No judge is needed: a guard or a veto has settled the reward at 0."""
    usage: Usage = field(default_factory=Usage)


class ScoreService:
    """Scores batches; keeps nothing that Redis does not have (I8)."""

    def __init__(
        self,
        *,
        pins: Pins,
        log: TraceLog,
        engine: EngineHandle,
        judge: Judge,
        checks: CheckCatalogue,
        metrics: RewardMetrics,
        fence_key: bytes,
        max_completion_chars: int,
    ) -> None:
        self._pins = pins
        self._log = log
        self._engine = engine
        self._judge = judge
        self._checks = checks
        self._metrics = metrics
        self._fence_key = fence_key
        self._max_completion_chars = max_completion_chars

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """One result an item. Raises `Unavailable` (the judge could serve none), `Conflict`, `NotFound`, `Invalid`."""
        started = time.perf_counter()
        if request.mode is not Mode.EXPECTED:
            raise Invalid(f"mode {request.mode.value!r} is not offered by this service", code="mode_unavailable")
        engine = await self._open_engine()
        ids = item_ids(request.items)
        bases = [item_base(request, i, name, engine.model) for i, name in zip(request.items, ids, strict=True)]
        resolved = await self._pins.resolve(request, bases)
        cases = [
            _Case(i, name, item_identity(base, r.active.digest), r, as_text(i.prompt), as_text(i.completion))
            for i, name, base, r in zip(request.items, ids, bases, resolved, strict=True)
        ]
        new = [case for case in cases if case.resolved.known is None]
        for case in new:
            await self._screen(case)
        await self._ask_judge(engine, request, [case for case in new if not case.decided and case.error is None])
        computed = await self._settle(request, new, engine.model, started)
        results = tuple(case.resolved.known or computed[id(case)] for case in cases)
        _refuse_if_judge_is_away(results)
        usage = sum((case.usage for case in new), Usage())
        self._metrics.scored(request, results, usage)
        return ScoreResponse(results=results, usage=usage, degraded=False)

    async def aclose(self) -> None:
        """Drop the judge calls under way."""
        await self._judge.aclose()

    async def _open_engine(self) -> Engine:
        try:
            return await self._engine.get()
        except UpstreamError as error:
            raise _judge_is_away(str(error)) from error

    async def _screen(self, case: _Case) -> None:
        """Guards, then checks; a guard or a fired veto settles the item."""
        if case.item.truncated:
            case.flags.append(Flag.TRUNCATED)
        stopped = guard(case.completion, max_chars=self._max_completion_chars)
        if stopped is not None:
            case.flags.append(stopped)
            case.decided = True
            return
        case.flags.extend(_noticed(case))
        subject = Subject(case.prompt, case.completion, case.item.reference)
        for criterion in case.resolved.rubric.check_criteria:
            try:
                value = await self._checks.value(criterion.check, subject)
            except CheckError as error:
                case.error = ItemError(code=ErrorCode.CHECK_FAILED, message=str(error), retryable=False)
                continue
            case.scores[criterion.id] = CriterionScore(id=criterion.id, score=value, confidence=1.0)
            if criterion.role is Role.VETO and fires(criterion, value):
                case.decided = True
        if case.decided:
            case.flags.append(Flag.VETOED)
            case.error = None

    async def _ask_judge(self, engine: Engine, request: ScoreRequest, cases: Sequence[_Case]) -> None:
        asked = [(case, criterion) for case in cases for criterion in case.resolved.rubric.llm_criteria]
        role = judge_role(request.task)
        jobs = [
            JudgeJob(
                render(
                    role=role,
                    rubric=case.resolved.rubric,
                    criterion=criterion,
                    prompt=case.prompt,
                    completion=case.completion,
                    fence_key=self._fence_key,
                )
            )
            for case, criterion in asked
        ]
        answers = await self._judge.answer(engine, request.task, jobs, purpose=request.purpose, fresh=request.fresh)
        for (case, criterion), answer in zip(asked, answers, strict=True):
            _note(case, criterion.id, answer)

    async def _settle(
        self, request: ScoreRequest, cases: Sequence[_Case], model: str, started: float
    ) -> dict[int, ItemResult]:
        """Aggregate, then store and trace what has a reward; what a concurrent retry stored first is what counts."""
        results = {id(case): _result(request, case) for case in cases}
        kept = [case for case in cases if results[id(case)].reward is not None]
        if request.purpose is Purpose.SHADOW or not kept:
            return results
        latency_ms = 1_000.0 * (time.perf_counter() - started)
        records = [
            Record(case.identity, results[id(case)], _trace(request, case, results[id(case)], model, latency_ms))
            for case in kept
        ]
        for case, stored in zip(kept, await self._log.append(request.task, records), strict=True):
            results[id(case)] = stored
        return results


def _noticed(case: _Case) -> list[Flag]:
    """What was taken out of the prompt and the completion, and what the completion tries; each flag once."""
    visible, found = neutralise(case.completion)
    return list(dict.fromkeys((*neutralise(case.prompt).flags, *found, *attempts(visible))))


def _note(case: _Case, criterion_id: str, answer: JudgeAnswer) -> None:
    case.usage += answer.usage
    if isinstance(answer.judgement, ItemError):
        case.error = answer.judgement
        return
    score, confidence = answer.judgement
    case.scores[criterion_id] = CriterionScore(id=criterion_id, score=score, confidence=confidence)


def _result(request: ScoreRequest, case: _Case) -> ItemResult:
    rubric, active, _ = case.resolved
    reward: float | None = None
    raw: float | None = None
    if case.error is None and case.decided:
        reward = raw = 0.0
    elif case.error is None:
        scores = {name: entry.score for name, entry in case.scores.items() if entry.score is not None}
        reward, raw, vetoed = aggregate(rubric, scores)
        if vetoed:
            case.flags.append(Flag.VETOED)
    unscored = {c.id: CriterionScore(id=c.id, score=None, confidence=None) for c in rubric.criteria}
    return ItemResult(
        id=case.item_id,
        reward=reward,
        raw=raw,
        rubric=active.ref(request.lineage),
        criteria=tuple((unscored | case.scores).values()),
        flags=tuple(case.flags),
        error=case.error,
        trace_id=trace_id(case.identity),
        cached=False,
    )


def _trace(request: ScoreRequest, case: _Case, result: ItemResult, model: str, latency_ms: float) -> Trace:
    assert result.reward is not None
    assert result.raw is not None
    return Trace(
        trace_id=result.trace_id,
        task=request.task,
        lineage=request.lineage,
        scope=result.rubric.scope,
        run=request.run,
        step=request.step,
        group=group_of(case.item),
        item_id=case.item_id,
        purpose=request.purpose,
        prompt=case.item.prompt,
        completion=case.item.completion,
        reference=case.item.reference,
        digest=result.rubric.digest,
        version=result.rubric.version,
        reward=result.reward,
        raw=result.raw,
        criteria=result.criteria,
        flags=result.flags,
        judge_model=model,
        usage=case.usage,
        latency_ms=latency_ms,
        time=time.time(),
    )


def _refuse_if_judge_is_away(results: Sequence[ItemResult]) -> None:
    errors = [result.error for result in results]
    if all(error is not None and error.code is ErrorCode.JUDGE_UNAVAILABLE for error in errors):
        raise _judge_is_away(errors[0].message if errors[0] else "")


def _judge_is_away(detail: str) -> Unavailable:
    return Unavailable(detail, code=ErrorCode.JUDGE_UNAVAILABLE, retry_after=_RETRY_AFTER_S)
