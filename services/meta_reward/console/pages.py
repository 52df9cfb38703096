"""The console's pages. Each reads only what its template shows, and a bounded number of events and traces."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import resources
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from regrade.contracts import Digest, EventKind, Flag, LineageEvent, Purpose, Trace
from services.kit.errors import NotFound, Unauthorized
from services.kit.store.keys import LineageKey
from services.meta_reward.api.routes import EVENT_ID, Deps, LineageDep, TraceId, find_rubric, find_trace
from services.meta_reward.api.trace_filter import PAGE_SCAN, TraceFilter
from services.meta_reward.console import timeline
from services.meta_reward.console.chart_data import cycle_figures, run_series, runs_in
from services.meta_reward.console.render import ConsoleRoute, PageLinks, asset, redirect, render
from services.meta_reward.console.rubric_compare import change_summary, side_by_side
from services.meta_reward.console.session import COOKIE, PATH, Viewer, has_ended, viewer_of
from services.meta_reward.deps import ServiceDeps
from services.meta_reward.lineages import evolving_lineages
from services.meta_reward.settings import served_lineages

_EVENTS_PER_PAGE = 120
_MAX_EVENTS = 1_000
"""Lineage events read to find the status of every rubric; older rubrics are not listed."""
_PLOTTED_TRACES = 2_048
_PLOTTED_CYCLES = 200
_CYCLES_PER_PAGE = 25
_TRACES_PER_PAGE = 40
_MAX_GROUP = 64
_MAX_SUMMARIES = 40
"""Rubrics whose changes an overview sums up; each takes two reads, usually from the process's cache."""
_ASSETS = {"console.css": "text/css", "console.js": "text/javascript", "mark.svg": "image/svg+xml"}


class View(NamedTuple):
    """A request for a page about a lineage, and what the viewer may do there."""

    lineage: LineageKey
    deps: ServiceDeps
    viewer: Viewer

    async def page(self, template: str, section: str, title: str, **values: object) -> Response:
        """The template's page, with the values and those of the frame around every page."""
        deps, lineage = self.deps, self.lineage
        served = await evolving_lineages(deps.store, deps.settings)
        frame = {
            "title": title,
            "section": section,
            "lineage": lineage,
            "link": PageLinks(lineage),
            "lineage_links": list(map(PageLinks, served)),
            "is_served": lineage in served,
            "viewer": self.viewer,
            "status": await deps.status_store.status(lineage),
            "alarms": await deps.status_store.alarms(lineage),
            "active": await deps.store.active(lineage),
            "margin": deps.settings.gate_margin,
        }
        return render(template, frame | values)

    async def active_digest(self) -> str | None:
        """Digest of the lineage's active rubric."""
        active = await self.deps.store.active(self.lineage)
        return active.digest if active else None


async def _viewer(request: Request) -> Viewer:
    token = request.cookies.get(COOKIE, "")
    viewer = viewer_of(request.app.state.settings, token, time.time())
    if viewer.signed_in and await has_ended(request.app.state.redis, token):
        raise Unauthorized("this session has ended: sign in again")
    return viewer


ViewerDep = Annotated[Viewer, Depends(_viewer)]


async def _view(lineage: LineageDep, deps: Deps, viewer: ViewerDep) -> View:
    return View(lineage, deps, viewer)


ViewDep = Annotated[View, Depends(_view)]
Before = Annotated[str | None, Query(pattern=EVENT_ID)]
RubricName = Annotated[int | Digest, Query()]

pages = APIRouter(prefix=PATH, route_class=ConsoleRoute, include_in_schema=False)


@pages.get("")
async def get_index(deps: Deps, viewer: ViewerDep) -> Response:
    """Redirect to the overview of the first served lineage."""
    return redirect(PageLinks(served_lineages(deps.settings)[0])())


@pages.get("/static/{name}")
async def get_asset(name: str) -> Response:
    """Style sheet, script and logo; they need no key."""
    if name not in _ASSETS:
        raise NotFound(f"no file {name!r}")
    folder = resources.files("services.meta_reward").joinpath("console", "static")
    return asset(folder.joinpath(name).read_text(encoding="utf-8"), _ASSETS[name])


@pages.get("/{task}")
async def get_overview(view: ViewDep, run: str | None = None, before: Before = None) -> Response:
    """Reward, evidence, alarms, and the timeline of the lineage's rubrics."""
    deps, lineage = view.deps, view.lineage
    traces = (
        await deps.log.recent(lineage.task, _PLOTTED_TRACES, wanted=_training(lineage), max_scanned=PAGE_SCAN)
    ).traces
    runs = runs_in(traces)
    chosen = run if run in runs else next(iter(runs), None)
    events = await deps.store.latest(lineage, _EVENTS_PER_PAGE, before=before)
    newest = await deps.store.latest(lineage, _MAX_EVENTS) if before else events
    reports = await deps.status_store.reports(lineage, _PLOTTED_CYCLES)
    return await view.page(
        "overview.html",
        "overview",
        lineage.task,
        runs=runs,
        series=await asyncio.to_thread(run_series, traces, chosen),
        evidence=cycle_figures(reports),
        last_report=reports[-1] if reports else None,
        cycle_groups=timeline.cycle_groups(events),
        changes=await _changes(view, events),
        timeline=timeline.timeline(newest),
        older=events[0].id if len(events) == _EVENTS_PER_PAGE else None,
        is_newest=before is None,
        last_change=await deps.store.last_change(lineage),
    )


@pages.get("/{task}/rubrics")
async def get_rubrics(view: ViewDep, before: RubricName | None = None, after: RubricName | None = None) -> Response:
    """Two rubrics side by side, by default the active one and its predecessor, and a list of all rubrics."""
    deps, lineage = view.deps, view.lineage
    events = await deps.store.latest(lineage, _MAX_EVENTS)
    active = await view.active_digest()
    after = after or active
    if after is None:
        raise NotFound(f"{lineage.task!r} has no rubric in {lineage.label!r} yet", code="unknown_task")
    new = await find_rubric(deps, lineage, after)
    before = before or _predecessor(events, new.digest) or new.parent or new.digest
    old = await find_rubric(deps, lineage, before)
    statuses = timeline.rubric_statuses(events, active, await deps.store.rolled_back(lineage))
    return await view.page(
        "rubrics.html",
        "rubrics",
        "Rubrics",
        rubric_statuses=statuses,
        old=old,
        new=new,
        blocks=side_by_side(old, new),
    )


@pages.get("/{task}/rubrics/{digest}")
async def get_rubric(view: ViewDep, digest: Digest) -> Response:
    """One rubric: its criteria, its events, and the gate's reports on it."""
    deps, lineage = view.deps, view.lineage
    rubric = await find_rubric(deps, lineage, digest)
    label = f"v{rubric.version}" if rubric.version else digest[:8]
    events = await deps.store.latest(lineage, _MAX_EVENTS)
    own = [event for event in events if event.digest == digest and event.kind is not EventKind.FAILED]
    rolled_back = await deps.store.rolled_back(lineage)
    return await view.page(
        "rubric.html",
        "rubrics",
        f"Rubric {label}",
        rubric=rubric,
        label=label,
        status_word=timeline.status_of(own[-1], rubric.version, await view.active_digest(), rolled_back)
        if own
        else "stored",
        events=own[::-1],
        gates=timeline.gates_of(own, digest),
        rollback_reason=rolled_back.get(digest),
    )


@pages.get("/{task}/cycles")
async def get_cycles(view: ViewDep, skip: Annotated[int, Query(ge=0, le=100_000)] = 0) -> Response:
    """Ended cycles, newest first."""
    reports = await view.deps.status_store.reports(view.lineage, _CYCLES_PER_PAGE + 1, skip=skip)
    return await view.page(
        "cycles.html",
        "cycles",
        "Cycles",
        reports=reports[::-1][:_CYCLES_PER_PAGE],
        skip=skip,
        size=_CYCLES_PER_PAGE,
        has_older=len(reports) > _CYCLES_PER_PAGE,
        rolled_back=await view.deps.store.rolled_back(view.lineage),
    )


@pages.get("/{task}/cycles/{cycle}")
async def get_cycle(view: ViewDep, cycle: str) -> Response:
    """One cycle: its evidence, its sample, and the decision on every candidate."""
    report = await view.deps.status_store.report(view.lineage, cycle)
    events = await view.deps.store.latest(view.lineage, _MAX_EVENTS)
    own = [event for event in events if event.cycle == cycle]
    return await view.page(
        "cycle.html",
        "cycles",
        f"Cycle {cycle}",
        report=report,
        events=own,
        changes=await _changes(view, own),
        rolled_back=await view.deps.store.rolled_back(view.lineage),
    )


@pages.get("/{task}/alarms")
async def get_alarms(view: ViewDep) -> Response:
    """The raised alarms with their example traces."""
    alarms = await view.deps.status_store.alarms(view.lineage)
    ids = {trace_id for alarm in alarms for trace_id in alarm.traces}
    traces = await view.deps.log.by_ids(view.lineage.task, ids) if ids else {}
    traces_of = {alarm.name: [traces[i] for i in alarm.traces if i in traces] for alarm in alarms}
    return await view.page("alarms.html", "alarms", "Alarms", traces_of=traces_of)


@pages.get("/{task}/traces")
async def get_traces(request: Request, view: ViewDep, before: Before = None) -> Response:
    """Traces that match a filter, newest first."""
    filters = {
        name: value for name, value in request.query_params.items() if value and name in TraceFilter.model_fields
    }
    trace_page = await view.deps.log.recent(
        view.lineage.task,
        _TRACES_PER_PAGE,
        until=f"({before}" if before else "+",
        wanted=TraceFilter.model_validate(filters).in_lineage(view.lineage),
        max_scanned=PAGE_SCAN,
    )
    return await view.page(
        "traces.html",
        "traces",
        "Traces",
        form_values={name: filters.get(name, "") for name in TraceFilter.model_fields},
        filters=filters,
        trace_page=trace_page,
        is_newest=before is None,
        max_scanned=PAGE_SCAN,
        flags=list(Flag),
        purposes=[Purpose.TRAIN, Purpose.EVAL],
    )


@pages.get("/{task}/traces/{trace_id}")
async def get_trace(view: ViewDep, trace_id: TraceId) -> Response:
    """One trace: its texts, the score of each criterion, and the other completions of its group."""
    deps = view.deps
    trace = await find_trace(deps, view.lineage.task, trace_id)
    own = LineageKey(view.lineage.task, trace.lineage, trace.scope)
    rubric = await find_rubric(deps, own, trace.digest)
    in_group = TraceFilter.model_construct(run=trace.run, step=trace.step, group=trace.group).in_lineage(own)
    group = await deps.log.recent(own.task, _MAX_GROUP, wanted=in_group, max_scanned=PAGE_SCAN)
    return await view._replace(lineage=own).page(
        "trace.html",
        "traces",
        "Trace",
        trace=trace,
        criteria={criterion.id: criterion for criterion in rubric.criteria},
        siblings=sorted(group.traces, key=lambda t: -t.reward),
    )


def _training(lineage: LineageKey) -> Callable[[Trace], bool]:
    return TraceFilter(purpose=Purpose.TRAIN).in_lineage(lineage)


async def _changes(view: View, events: Sequence[LineageEvent]) -> dict[str, str]:
    """By digest of the newest candidates and versions among the events, what they change in one line."""
    changes: dict[str, str] = {}
    for event in reversed(events):
        before = _base(events, event.digest)
        if before is not None and event.digest not in changes and len(changes) < _MAX_SUMMARIES:
            with suppress(NotFound):
                rubrics = [await view.deps.store.get(view.lineage.task, name) for name in (before, event.digest)]
                changes[event.digest] = change_summary(*rubrics)
    return changes


def _base(events: Sequence[LineageEvent], digest: str) -> str | None:
    """The rubric that a candidate was compared with, or that a version replaced when it first became active."""
    for event in events:
        if event.digest == digest and event.gate is not None:
            return event.gate.active.digest
        if event.digest == digest and event.kind is EventKind.ACTIVATED:
            return event.previous
    return None


def _predecessor(events: Sequence[LineageEvent], digest: str) -> str | None:
    """The rubric that was active before this one, or that the gate compared it with."""
    for event in reversed(events):
        if event.digest == digest and event.previous:
            return event.previous
        if event.digest == digest and event.gate is not None:
            return event.gate.active.digest
    return None
