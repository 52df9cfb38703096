"""The path of a batch: pins, guards, checks, judge, aggregation, traces, rewards."""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from regrade.contracts import ErrorCode, Flag, Mode, Purpose, Role, ScoreRequest
from regrade.tasks import judge_mode, judge_role
from services.kit.checks.base import CheckError, CheckInput
from services.kit.checks.registry import evaluate_check, runs_in_worker
from services.kit.checks.workers import CheckWorkers, WorkerShare
from services.kit.errors import Unavailable
from services.kit.http.errors import UpstreamError
from services.kit.lru_cache import LruCache
from services.kit.results import CriterionScore, ItemError, ItemResult, ScoreResponse, total_usage
from services.kit.store.trace_log import OutcomeRecord
from services.kit.text.injection import injection_flags
from services.reward.items.identity import item_identity
from services.reward.items.text import prepare_text
from services.reward.judge.admission import Admission
from services.reward.judge.engine.base import Engine
from services.reward.judge.engine.discovery import EngineHandle
from services.reward.judge.engine_client import JudgeContext
from services.reward.judge.judge import Judge
from services.reward.judge.prompt import PromptPart, fenced, judge_item, system_turn
from services.reward.metrics import RewardMetrics
from services.reward.persistence.fence_key import FenceKey
from services.reward.persistence.outcome_store import OutcomeStore
from services.reward.scoring.aggregate import fires
from services.reward.scoring.pins import Pins
from services.reward.scoring.results import item_result, item_trace
from services.reward.scoring.state import ScoringState, new_states
from services.reward.screening.guards import guard

_RETRY_AFTER_S = 5
_MAX_SYSTEM_TURNS = 512
"""Rubrics in use at a time, candidates included; a turn is some kilobytes."""


_NONE_REFUSED: Mapping[int, str] = MappingProxyType({})


class ScoringPipeline:
    """Scores batches. It holds no state that Redis does not have, except the spool of an outage (I8)."""

    def __init__(
        self,
        *,
        pins: Pins,
        outcomes: OutcomeStore,
        engine: EngineHandle,
        judge: Judge,
        admission: Admission,
        modes: Mapping[str, Mode],
        workers: CheckWorkers,
        metrics: RewardMetrics,
        fence_key: FenceKey,
        max_completion_chars: int,
    ) -> None:
        self._pins = pins
        self._outcomes = outcomes
        self._engine = engine
        self._judge = judge
        self._admission = admission
        self._modes = modes
        self._workers = workers
        self._metrics = metrics
        self._fence_key = fence_key
        self._max_completion_chars = max_completion_chars
        self._system_turns: LruCache[tuple[str, str, bytes], PromptPart] = LruCache(_MAX_SYSTEM_TURNS)

    async def score(
        self, request: ScoreRequest, *, deadline: float | None = None, refused: Mapping[int, str] = _NONE_REFUSED
    ) -> ScoreResponse:
        """One result an item, in order. What is not judged by `deadline` (a time of the loop's clock) is null.

        So is an item with an entry in `refused`, by its index: why its content cannot be scored.
        Raises `Unavailable` (the judge could score none), `Overloaded`, `Conflict`, `NotFound`, `Invalid`.
        """
        started = time.perf_counter()
        self._admission.refuse_if_full()
        engine = await self._open_engine()
        mode = request.mode or self._modes.get(request.task) or judge_mode(request.task)
        states = new_states(request, mode, engine.identity)
        await self._pins.assign(request, states)
        for index, message in refused.items():
            states[index].result = None  # an outcome of its stand-in
            states[index].error = ItemError(code=ErrorCode.INVALID_ITEM, message=message, retryable=False)
        new = [state for state in states if state.result is None]
        valid = [state for state in new if state.error is None]
        if valid and request.purpose is not Purpose.SHADOW:
            await self._outcomes.refuse_if_unwritable(request.task, request.on_outage)
        await self._screen(valid)
        context = JudgeContext(
            engine,
            request.task,
            request.purpose,
            self._fence_key.value,
            fresh=request.fresh,
            explain=request.explain,
            deadline=deadline,
        )
        await self._judge_items(context, mode, [state for state in new if state.needs_judge])
        for state in new:
            state.result = item_result(state, request.lineage)
        spooled = await self._persist(request, new, engine.model, started)
        return self._response(request, states, new, degraded=spooled or any(state.degraded for state in states))

    async def aclose(self) -> None:
        """Cancel the judge calls in flight."""
        await self._judge.aclose()

    async def _open_engine(self) -> Engine:
        try:
            return await self._engine.get()
        except UpstreamError as error:
            raise judge_unavailable(str(error), getattr(error, "retry_after_s", None)) from error

    async def _screen(self, states: Sequence[ScoringState]) -> None:
        """Guards and checks; concurrent where a check runs in a worker, so that a slow one delays only its item."""
        workers = self._workers.share()
        if any(runs_in_worker(criterion.check) for state in states for criterion in state.rubric.check_criteria):
            await asyncio.gather(*(self._screen_item(state, workers) for state in states))
        else:
            for state in states:
                await self._screen_item(state, workers)

    async def _screen_item(self, state: ScoringState, workers: WorkerShare) -> None:
        item, completion = state.item, state.completion
        if item.truncated:
            state.flags.append(Flag.TRUNCATED)
        task = f"{state.prompt.raw}\n{item.reference or ''}"
        stop = guard(completion, max_chars=self._max_completion_chars, task=task)
        if stop is not None:
            state.flags.append(stop)
            state.stopped = True
            return
        state.flags.extend(detect_flags(state))
        texts = CheckInput(state.prompt.raw, completion.raw, item.reference)
        for criterion in state.rubric.check_criteria:
            try:
                value = await evaluate_check(criterion.check, texts, workers)
            except CheckError as error:
                state.error = ItemError(code=ErrorCode.CHECK_FAILED, message=str(error), retryable=error.retryable)
                continue
            state.scores[criterion.id] = CriterionScore(id=criterion.id, score=value, confidence=1.0)
            if criterion.role is Role.VETO and fires(criterion, value):
                state.vetoed = True
        if state.vetoed:
            state.error = None  # a veto decides, whatever the other checks would have said

    async def _judge_items(self, context: JudgeContext, mode: Mode, states: Sequence[ScoringState]) -> None:
        role, fence_key = judge_role(context.task), context.fence_key
        prompts = {state.prompt.safe_digest: state.prompt for state in states}
        tasks = {digest: fenced("TASK", prompt, fence_key) for digest, prompt in prompts.items()}
        items = [
            judge_item(
                system=self._system_turn(role, state, fence_key),
                task=tasks[state.prompt.safe_digest],
                reference=None if state.item.reference is None else prepare_text(state.item.reference),
                completion=state.completion,
                criteria=state.rubric.llm_criteria,
                fence_key=fence_key,
            )
            for state in states
        ]
        for state, judged in zip(states, await self._judge.judge(context, mode, items), strict=True):
            state.usage, state.error = judged.usage, judged.error
            if judged.respelt and Flag.CONTROL_TOKENS not in state.flags:
                state.flags.append(Flag.CONTROL_TOKENS)
            state.scores.update(judged.scores)

    def _system_turn(self, role: str, state: ScoringState, fence_key: bytes) -> PromptPart:
        """Rendered once for all items of a rubric."""
        key = (role, state.pointer.digest, fence_key)
        turn = self._system_turns.find(key)
        if turn is None:
            turn = self._system_turns[key] = system_turn(role, state.rubric, fence_key)
        return turn

    async def _persist(
        self, request: ScoreRequest, states: Sequence[ScoringState], judge_model: str, started: float
    ) -> bool:
        """Store and trace the rewards; whether they are on this replica's disk only.

        The outcome that is stored first counts, so a concurrent retry may replace a result.
        """
        if request.purpose is Purpose.SHADOW:
            return False
        latency_ms = 1_000.0 * (time.perf_counter() - started)
        rewarded = [(state, result) for state in states if (result := state.result) and result.reward is not None]
        records = [
            OutcomeRecord(
                item_identity(state.base, state.pointer.digest),
                result,
                item_trace(request, state, result, judge_model=judge_model, latency_ms=latency_ms),
                state.pin,
            )
            for state, result in rewarded
        ]
        if not records:
            return False
        stored = await self._outcomes.append(request.task, records, request.on_outage)
        for (state, _), result in zip(rewarded, stored.results, strict=True):
            state.result = result
        return stored.degraded

    def _response(
        self, request: ScoreRequest, states: Sequence[ScoringState], new: Sequence[ScoringState], *, degraded: bool
    ) -> ScoreResponse:
        results = tuple(state.result for state in states if state.result is not None)
        _raise_if_judge_unavailable(results, self._judge.pause_s)
        usage = total_usage(state.usage for state in new)
        self._metrics.count_batch(request, results, [state.group for state in states], usage)
        return ScoreResponse(results=results, usage=usage, degraded=degraded)


def detect_flags(state: ScoringState) -> list[Flag]:
    """What was neutralised in prompt and completion, and the completion's injection attempts; each flag once."""
    completion = state.completion
    return list(dict.fromkeys((*state.prompt.flags, *completion.flags, *injection_flags(completion.safe_utf8))))


def _raise_if_judge_unavailable(results: Sequence[ItemResult], pause_s: float) -> None:
    errors = [result.error for result in results]
    if all(error is not None and error.code is ErrorCode.JUDGE_UNAVAILABLE for error in errors):
        raise judge_unavailable(errors[0].message if errors[0] else "", pause_s)


def judge_unavailable(detail: str, pause_s: float | None = None) -> Unavailable:
    """The error of a batch, or of a trainer's sample, that the judge has not scored, and takes again in `pause_s`."""
    retry_after = math.ceil(pause_s) if pause_s else _RETRY_AFTER_S
    return Unavailable(detail, code=ErrorCode.JUDGE_UNAVAILABLE, retry_after=retry_after)
