"""The console's pages: each reads what its template shows, and no more than a bounded stretch of anything."""

import asyncio
import time
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from regrade.contracts import Digest, EventKind, Flag, LineageEvent, Purpose, Trace
from services.kit.errors import NotFound
from services.kit.store.keys import LineageKey
from services.meta_reward.api.routes import EVENT_ID, Deps, LineageDep, TraceId, find_rubric, find_trace
from services.meta_reward.api.trace_filter import MAX_SCANNED, TraceFilter
from services.meta_reward.console import timeline
from services.meta_reward.console.chart_data import cycle_figures, run_series, runs_in
from services.meta_reward.console.render import ConsoleRoute, PageLinks, asset, page, redirect
from services.meta_reward.console.rubric_compare import side_by_side
from services.meta_reward.console.session import COOKIE, PATH, Viewer, viewer_of
from services.meta_reward.deps import CycleDeps
from services.meta_reward.lineages import lineages_of
from services.meta_reward.settings import served_lineages

_EVENTS = 120
"""Lineage events on one page of the timeline."""
_KNOWN_EVENTS = 1_000
_PLOTTED_TRACES = 2_048
_PLOTTED_CYCLES = 200
_CYCLES = 25
_TRACES = 40
_SIBLINGS = 64
_ASSETS = {"console.css": "text/css", "console.js": "text/javascript", "mark.svg": "image/svg+xml"}


async def _viewer(request: Request) -> Viewer:
    return viewer_of(request.app.state.settings, request.cookies.get(COOKIE, ""), time.time())


ViewerDep = Annotated[Viewer, Depends(_viewer)]
Before = Annotated[str | None, Query(pattern=EVENT_ID)]
RubricName = Annotated[int | Digest, Query()]

pages = APIRouter(prefix=PATH, route_class=ConsoleRoute, include_in_schema=False)


async def page_context(
    lineage: LineageKey, deps: CycleDeps, viewer: Viewer, section: str, title: str
) -> dict[str, Any]:
    """What every page about a line shows around its own."""
    served = await lineages_of(deps.store, deps.settings)
    return {
        "title": title,
        "section": section,
        "lineage": lineage,
        "link": PageLinks(lineage),
        "lineage_links": list(map(PageLinks, served)),
        "is_served": lineage in served,
        "viewer": viewer,
        "status": await deps.status_store.status(lineage),
        "alarms": await deps.status_store.alarms(lineage),
        "active": await deps.store.active(lineage),
        "now": time.time(),
    }


@pages.get("")
async def get_index(deps: Deps, viewer: ViewerDep) -> Response:
    """The first line's overview; the others are a click away."""
    return redirect(PageLinks(served_lineages(deps.settings)[0])())


@pages.get("/static/{name}")
async def get_asset(name: str) -> Response:
    """Style, script and mark; they hold nothing that a key would guard."""
    if name not in _ASSETS:
        raise NotFound(f"no file {name!r}")
    folder = resources.files("services.meta_reward").joinpath("console", "static")
    return asset(folder.joinpath(name).read_text(encoding="utf-8"), _ASSETS[name])


@pages.get("/{task}")
async def get_overview(
    lineage: LineageDep, deps: Deps, viewer: ViewerDep, run: str | None = None, before: Before = None
) -> Response:
    """How the line does: reward, evidence, alarms, and the timeline of its rubrics."""
    context = await page_context(lineage, deps, viewer, "overview", lineage.task)
    traces = (
        await deps.log.recent(lineage.task, _PLOTTED_TRACES, wanted=_training(lineage), max_scanned=MAX_SCANNED)
    ).traces
    runs = runs_in(traces)
    chosen = run if run in runs else next(iter(runs), None)
    events = await deps.store.latest(lineage, _EVENTS, before=before)
    newest = await deps.store.latest(lineage, _KNOWN_EVENTS) if before else events
    reports = await deps.status_store.reports(lineage, _PLOTTED_CYCLES)
    context |= {
        "runs": runs,
        "series": await asyncio.to_thread(run_series, traces, chosen),
        "evidence": cycle_figures(reports),
        "last_report": reports[-1] if reports else None,
        "cycle_groups": timeline.cycle_groups(events),
        "timeline": timeline.timeline(newest),
        "older": events[0].id if len(events) == _EVENTS else None,
        "is_newest": before is None,
        "last_change": await deps.store.last_change(lineage),
        "margin": deps.settings.gate_margin,
    }
    return page("overview.html", context)


@pages.get("/{task}/rubrics")
async def get_rubrics(
    lineage: LineageDep,
    deps: Deps,
    viewer: ViewerDep,
    before: RubricName | None = None,
    after: RubricName | None = None,
) -> Response:
    """Two rubrics side by side, by default the active one and the one before it; and all there are to choose from."""
    context = await page_context(lineage, deps, viewer, "rubrics", "Rubrics")
    events = await deps.store.latest(lineage, _KNOWN_EVENTS)
    active = context["active"]
    rubric_statuses = timeline.rubric_statuses(events, active.digest if active else None)
    after = after or (active.digest if active else None)
    if after is None:
        raise NotFound(f"{lineage.task!r} has no rubric in {lineage.label!r} yet", code="unknown_task")
    right = await find_rubric(deps, lineage, after)
    left = await find_rubric(
        deps, lineage, before or _predecessor(events, right.digest) or right.parent or right.digest
    )
    context |= {"rubric_statuses": rubric_statuses, "left": left, "right": right, "blocks": side_by_side(left, right)}
    return page("rubrics.html", context)


@pages.get("/{task}/rubrics/{digest}")
async def get_rubric(lineage: LineageDep, deps: Deps, viewer: ViewerDep, digest: Digest) -> Response:
    """One rubric: what it asks for, what happened to it, and what the gate measured of it."""
    rubric = await find_rubric(deps, lineage, digest)
    label = f"v{rubric.version}" if rubric.version else digest[:8]
    context = await page_context(lineage, deps, viewer, "rubrics", f"Rubric {label}")
    events = await deps.store.latest(lineage, _KNOWN_EVENTS)
    own = [event for event in events if event.digest == digest and event.kind is not EventKind.FAILED]
    active = context["active"]
    is_active = active is not None and active.digest == digest
    context |= {
        "rubric": rubric,
        "label": label,
        "status_word": timeline.status_of(own[-1], rubric.version, is_active) if own else "stored",
        "events": own[::-1],
        "gates": timeline.gates_of(own, digest),
        "margin": deps.settings.gate_margin,
        "rollback_reason": (await deps.store.rolled_back(lineage)).get(digest),
    }
    return page("rubric.html", context)


@pages.get("/{task}/cycles")
async def get_cycles(
    lineage: LineageDep, deps: Deps, viewer: ViewerDep, skip: Annotated[int, Query(ge=0, le=100_000)] = 0
) -> Response:
    """Cycles that have ended, newest first."""
    context = await page_context(lineage, deps, viewer, "cycles", "Cycles")
    reports = await deps.status_store.reports(lineage, _CYCLES + 1, skip=skip)
    has_older = len(reports) > _CYCLES
    context |= {"reports": reports[::-1][:_CYCLES], "skip": skip, "size": _CYCLES, "has_older": has_older}
    return page("cycles.html", context)


@pages.get("/{task}/cycles/{cycle}")
async def get_cycle(lineage: LineageDep, deps: Deps, viewer: ViewerDep, cycle: str) -> Response:
    """One cycle: evidence, sample, and the verdict on every candidate."""
    report = await deps.status_store.report(lineage, cycle)
    context = await page_context(lineage, deps, viewer, "cycles", f"Cycle {cycle}")
    events = await deps.store.latest(lineage, _KNOWN_EVENTS)
    own = [event for event in events if event.cycle == cycle]
    context |= {"report": report, "events": own, "margin": deps.settings.gate_margin}
    return page("cycle.html", context)


@pages.get("/{task}/alarms")
async def get_alarms(lineage: LineageDep, deps: Deps, viewer: ViewerDep) -> Response:
    """What is raised, with the traces that show it."""
    context = await page_context(lineage, deps, viewer, "alarms", "Alarms")
    wanted = {name for alarm in context["alarms"] for name in alarm.traces}
    there = await deps.log.by_ids(lineage.task, wanted) if wanted else {}
    context["traces_of"] = {alarm.name: [there[t] for t in alarm.traces if t in there] for alarm in context["alarms"]}
    return page("alarms.html", context)


@pages.get("/{task}/traces")
async def get_traces(
    request: Request, lineage: LineageDep, deps: Deps, viewer: ViewerDep, before: Before = None
) -> Response:
    """Traces that fit a filter, newest first."""
    context = await page_context(lineage, deps, viewer, "traces", "Traces")
    given = {name: value for name, value in request.query_params.items() if value and name in TraceFilter.model_fields}
    wanted = TraceFilter.model_validate(given)
    until = f"({before}" if before else "+"
    found = await deps.log.recent(
        lineage.task, _TRACES, until=until, wanted=wanted.on(lineage), max_scanned=MAX_SCANNED
    )
    context |= {
        "form_values": {name: given.get(name, "") for name in TraceFilter.model_fields},
        "filters": given,
        "trace_page": found,
        "is_newest": before is None,
        "max_scanned": MAX_SCANNED,
        "flags": list(Flag),
        "purposes": [Purpose.TRAIN, Purpose.EVAL],
    }
    return page("traces.html", context)


@pages.get("/{task}/traces/{trace_id}")
async def get_trace(lineage: LineageDep, deps: Deps, viewer: ViewerDep, trace_id: TraceId) -> Response:
    """One trace: what was written, and how each criterion made its reward."""
    trace = await find_trace(deps, lineage.task, trace_id)
    own = LineageKey(lineage.task, trace.lineage, trace.scope)
    context = await page_context(own, deps, viewer, "traces", "Trace")
    rubric = await find_rubric(deps, own, trace.digest)
    group = TraceFilter.model_construct(run=trace.run, step=trace.step, group=trace.group)
    siblings = await deps.log.recent(lineage.task, _SIBLINGS, wanted=group.on(own), max_scanned=MAX_SCANNED)
    context |= {
        "trace": trace,
        "rubric": rubric,
        "criteria": {criterion.id: criterion for criterion in rubric.criteria},
        "siblings": sorted(siblings.traces, key=lambda t: -t.reward),
    }
    return page("trace.html", context)


def _training(lineage: LineageKey) -> Callable[[Trace], bool]:
    return TraceFilter(purpose=Purpose.TRAIN).on(lineage)


def _predecessor(events: Sequence[LineageEvent], digest: str) -> str | None:
    """What was active before a rubric became so, or what it was measured against."""
    for event in reversed(events):
        if event.digest == digest and event.previous:
            return event.previous
        if event.digest == digest and event.gate is not None:
            return event.gate.active.digest
    return None
