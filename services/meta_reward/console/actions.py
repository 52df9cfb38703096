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
from services.meta_reward.api.routes import ActivateDeed, Deed, LineageDep, PartsDep, RollbackDeed, find_rubric
from services.meta_reward.console.pages import ViewerDep, frame
from services.meta_reward.console.render import ConsoleRoute, Place, page, redirect
from services.meta_reward.console.rubric_compare import side_by_side
from services.meta_reward.console.session import COOKIE, PATH, Viewer, issue, keep, require_own_page
from services.meta_reward.cycle import Parts

log = logging.getLogger(__name__)

DeedName = Literal["cycle", "pause", "resume", "rollback", "activate"]
_MOST_FIELDS = 16

Doer = Callable[[Mapping[str, str], LineageKey, Parts], Awaitable[object]]


class _Form(NamedTuple):
    """How a deed is asked for. `is_grave`: it changes what rewards are given by."""

    title: str
    button: str
    about: str
    is_grave: bool
    do: Doer


async def _cycle(given: Mapping[str, str], lineage: LineageKey, parts: Parts) -> object:
    return await api.post_cycle(Deed.model_validate(_why(given)), lineage, parts)


async def _pause(given: Mapping[str, str], lineage: LineageKey, parts: Parts) -> object:
    return await api.post_pause(Deed.model_validate(_why(given)), lineage, parts)


async def _resume(given: Mapping[str, str], lineage: LineageKey, parts: Parts) -> object:
    return await api.post_resume(Deed.model_validate(_why(given)), lineage, parts)


async def _rollback(given: Mapping[str, str], lineage: LineageKey, parts: Parts) -> object:
    target = await find_rubric(parts, lineage, given.get("digest", ""))
    about = {"expected": given.get("expected"), "version": target.version}
    return await api.post_rollback(RollbackDeed.model_validate(_why(given) | about), lineage, parts)


async def _activate(given: Mapping[str, str], lineage: LineageKey, parts: Parts) -> object:
    about = {"expected": given.get("expected"), "digest": given.get("digest", "")}
    return await api.post_activate(ActivateDeed.model_validate(_why(given) | about), lineage, parts)


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


async def _own_page(request: Request) -> None:
    require_own_page(request)


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

deeds = APIRouter(prefix=PATH, route_class=ConsoleRoute, include_in_schema=False)


@deeds.get("/login")
async def get_login(next: str = "") -> Response:
    """The form that takes a key."""
    return page("login.html", {"title": "Sign in", "next": next, "refused": False})


@deeds.post("/login", dependencies=[Depends(_own_page)])
async def post_login(request: Request, given: FormDep) -> Response:
    """A cookie for a key."""
    there = given.get("next", "")
    try:
        token = issue(request.app.state.settings, given.get("key", ""), time.time())
    except Unauthorized:
        log.warning("a sign-in to the console was refused")
        return page("login.html", {"title": "Sign in", "next": there, "refused": True}, status=401)
    answer = redirect(there if there == PATH or there.startswith(f"{PATH}/") else PATH)
    keep(answer, token, encrypted=request.headers.get("origin", "").startswith("https:"))
    return answer


@deeds.post("/logout", dependencies=[Depends(_own_page)])
async def post_logout() -> Response:
    """The cookie is taken back."""
    answer = redirect(f"{PATH}/login")
    answer.delete_cookie(COOKIE, path=PATH)
    return answer


@deeds.get("/{task}/do/{deed}")
async def get_deed(
    lineage: LineageDep, parts: PartsDep, viewer: OperatorDep, deed: DeedName, digest: Digest | None = None
) -> Response:
    """What a deed would do, and the form that asks why."""
    form = _FORMS[deed]
    shown: dict[str, Any] = await frame(lineage, parts, viewer, "", form.title)
    shown |= {"form": form, "deed": deed, "target": None, "current": None, "blocks": ()}
    if form.is_grave:
        active = shown["active"]
        if active is None:
            raise Invalid(f"{lineage.task!r} has no active rubric in {lineage.label!r}")
        wanted = digest or await parts.store.before(lineage, active.digest)
        shown["target"] = await find_rubric(parts, lineage, wanted)
        shown["current"] = await parts.store.labelled(lineage, active.digest)
        shown["blocks"] = side_by_side(shown["current"], shown["target"])
    return page("deed.html", shown)


@deeds.post("/{task}/do/{deed}", dependencies=[Depends(_own_page)])
async def post_deed(
    lineage: LineageDep, parts: PartsDep, viewer: OperatorDep, deed: DeedName, given: FormDep
) -> Response:
    """Do it, on record, and show where it led."""
    await _FORMS[deed].do(given, lineage, parts)
    return redirect(Place(lineage)())


def _why(given: Mapping[str, str]) -> dict[str, str]:
    return {name: given.get(name, "") for name in ("by", "reason")}
