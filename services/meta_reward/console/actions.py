"""What an operator does from the console: a page that says what it would do and asks why, and the doing of it."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from regrade.contracts import Digest
from services.kit.errors import Forbidden, Invalid, Unauthorized
from services.kit.store.keys import LineageKey
from services.meta_reward.api import routes as api
from services.meta_reward.api.routes import (
    ActivateAction,
    Deps,
    LineageDep,
    OperatorAction,
    RollbackAction,
    find_rubric,
)
from services.meta_reward.console.pages import ViewerDep, page_context
from services.meta_reward.console.render import ConsoleRoute, PageLinks, page, redirect
from services.meta_reward.console.rubric_compare import side_by_side
from services.meta_reward.console.session import (
    COOKIE,
    PATH,
    Viewer,
    issue_token,
    require_same_origin,
    set_session_cookie,
)
from services.meta_reward.deps import CycleDeps

log = logging.getLogger(__name__)

ActionName = Literal["cycle", "pause", "resume", "rollback", "activate"]
_MOST_FIELDS = 16

ActionHandler = Callable[[Mapping[str, str], LineageKey, CycleDeps], Awaitable[object]]


class _Form(NamedTuple):
    """How a deed is asked for. `is_grave`: it changes what rewards are given by."""

    title: str
    button: str
    about: str
    is_critical: bool
    handler: ActionHandler


async def _cycle(given: Mapping[str, str], lineage: LineageKey, deps: CycleDeps) -> object:
    return await api.post_cycle(OperatorAction.model_validate(_why(given)), lineage, deps)


async def _pause(given: Mapping[str, str], lineage: LineageKey, deps: CycleDeps) -> object:
    return await api.post_pause(OperatorAction.model_validate(_why(given)), lineage, deps)


async def _resume(given: Mapping[str, str], lineage: LineageKey, deps: CycleDeps) -> object:
    return await api.post_resume(OperatorAction.model_validate(_why(given)), lineage, deps)


async def _rollback(given: Mapping[str, str], lineage: LineageKey, deps: CycleDeps) -> object:
    target = await find_rubric(deps, lineage, given.get("digest", ""))
    about = {"expected": given.get("expected"), "version": target.version}
    return await api.post_rollback(RollbackAction.model_validate(_why(given) | about), lineage, deps)


async def _activate(given: Mapping[str, str], lineage: LineageKey, deps: CycleDeps) -> object:
    about = {"expected": given.get("expected"), "digest": given.get("digest", "")}
    return await api.post_activate(ActivateAction.model_validate(_why(given) | about), lineage, deps)


_FORMS: Mapping[str, _Form] = {
    "cycle": _Form(
        "Run a cycle now",
        "Run a cycle",
        "The worker takes it up at its next look. It reads the traces that no cycle has seen, proposes, and lets the "
        "gate decide. Training goes on meanwhile.",
        False,
        _cycle,
    ),
    "pause": _Form(
        "Pause cycles",
        "Pause",
        "No cycle starts but on request, until you resume. One under way goes on; scoring is not touched.",
        False,
        _pause,
    ),
    "resume": _Form("Resume cycles", "Resume", "Cycles start again when they are due.", False, _resume),
    "rollback": _Form(
        "Roll back",
        "Roll back",
        "At once, on every replica. A step that has begun keeps its rubric; the next one is scored by the earlier "
        "version. What is rolled back stays out until somebody activates it again.",
        True,
        _rollback,
    ),
    "activate": _Form(
        "Activate without the gate",
        "Activate",
        "On your own authority: it is recorded as an override, with your name and reason, whatever the gate said.",
        True,
        _activate,
    ),
}


async def _same_origin(request: Request) -> None:
    require_same_origin(request)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form, blanks around them taken off."""
    try:
        pairs = parse_qsl((await request.body()).decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise Invalid("that is no form of the console") from None
    return {name: value.strip() for name, value in pairs}


async def _operator(viewer: ViewerDep) -> Viewer:
    if not viewer.may_operate:
        raise Forbidden("your key may look, not change anything: sign in with an operator key")
    return viewer


FormDep = Annotated[dict[str, str], Depends(_form)]
OperatorDep = Annotated[Viewer, Depends(_operator)]

action_routes = APIRouter(prefix=PATH, route_class=ConsoleRoute, include_in_schema=False)


@action_routes.get("/login")
async def get_login(next: str = "") -> Response:
    """The form that takes a key."""
    return page("login.html", {"title": "Sign in", "next": next, "refused": False})


@action_routes.post("/login", dependencies=[Depends(_same_origin)])
async def post_login(request: Request, given: FormDep) -> Response:
    """A cookie for a key."""
    there = given.get("next", "")
    try:
        token = issue_token(request.app.state.settings, given.get("key", ""), time.time())
    except Unauthorized:
        log.warning("a sign-in to the console was refused")
        return page("login.html", {"title": "Sign in", "next": there, "refused": True}, status=401)
    answer = redirect(there if there == PATH or there.startswith(f"{PATH}/") else PATH)
    set_session_cookie(answer, token, encrypted=request.headers.get("origin", "").startswith("https:"))
    return answer


@action_routes.post("/logout", dependencies=[Depends(_same_origin)])
async def post_logout() -> Response:
    """The cookie is taken back."""
    answer = redirect(f"{PATH}/login")
    answer.delete_cookie(COOKIE, path=PATH)
    return answer


@action_routes.get("/{task}/do/{action}")
async def get_action(
    lineage: LineageDep, deps: Deps, viewer: OperatorDep, action: ActionName, digest: Digest | None = None
) -> Response:
    """What a deed would do, and the form that asks why."""
    form = _FORMS[action]
    context: dict[str, Any] = await page_context(lineage, deps, viewer, "", form.title)
    context |= {"form": form, "action": action, "target": None, "current": None, "blocks": ()}
    if form.is_critical:
        active = context["active"]
        if active is None:
            raise Invalid(f"{lineage.task!r} has no active rubric in {lineage.label!r}")
        wanted = digest or await deps.store.digest_before(lineage, active.digest)
        context["target"] = await find_rubric(deps, lineage, wanted)
        context["current"] = await deps.store.labelled(lineage, active.digest)
        context["blocks"] = side_by_side(context["current"], context["target"])
    return page("action.html", context)


@action_routes.post("/{task}/do/{action}", dependencies=[Depends(_same_origin)])
async def post_action(
    lineage: LineageDep, deps: Deps, viewer: OperatorDep, action: ActionName, given: FormDep
) -> Response:
    """Do it, on record, and show where it led."""
    await _FORMS[action].handler(given, lineage, deps)
    return redirect(PageLinks(lineage)())


def _why(given: Mapping[str, str]) -> dict[str, str]:
    return {name: given.get(name, "") for name in ("by", "reason")}
