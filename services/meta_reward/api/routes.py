"""Routes of the meta-reward service: status, lineage, cycles, alarms, traces, anchors, and operator actions."""

import logging
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import ConfigDict, Field

from regrade.contracts import (
    MAIN_LINEAGE,
    ActiveRubric,
    Alarm,
    AnchorsResponse,
    Contract,
    CycleReport,
    CycleStatus,
    Digest,
    ImportAnchors,
    LineageEvent,
    Name,
    Override,
    Pause,
    Rubric,
    RubricDiff,
    Scope,
    Trace,
    TracePage,
)
from regrade.tasks import available_tasks
from services.kit.errors import Conflict, Invalid, NotFound
from services.kit.store.keys import LineageKey
from services.kit.web.server import GuardedRoute, error_responses, require_key, require_operator
from services.meta_reward.api.rubric_diff import diff_rubrics
from services.meta_reward.api.trace_filter import PAGE_SCAN, TraceFilter
from services.meta_reward.deps import ServiceDeps
from services.meta_reward.evidence.window import is_evidence
from services.meta_reward.lineages import evolving_lineages

log = logging.getLogger(__name__)

MAX_PAGE = 1_000
"""Events or reports in one response."""
EVENT_ID = r"^[1-9][0-9]{0,18}-[0-9]{1,19}$"

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
TraceId = Annotated[str, Path(min_length=1, max_length=128)]


class OperatorAction(Contract):
    """Who requests an action, and why. Both are recorded."""

    by: str = Field(min_length=1, max_length=128)
    reason: str = Field(min_length=1, max_length=2_000)


class ActivateAction(OperatorAction):
    """Activate a stored rubric without the gate; `expected` is the digest that the caller believes is active."""

    digest: Digest
    expected: Digest | None = None


class RollbackAction(OperatorAction):
    """Roll back to `version`, by default the previous one; `expected` is the digest the caller believes is active."""

    expected: Digest | None = None
    version: int | None = Field(default=None, ge=1)


async def _deps(request: Request) -> ServiceDeps:
    deps: ServiceDeps = request.app.state.deps
    return deps


async def _lineage(task: Name, lineage: Name = MAIN_LINEAGE, scope: Scope | None = None) -> LineageKey:
    return LineageKey(task, lineage, scope)


Deps = Annotated[ServiceDeps, Depends(_deps)]
LineageDep = Annotated[LineageKey, Depends(_lineage)]

reading = APIRouter(dependencies=[Depends(require_key)], responses=error_responses(401, 404, 422, 503), tags=["read"])
operating = APIRouter(
    route_class=GuardedRoute,
    dependencies=[Depends(require_operator)],
    responses=error_responses(401, 403, 404, 409, 422, 503),
    tags=["operate"],
)


@reading.get("/status/{task}")
async def get_status(lineage: LineageDep, deps: Deps) -> CycleStatus:
    """The stage of the running cycle, the number of pending traces, the pause, and the last error."""
    return await deps.status_store.status(lineage)


@reading.get("/lineage/{task}")
async def get_lineage(
    lineage: LineageDep,
    deps: Deps,
    limit: Limit = MAX_PAGE,
    before: Annotated[
        str | None, Query(pattern=EVENT_ID, description="id of an event; only older events are returned")
    ] = None,
) -> list[LineageEvent]:
    """The newest `limit` events of the lineage's rubrics with the gate's reports, oldest first."""
    return await deps.store.latest(lineage, limit, before=before)


@reading.get("/cycles/{task}")
async def get_cycles(
    lineage: LineageDep,
    deps: Deps,
    limit: Limit = MAX_PAGE,
    skip: Annotated[int, Query(ge=0, le=100 * MAX_PAGE, description="number of newest reports to leave out")] = 0,
) -> list[CycleReport]:
    """The newest ended cycles with their evidence, oldest first; an abandoned cycle gives its reason."""
    return await deps.status_store.reports(lineage, limit, skip=skip)


@reading.get("/cycles/{task}/{cycle}")
async def get_cycle(lineage: LineageDep, deps: Deps, cycle: str) -> CycleReport:
    """The report of one of the last 1,000 ended cycles."""
    return await deps.status_store.report(lineage, cycle)


@reading.get("/alarms/{task}")
async def get_alarms(lineage: LineageDep, deps: Deps) -> list[Alarm]:
    """The raised alarms, each with its figure, its thresholds and example traces."""
    return await deps.status_store.alarms(lineage)


class TraceQuery(TraceFilter):
    """A page of traces: the lineage, the conditions, and where the page starts."""

    model_config = ConfigDict(extra="ignore")

    lineage: Name = MAIN_LINEAGE
    scope: Scope | None = None
    limit: int = Field(default=50, ge=1, le=256)
    before: str | None = Field(default=None, pattern=EVENT_ID, description="`older` of the previous page")


@reading.get("/traces/{task}")
async def get_traces(task: Name, deps: Deps, query: Annotated[TraceQuery, Query()]) -> TracePage:
    """The lineage's newest traces that match, newest first. Archived traces that left Redis are not found."""
    wanted = query.in_lineage(LineageKey(task, query.lineage, query.scope))
    until = f"({query.before}" if query.before else "+"
    page = await deps.log.recent(task, query.limit, until=until, wanted=wanted, max_scanned=PAGE_SCAN)
    return TracePage(traces=tuple(page.traces), older=page.end or None)


@reading.get("/traces/{task}/{trace_id}")
async def get_trace(task: Name, deps: Deps, trace_id: TraceId) -> Trace:
    """One of the task's last 16,384 traces."""
    return await find_trace(deps, task, trace_id)


@reading.get("/rubrics/{task}/diff")
async def get_diff(
    lineage: LineageDep,
    deps: Deps,
    before: Annotated[int | Digest, Query(description="a version or a digest")],
    after: Annotated[int | Digest, Query(description="a version or a digest")],
) -> RubricDiff:
    """The difference of two rubrics."""
    return diff_rubrics(await find_rubric(deps, lineage, before), await find_rubric(deps, lineage, after))


@reading.get("/anchors/{task}")
async def get_anchors(task: Name, deps: Deps) -> AnchorsResponse:
    """The number of anchors on which the gate measures this task's rubrics."""
    _require_pack(task)
    return await deps.anchors.summary(task)


@operating.post("/anchors/{task}")
async def post_anchors(body: ImportAnchors, task: Name, deps: Deps) -> AnchorsResponse:
    """Add labelled pairs to the task's anchors; a pair that exists is not added again."""
    _require_pack(task)
    await deps.anchors.add(task, body.pairs)
    log.info("anchors imported", extra={"task": task, "by": body.by, "reason": body.reason, "pairs": len(body.pairs)})
    return await deps.anchors.summary(task)


@operating.post("/cycles/{task}", status_code=202)
async def post_cycle(body: OperatorAction, lineage: LineageDep, deps: Deps) -> CycleStatus:
    """Request a cycle; a worker starts it at its next poll. 409 `too_few_traces` below the setting `request_traces`."""
    served = await evolving_lineages(deps.store, deps.settings)
    if lineage not in served:
        tasks = ", ".join(dict.fromkeys(served_lineage.task for served_lineage in served))
        raise Invalid(
            f"no worker serves lineage {lineage.label!r} of {lineage.task!r}: rubrics evolve in lineage "
            f"{MAIN_LINEAGE!r} of {tasks}, and of their scopes that have a rubric of their own",
            code="not_served",
        )
    if await deps.store.active(lineage) is None:
        raise NotFound(f"task {lineage.task!r} has no active rubric in {lineage.label!r}", code="unknown_task")
    pending = await _pending_traces(deps, lineage)
    await deps.status_store.request(lineage, body.by, body.reason)
    status = await deps.status_store.status(lineage)
    return status.model_copy(update={"lag": max(status.lag, pending)})


@operating.post("/cycles/{task}/pause")
async def post_pause(body: OperatorAction, lineage: LineageDep, deps: Deps) -> CycleStatus:
    """Start cycles on request only, until resumed; a running cycle continues."""
    await deps.status_store.pause(lineage, Pause(by=body.by, reason=body.reason, since=time.time()))
    return await deps.status_store.status(lineage)


@operating.post("/cycles/{task}/resume")
async def post_resume(body: OperatorAction, lineage: LineageDep, deps: Deps) -> CycleStatus:
    """Start cycles again when they are due."""
    await deps.status_store.pause(lineage, None)
    log.info("cycles resumed", extra={"task": lineage.task, "by": body.by, "reason": body.reason})
    return await deps.status_store.status(lineage)


@operating.post("/rubrics/{task}/activate")
async def post_activate(body: ActivateAction, lineage: LineageDep, deps: Deps) -> ActiveRubric:
    """Activate a stored rubric without the gate. It is recorded as an override."""
    expected = body.expected
    if expected is None:
        current = await deps.store.active(lineage)
        expected = current.digest if current else None
    authority = Override(by=body.by, reason=body.reason)
    version = await deps.store.activate(lineage, body.digest, expected=expected, authority=authority)
    return ActiveRubric(digest=body.digest, version=version)


@operating.post("/rubrics/{task}/rollback")
async def post_rollback(body: RollbackAction, lineage: LineageDep, deps: Deps) -> ActiveRubric:
    """Activate an earlier version, by default the previous one."""
    active = await deps.store.rollback(lineage, by=body.by, reason=body.reason, expected=body.expected, to=body.version)
    return ActiveRubric(digest=active.digest, version=active.version or 0)


async def _pending_traces(deps: ServiceDeps, lineage: LineageKey) -> int:
    """The number of traces behind the lineage's cursor, counted up to one window. Raises `Conflict` for too few."""
    settings = deps.settings
    read = await deps.log.read(lineage, await deps.log.cursor(lineage), settings.max_window, is_evidence)
    pending, needed = len(read.traces), min(settings.traces_for_request, settings.max_window)
    if pending < needed:
        raise Conflict(
            f"{pending} training traces wait in {lineage.label!r} of {lineage.task!r}, and a cycle on request needs "
            f"{needed} (REGRADE_META_REQUEST_TRACES): score more completions with purpose 'train'",
            code="too_few_traces",
        )
    return pending


def _require_pack(task: str) -> None:
    if task not in available_tasks():
        raise NotFound(f"no task pack {task!r}: anchors are built from a pack's originals", code="unknown_task")


async def find_trace(deps: ServiceDeps, task: str, trace_id: str) -> Trace:
    """A trace by its id. Raises `NotFound`."""
    traces = await deps.log.by_ids(task, {trace_id})
    if trace_id not in traces:
        raise NotFound(
            f"trace {trace_id} is not among the last traces of {task!r}; older ones are in the archive",
            code="unknown_trace",
        )
    return traces[trace_id]


async def find_rubric(deps: ServiceDeps, lineage: LineageKey, name: int | str) -> Rubric:
    """A rubric by version or digest, with its names in the lineage. Raises `NotFound`."""
    pointer = await deps.store.find(lineage, name)
    return await deps.store.labelled(lineage._replace(scope=pointer.scope), pointer.digest)
