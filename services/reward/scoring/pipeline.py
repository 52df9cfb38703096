"""One batch's way: pin, guards, checks, judge, aggregate, trace, reward."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from regrade.contracts import ErrorCode, Flag, Mode, Purpose, Role, ScoreItem, ScoreRequest, as_text
from regrade.tasks import judge_mode, judge_role
from services.kit.checks.base import CheckError, CheckInput
from services.kit.checks.registry import evaluate_check, runs_in_worker
from services.kit.errors import Unavailable
from services.kit.http.client import UpstreamError
from services.kit.results import CriterionScore, ItemError, ItemResult, ScoreResponse, Trace, Usage, total_usage
from services.kit.store.trace_log import OutcomeRecord
from services.kit.text.math_equal import MathEqualPool
from services.reward.items.identity import content_of, group_of, item_bases, item_identity, item_ids, trace_id
from services.reward.items.text import PreparedText, prepare_text
from services.reward.judge.admission import Admission
from services.reward.judge.engine.base import Engine
from services.reward.judge.engine.discovery import EngineHandle
from services.reward.judge.engine_client import JudgeContext
from services.reward.judge.judge import ItemScores, Judge, JudgeItem
from services.reward.judge.prompt import PromptPart, PromptParts, fenced, prompt_parts, system_turn
from services.reward.metrics import RewardMetrics
from services.reward.persistence.outcome_store import OutcomeStore
from services.reward.scoring.aggregate import aggregate, fires
from services.reward.scoring.pins import Pins, Resolved
from services.reward.screening.guards import guard
from services.reward.screening.injection import injection_flags

_RETRY_AFTER_S = 5
_MAX_SYSTEM_TURNS = 512
_NOTHING = Usage()


@dataclass(slots=True)
class ScoringState:
    """One item on its way: what is known of it grows stage by stage."""

    item: ScoreItem
    item_id: str
    identity: str
    resolved: Resolved
    prompt: PreparedText
    completion: PreparedText
    flags: list[str] = field(default_factory=list)
    scores: dict[str, CriterionScore] = field(default_factory=dict)
    error: ItemError | None = None
    decided: bool = False
    """No judge is needed: a guard or a veto has settled the reward at 0."""
    usage: Usage = _NOTHING


class ScoringPipeline:
    """Scores batches; keeps nothing that Redis does not have, but a spool while it is away (I8)."""

    def __init__(
        self,
        *,
        pins: Pins,
        outcomes: OutcomeStore,
        engine: EngineHandle,
        judge: Judge,
        admission: Admission,
        modes: Mapping[str, Mode],
        math_pool: MathEqualPool,
        metrics: RewardMetrics,
        fence_key: bytes,
        max_completion_chars: int,
    ) -> None:
        self._pins = pins
        self._outcomes = outcomes
        self._engine = engine
        self._judge = judge
        self._admission = admission
        self._modes = modes
        self._math_pool = math_pool
        self._metrics = metrics
        self._fence_key = fence_key
        self._max_completion_chars = max_completion_chars
        self._systems: dict[tuple[str, str], PromptPart] = {}

    def use_fence_key(self, fence_key: bytes) -> None:
        """Fence with this key from now on: the replicas' shared one, once Redis has told it."""
        self._fence_key = fence_key
        self._systems.clear()

    async def score(self, request: ScoreRequest, *, deadline: float | None = None) -> ScoreResponse:
        """One result an item; what is not judged by `deadline` (the loop's clock) is null.

        Raises `Unavailable` (the judge could serve none), `Overloaded`, `Conflict`, `NotFound`, `Invalid`.
        """
        started = time.perf_counter()
        self._admission.refuse_if_full()
        mode = request.mode or self._modes.get(request.task) or judge_mode(request.task)
        engine = await self._open_engine()
        context = JudgeContext(engine, request.task, request.purpose, self._fence_key, request.fresh, deadline)
        prompts, completions = prepare_texts(request.items)
        contents = list(map(content_of, request.items, prompts, completions))
        ids = item_ids(request.items, contents)
        bases = item_bases(request, mode, ids, contents, engine.model)
        resolved = await self._pins.resolve(request, bases)
        cases = [
            ScoringState(item, name, item_identity(base, r.active.digest), r, prompt, completion)
            for item, name, base, r, prompt, completion in zip(
                request.items, ids, bases, resolved, prompts, completions, strict=True
            )
        ]
        new = [case for case in cases if case.resolved.known is None]
        await self._screen_all(new)
        asked = [case for case in new if not case.decided and case.error is None]
        await self._ask_judge(context, mode, asked, explain=request.explain)
        computed, spooled = await self._persist(request, new, engine.model, started)
        results = tuple(case.resolved.known or computed[id(case)] for case in cases)
        _refuse_if_judge_is_away(results)
        usage = total_usage(case.usage for case in new)
        self._metrics.scored(request, results, usage)
        return ScoreResponse(results=results, usage=usage, degraded=spooled or any(r.degraded for r in resolved))

    async def aclose(self) -> None:
        """Drop the judge calls under way."""
        await self._judge.aclose()

    async def _open_engine(self) -> Engine:
        try:
            return await self._engine.get()
        except UpstreamError as error:
            raise _judge_is_away(str(error)) from error

    async def _screen_all(self, cases: Sequence[ScoringState]) -> None:
        """Side by side where a check waits for a worker, so that one item's endless algebra delays no other's."""
        if any(runs_in_worker(c.check) for case in cases for c in case.resolved.rubric.check_criteria):
            await asyncio.gather(*map(self._screen, cases))
        else:
            for case in cases:
                await self._screen(case)

    async def _screen(self, case: ScoringState) -> None:
        """Guards, then checks; a guard or a fired veto settles the item."""
        if case.resolved.unpinned:
            case.flags.append(Flag.UNPINNED)
        if case.item.truncated:
            case.flags.append(Flag.TRUNCATED)
        stopped = guard(case.completion, max_chars=self._max_completion_chars)
        if stopped is not None:
            case.flags.append(stopped)
            case.decided = True
            return
        case.flags.extend(detect_flags(case))
        subject = CheckInput(case.prompt.raw, case.completion.raw, case.item.reference)
        for criterion in case.resolved.rubric.check_criteria:
            try:
                value = await evaluate_check(criterion.check, subject, self._math_pool)
            except CheckError as error:
                case.error = ItemError(code=ErrorCode.CHECK_FAILED, message=str(error), retryable=False)
                continue
            case.scores[criterion.id] = CriterionScore(id=criterion.id, score=value, confidence=1.0)
            if criterion.role is Role.VETO and fires(criterion, value):
                case.decided = True
        if case.decided:
            case.flags.append(Flag.VETOED)
            case.error = None

    async def _ask_judge(
        self, context: JudgeContext, mode: Mode, cases: Sequence[ScoringState], *, explain: bool
    ) -> None:
        role = judge_role(context.task)
        prompts = {case.prompt.safe_digest: case.prompt for case in cases}
        tasks = {digest: fenced("TASK", prompt, self._fence_key) for digest, prompt in prompts.items()}
        exams = [
            JudgeItem(self._shown(role, case, tasks[case.prompt.safe_digest]), case.resolved.rubric.llm_criteria)
            for case in cases
        ]
        for case, item_scores in zip(cases, await self._judge.judge(context, mode, exams), strict=True):
            apply_scores(case, item_scores, explain=explain)

    def _shown(self, role: str, case: ScoringState, task: PromptPart) -> PromptParts:
        return prompt_parts(
            system=self._system(role, case.resolved),
            task=task,
            reference=None if case.item.reference is None else prepare_text(case.item.reference),
            completion=case.completion,
            fence_key=self._fence_key,
        )

    def _system(self, role: str, resolved: Resolved) -> PromptPart:
        """The system turn of a rubric, written once for all its items."""
        key = (role, resolved.active.digest)
        if key not in self._systems:
            if len(self._systems) >= _MAX_SYSTEM_TURNS:
                self._systems.clear()
            self._systems[key] = system_turn(role, resolved.rubric, self._fence_key)
        return self._systems[key]

    async def _persist(
        self, request: ScoreRequest, cases: Sequence[ScoringState], model: str, started: float
    ) -> tuple[dict[int, ItemResult], bool]:
        """Aggregate, then store and trace what has a reward; what a concurrent retry stored first is what counts.

        Answers the results, and whether they rest on this replica's disk alone.
        """
        results = {id(case): _result(request, case) for case in cases}
        kept = [case for case in cases if results[id(case)].reward is not None]
        if request.purpose is Purpose.SHADOW or not kept:
            return results, False
        latency_ms = 1_000.0 * (time.perf_counter() - started)
        records = [
            OutcomeRecord(
                case.identity,
                results[id(case)],
                _trace(request, case, results[id(case)], model, latency_ms),
                case.resolved.pin,
            )
            for case in kept
        ]
        stored = await self._outcomes.append(request.task, records, request.on_outage)
        results.update(zip(map(id, kept), stored.results, strict=True))
        return results, stored.degraded


def prepare_texts(items: Sequence[ScoreItem]) -> tuple[list[PreparedText], list[PreparedText]]:
    """Each item's prompt and completion; a prompt is looked at once for all of its group."""
    prompts = [as_text(item.prompt) for item in items]
    seen = {prompt: prepare_text(prompt) for prompt in set(prompts)}
    return [seen[prompt] for prompt in prompts], [prepare_text(as_text(item.completion)) for item in items]


def detect_flags(case: ScoringState) -> list[Flag]:
    """What was taken out of the prompt and the completion, and what the completion tries; each flag once."""
    completion = case.completion
    return list(dict.fromkeys((*case.prompt.flags, *completion.flags, *injection_flags(completion.safe_utf8))))


def apply_scores(case: ScoringState, item_scores: ItemScores, *, explain: bool) -> None:
    case.usage = item_scores.usage
    for name, found in item_scores.judgements.items():
        if isinstance(found, ItemError):
            case.error = found
            continue
        rationale = found.rationale if explain else None
        case.scores[name] = CriterionScore(id=name, score=found.score, confidence=found.confidence, rationale=rationale)


def _result(request: ScoreRequest, case: ScoringState) -> ItemResult:
    rubric, active = case.resolved.rubric, case.resolved.active
    reward: float | None = None
    raw: float | None = None
    if case.error is None and case.decided:
        reward = raw = 0.0
    elif case.error is None:
        scores = {name: entry.score for name, entry in case.scores.items() if entry.score is not None}
        reward, raw, vetoed = aggregate(rubric, scores)
        if vetoed:
            case.flags.append(Flag.VETOED)
    criteria = tuple(
        case.scores.get(c.id) or CriterionScore(id=c.id, score=None, confidence=None) for c in rubric.criteria
    )
    return ItemResult(
        id=case.item_id,
        reward=reward,
        raw=raw,
        rubric=active.ref(request.lineage),
        criteria=criteria,
        flags=tuple(case.flags),
        error=case.error,
        trace_id=trace_id(case.identity),
        cached=False,
    )


def _trace(request: ScoreRequest, case: ScoringState, result: ItemResult, model: str, latency_ms: float) -> Trace:
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
        metadata=case.item.metadata,
    )


def _refuse_if_judge_is_away(results: Sequence[ItemResult]) -> None:
    errors = [result.error for result in results]
    if all(error is not None and error.code is ErrorCode.JUDGE_UNAVAILABLE for error in errors):
        raise _judge_is_away(errors[0].message if errors[0] else "")


def _judge_is_away(detail: str) -> Unavailable:
    return Unavailable(detail, code=ErrorCode.JUDGE_UNAVAILABLE, retry_after=_RETRY_AFTER_S)
