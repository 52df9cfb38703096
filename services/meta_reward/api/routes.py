"""The routes of the meta-reward service: what evolved, and what an operator may do about it."""

import logging
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError

from regrade.contracts import (
    MAIN_LINEAGE,
    Alarm,
    AnchorsAnswer,
    Contract,
    CycleReport,
    CycleStatus,
    Digest,
    Flag,
    ImportAnchors,
    LineageEvent,
    Name,
    Override,
    Pause,
    Purpose,
    Rubric,
    RubricDiff,
    Scope,
    Trace,
    TracePage,
)
from regrade.tasks import available_tasks
from services.kit.errors import Invalid, NotFound
from services.kit.store.keys import LineageKey
from services.kit.web.server import error_responses, require_key, require_operator
from services.meta_reward.api.rubric_diff import diff_rubrics
from services.meta_reward.api.trace_filter import MAX_SCANNED, TraceFilter
from services.meta_reward.deps import CycleDeps
from services.meta_reward.lineages import lineages_of

log = logging.getLogger(__name__)

MAX_PAGE = 1_000
EVENT_ID = r"^[1-9][0-9]{0,18}-[0-9]{1,19}$"

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
TraceId = Annotated[str, Path(min_length=1, max_length=128)]


class OperatorAction(Contract):
    """Who asks for something, and why; it goes on record."""

    by: str = Field(min_length=1, max_length=128)
    reason: str = Field(min_length=1, max_length=2_000)


class ActivateAction(OperatorAction):
    """Activate a stored rubric without the gate; `expected` is the digest believed to be active."""

    digest: Digest
    expected: Digest | None = None


class RollbackAction(OperatorAction):
    """Go back to `version`, or to the one before; `expected` is the digest believed to be active."""

    expected: Digest | None = None
    version: int | None = Field(default=None, ge=1)


class Activated(Contract):
    """What is active now."""

    digest: Digest
    version: int


async def _deps(request: Request) -> CycleDeps:
    deps: CycleDeps = request.app.state.deps
    return deps


async def _lineage(task: Name, lineage: Name = MAIN_LINEAGE, scope: Scope | None = None) -> LineageKey:
    return LineageKey(task, lineage, scope)


async def _filter(
    run: Name | None = None,
    step: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    version: Annotated[int | None, Query(ge=1, le=2**31, description="rubric version that gave the reward")] = None,
    flag: Flag | None = None,
    lowest: Annotated[float | None, Query(ge=0.0, le=1.0, description="lowest reward")] = None,
    highest: Annotated[float | None, Query(ge=0.0, le=1.0, description="highest reward")] = None,
    group: Annotated[str | None, Query(min_length=1, max_length=128)] = None,
    purpose: Purpose | None = None,
) -> TraceFilter:
    given = locals()  # FastAPI takes a query apart by a signature, or as one model that owns all of it
    try:
        return TraceFilter.model_validate(given)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None


FilterDep = Annotated[TraceFilter, Depends(_filter)]
Deps = Annotated[CycleDeps, Depends(_deps)]
LineageDep = Annotated[LineageKey, Depends(_lineage)]

reading = APIRouter(dependencies=[Depends(require_key)], responses=error_responses(401, 404, 422, 503), tags=["read"])
operating = APIRouter(
    dependencies=[Depends(require_operator)], responses=error_responses(401, 403, 404, 409, 422, 503), tags=["operate"]
)


@reading.get("/status/{task}")
async def get_status(lineage: LineageDep, deps: Deps) -> CycleStatus:
    """What the worker is doing for this line now."""
    return await deps.status_store.status(lineage)


@reading.get("/lineage/{task}")
async def get_lineage(
    lineage: LineageDep,
    deps: Deps,
    limit: Limit = MAX_PAGE,
    before: Annotated[str | None, Query(pattern=EVENT_ID, description="an event's id: older ones than it")] = None,
) -> list[LineageEvent]:
    """What happened to the line's rubrics, with the gate's figures: the newest `limit` events, oldest first."""
    return await deps.store.latest(lineage, limit, before=before)


@reading.get("/cycles/{task}")
async def get_cycles(
    lineage: LineageDep,
    deps: Deps,
    limit: Limit = MAX_PAGE,
    skip: Annotated[int, Query(ge=0, le=100 * MAX_PAGE, description="leave out so many of the newest")] = 0,
) -> list[CycleReport]:
    """The newest cycles that have ended, oldest first, with their evidence; an abandoned one says why."""
    return await deps.status_store.reports(lineage, limit, skip=skip)


@reading.get("/cycles/{task}/{cycle}")
async def get_cycle(lineage: LineageDep, deps: Deps, cycle: str) -> CycleReport:
    """One of the newest cycles that have ended."""
    return await deps.status_store.report(lineage, cycle)


@reading.get("/alarms/{task}")
async def get_alarms(lineage: LineageDep, deps: Deps) -> list[Alarm]:
    """The alarms that are raised, each with its figure, its thresholds and the traces that show it most."""
    return await deps.status_store.alarms(lineage)


@reading.get("/traces/{task}")
async def get_traces(
    lineage: LineageDep,
    deps: Deps,
    wanted: FilterDep,
    limit: Annotated[int, Query(ge=1, le=256)] = 50,
    before: Annotated[str | None, Query(pattern=EVENT_ID, description="`older` of the page before this one")] = None,
) -> TracePage:
    """The line's newest traces that fit, newest first; those that were archived and trimmed are not among them."""
    until = f"({before}" if before else "+"
    found = await deps.log.recent(lineage.task, limit, until=until, wanted=wanted.on(lineage), max_scanned=MAX_SCANNED)
    return TracePage(traces=tuple(found.traces), older=found.end or None)


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
    """What changed between two rubrics."""
    return diff_rubrics(await find_rubric(deps, lineage, before), await find_rubric(deps, lineage, after))


@reading.get("/anchors/{task}")
async def get_anchors(task: Name, deps: Deps) -> AnchorsAnswer:
    """The cases that the gate measures this task's rubrics on, in figures."""
    _require_pack(task)
    return await deps.anchors.summary(task)


@operating.post("/anchors/{task}")
async def post_anchors(body: ImportAnchors, task: Name, deps: Deps) -> AnchorsAnswer:
    """Add labelled pairs to the task's anchors; a pair already there is there once."""
    _require_pack(task)
    await deps.anchors.add(task, body.pairs)
    log.info("anchors imported", extra={"task": task, "by": body.by, "reason": body.reason, "pairs": len(body.pairs)})
    return await deps.anchors.summary(task)


@operating.post("/cycles/{task}", status_code=202)
async def post_cycle(body: OperatorAction, lineage: LineageDep, deps: Deps) -> CycleStatus:
    """Ask for a cycle now; the worker takes it up at its next look."""
    served = await lineages_of(deps.store, deps.settings)
    if lineage not in served:
        tasks = ", ".join(dict.fromkeys(served_lineage.task for served_lineage in served))
        raise Invalid(
            f"no worker serves {lineage.label!r} of {lineage.task!r}: "
            f"rubrics evolve in lineage {MAIN_LINEAGE!r} of {tasks}, "
            "and of those of its scopes that have a rubric of their own",
            code="not_served",
        )
    if await deps.store.active(lineage) is None:
        raise NotFound(f"task {lineage.task!r} has no active rubric in {lineage.label!r}", code="unknown_task")
    await deps.status_store.request(lineage, body.by, body.reason)
    return await deps.status_store.status(lineage)


@operating.post("/cycles/{task}/pause")
async def post_pause(body: OperatorAction, lineage: LineageDep, deps: Deps) -> CycleStatus:
    """Start no cycle but on request, until resumed; one under way goes on."""
    await deps.status_store.pause(lineage, Pause(by=body.by, reason=body.reason, since=time.time()))
    return await deps.status_store.status(lineage)


@operating.post("/cycles/{task}/resume")
async def post_resume(body: OperatorAction, lineage: LineageDep, deps: Deps) -> CycleStatus:
    """Start cycles again when they are due."""
    await deps.status_store.pause(lineage, None)
    log.info("cycles resumed", extra={"task": lineage.task, "by": body.by, "reason": body.reason})
    return await deps.status_store.status(lineage)


@operating.post("/rubrics/{task}/activate")
async def post_activate(body: ActivateAction, lineage: LineageDep, deps: Deps) -> Activated:
    """Activate a stored rubric on your own authority, recorded as an override."""
    expected = body.expected
    if expected is None:
        current = await deps.store.active(lineage)
        expected = current.digest if current else None
    authority = Override(by=body.by, reason=body.reason)
    version = await deps.store.activate(lineage, body.digest, expected=expected, authority=authority)
    return Activated(digest=body.digest, version=version)


@operating.post("/rubrics/{task}/rollback")
async def post_rollback(body: RollbackAction, lineage: LineageDep, deps: Deps) -> Activated:
    """Go back to the version before, or to the one named."""
    active = await deps.store.rollback(lineage, by=body.by, reason=body.reason, expected=body.expected, to=body.version)
    return Activated(digest=active.digest, version=active.version or 0)


def _require_pack(task: str) -> None:
    if task not in available_tasks():
        raise NotFound(f"no task pack {task!r}: anchors are made from a pack's originals", code="unknown_task")


async def find_trace(deps: CycleDeps, task: str, trace_id: str) -> Trace:
    """A trace by its id. Raises `NotFound`."""
    found = await deps.log.by_ids(task, {trace_id})
    if trace_id not in found:
        raise NotFound(f"none of the last traces of {task!r} is {trace_id}: look in the archive", code="unknown_trace")
    return found[trace_id]


async def find_rubric(deps: CycleDeps, lineage: LineageKey, name: int | str) -> Rubric:
    found = await deps.store.find(lineage, name)
    return await deps.store.labelled(lineage._replace(scope=found.scope), found.digest)
