"""Operator actions of the console: a form that shows what an action would change and asks for a reason."""

import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Literal, NamedTuple
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from regrade.contracts import Digest
from services.kit.errors import Forbidden, Invalid, Unauthorized
from services.kit.web.body_limit import read_at_most
from services.meta_reward.api import routes as api
from services.meta_reward.api.routes import ActivateAction, OperatorAction, RollbackAction, find_rubric
from services.meta_reward.console.pages import View, ViewDep
from services.meta_reward.console.render import ConsoleRoute, PageLinks, redirect, render
from services.meta_reward.console.rubric_compare import side_by_side
from services.meta_reward.console.session import (
    COOKIE,
    PATH,
    end_session,
    issue_token,
    require_same_origin,
    set_session_cookie,
    viewer_of,
)
from services.meta_reward.console.sign_in_throttle import SignInThrottle

log = logging.getLogger(__name__)

ActionName = Literal["cycle", "pause", "resume", "rollback", "activate"]
_MAX_FIELDS = 16
_MAX_FORM_BYTES = 65_536
"""Anybody may send the sign-in form."""


class _ActionForm(NamedTuple):
    """An action: its form, the request body that the form's fields make, and the API route it calls."""

    title: str
    button: str
    text: str
    body: type[OperatorAction]
    route: Callable[..., Awaitable[object]]
    is_critical: bool = False
    """Whether it changes which rubric gives rewards; such a form shows the difference."""


_FORMS: Mapping[str, _ActionForm] = {
    "cycle": _ActionForm(
        "Run a cycle now",
        "Run a cycle",
        "The worker starts it at its next poll. It reads the traces that no cycle has consumed, proposes rubrics, and "
        "activates one if it passes the gate. Training continues.",
        OperatorAction,
        api.post_cycle,
    ),
    "pause": _ActionForm(
        "Pause cycles",
        "Pause",
        "Until you resume, cycles start on request only. A running cycle continues, and scoring is not affected.",
        OperatorAction,
        api.post_pause,
    ),
    "resume": _ActionForm(
        "Resume cycles", "Resume", "Cycles start again when they are due.", OperatorAction, api.post_resume
    ),
    "rollback": _ActionForm(
        "Roll back",
        "Roll back",
        "Takes effect at once on every replica. A training step that has begun keeps its rubric; the next one is scored"
        " by the earlier version. The gate can't activate a rubric that was rolled back; an operator can.",
        RollbackAction,
        api.post_rollback,
        is_critical=True,
    ),
    "activate": _ActionForm(
        "Activate without the gate",
        "Activate",
        "Activates the rubric whatever the gate decided. It is recorded as an override with your name and reason.",
        ActivateAction,
        api.post_activate,
        is_critical=True,
    ),
}


async def _form_fields(request: Request) -> dict[str, str]:
    """The form's fields, stripped of surrounding white space."""
    form = await read_at_most(request, _MAX_FORM_BYTES)
    try:
        pairs = parse_qsl(form.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise Invalid("the body is not a form of the console") from None
    return {name: value.strip() for name, value in pairs}


async def _operator_view(view: ViewDep) -> View:
    if not view.viewer.may_operate:
        raise Forbidden("your key can read but not change anything: sign in with an operator key")
    return view


FieldsDep = Annotated[dict[str, str], Depends(_form_fields)]
OperatorViewDep = Annotated[View, Depends(_operator_view)]
same_origin = [Depends(require_same_origin)]

action_routes = APIRouter(prefix=PATH, route_class=ConsoleRoute, include_in_schema=False)


@action_routes.get("/login")
async def get_login(next: str = "") -> Response:
    """The sign-in form."""
    return _sign_in_page(next, "", 200)


def _sign_in_page(target: str, problem: str, status: int, retry_after: int | None = None) -> Response:
    response = render("login.html", {"title": "Sign in", "next": target, "problem": problem}, status=status)
    if retry_after:
        response.headers["Retry-After"] = str(retry_after)
    return response


@action_routes.post("/login", dependencies=same_origin)
async def post_login(request: Request, fields: FieldsDep) -> Response:
    """Exchange a key for a session cookie, and go to the page that asked for it."""
    target = fields.get("next", "")
    throttle: SignInThrottle = request.app.state.sign_in_throttle
    address = request.client.host if request.client else ""
    delay_s = math.ceil(throttle.delay_s(address, time.monotonic()))
    if delay_s:
        return _sign_in_page(
            target, f"Too many wrong keys from your address. Wait {delay_s} s.", 429, retry_after=delay_s
        )
    try:
        token = issue_token(request.app.state.settings, fields.get("key", ""), time.time())
    except Unauthorized:
        throttle.failed(address, time.monotonic())
        log.warning("a sign-in to the console was refused", extra={"address": address})
        return _sign_in_page(target, "This service does not know that key.", 401)
    throttle.succeeded(address)
    response = redirect(target if target == PATH or target.startswith(f"{PATH}/") else PATH)
    set_session_cookie(response, token, encrypted=request.headers.get("origin", "").startswith("https:"))
    return response


@action_routes.post("/logout", dependencies=same_origin)
async def post_logout(request: Request) -> Response:
    """End the session, so that no copy of its cookie is accepted, and delete the cookie."""
    token = request.cookies.get(COOKIE, "")
    if viewer_of(request.app.state.settings, token, time.time()).signed_in:
        await end_session(request.app.state.redis, token)
    response = redirect(f"{PATH}/login")
    response.delete_cookie(COOKIE, path=PATH)
    return response


@action_routes.get("/{task}/do/{action}")
async def get_action(view: OperatorViewDep, action: ActionName, digest: Digest | None = None) -> Response:
    """The action's form, with the difference it would make to the active rubric."""
    form, deps, lineage = _FORMS[action], view.deps, view.lineage
    if not form.is_critical:
        return await view.page("action.html", "", form.title, form=form, action=action, target=None)
    active = await view.active_digest()
    if active is None:
        raise Invalid(f"{lineage.task!r} has no active rubric in {lineage.label!r}")
    current = await deps.store.labelled(lineage, active)
    target = await find_rubric(deps, lineage, digest or await deps.store.digest_before(lineage, active))
    return await view.page(
        "action.html",
        "",
        form.title,
        form=form,
        action=action,
        target=target,
        current=current,
        blocks=side_by_side(current, target),
    )


@action_routes.post("/{task}/do/{action}", dependencies=same_origin)
async def post_action(view: OperatorViewDep, action: ActionName, fields: FieldsDep) -> Response:
    """Perform the action, recorded with name and reason, and show the overview."""
    form = _FORMS[action]
    body = form.body.model_validate(fields)
    await form.route(body, view.lineage, view.deps)
    return redirect(PageLinks(view.lineage)())
