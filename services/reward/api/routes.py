"""The routes of the reward service."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import Field, TypeAdapter, ValidationError

from regrade.contracts import (
    MAIN_LINEAGE,
    Digest,
    Name,
    PutRubric,
    PutRubricAnswer,
    Rubric,
    Scope,
    ScoreRequest,
    ScoreResponse,
)
from services.kit.errors import NotFound
from services.kit.store.keys import LineageKey
from services.kit.web.server import JsonBody, bearer, error_responses, require_key, require_operator
from services.reward.api.publishing import publish, validate_rubric
from services.reward.api.state import RewardState

router = APIRouter()


async def _state(request: Request) -> RewardState:
    state: RewardState = request.app.state.reward
    return state


State = Annotated[RewardState, Depends(_state)]
_TIMEOUT = "Regrade-Timeout-S"
_SECONDS: TypeAdapter[float] = TypeAdapter(Annotated[float, Field(gt=0, le=86_400)])
Timeout = Annotated[
    float | None,
    Header(alias=_TIMEOUT, gt=0, le=86_400, description="Seconds the caller waits; later items are null."),
]


class _ScoreRoute(APIRoute):
    """`/score` as its function declares it, with nothing between the bytes and the models: no call is more frequent."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        body = JsonBody(ScoreRequest)

        async def handle(request: Request) -> Response:
            credentials = await bearer(request)
            await require_key(request, credentials)
            state = await _state(request)
            account = state.quotas.enter(credentials.credentials if credentials else "")
            asked = await body.read(request)
            state.quotas.charge(account, len(asked.items))
            return await score(asked, state, _timeout_of(request))

        return handle


def _timeout_of(request: Request) -> float | None:
    told = request.headers.get(_TIMEOUT)
    try:
        return None if told is None else _SECONDS.validate_python(told)
    except ValidationError as error:
        raise RequestValidationError([{**problem, "loc": ("header", _TIMEOUT)} for problem in error.errors()]) from None


scoring = APIRouter(route_class=_ScoreRoute)


@scoring.post(
    "/score",
    response_model=ScoreResponse,
    dependencies=[Depends(require_key)],
    responses=error_responses(401, 404, 409, 413, 422, 429, 503),
    tags=["scoring"],
)
async def score(body: ScoreRequest, state: State, timeout_s: Timeout = None) -> Response:
    """Score completions by the pinned (else the active) rubric of their task.

    200 when each item has an outcome: a reward in [0, 1], or null with a typed error. 503 when the
    judge could serve none of them. Calling again with the same item ids is answered from what was
    stored: nothing is judged or recorded twice.
    """
    deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
    if isinstance(body.rubric, Rubric):
        validate_rubric(body.rubric)
    answer = await state.service.score(body, deadline=deadline)
    return Response(answer.to_json(), media_type="application/json")


@router.get(
    "/rubrics/{task}",
    dependencies=[Depends(require_key)],
    responses=error_responses(401, 404, 422, 503),
    tags=["rubrics"],
)
async def get_rubric(
    task: Name,
    state: State,
    lineage: Name = MAIN_LINEAGE,
    scope: Scope | None = None,
    version: Annotated[int | None, Query(ge=1, description="a version of this lineage")] = None,
    digest: Annotated[Digest | None, Query(description="any stored rubric, active once or not")] = None,
) -> Rubric:
    """The active rubric of a task, or the one of a version or digest."""
    line = LineageKey(task, lineage, scope)
    if version is not None or digest is not None:
        found = await state.store.find(line, version if version is not None else digest or "")
        if None not in (version, digest) and found.digest != digest:
            raise NotFound(f"version {version} is not rubric {digest}", code="unknown_rubric")
    else:
        found = await state.store.active_with_fallback(line)
    return await state.store.labelled(line._replace(scope=found.scope), found.digest)


@router.put(
    "/rubrics/{task}",
    dependencies=[Depends(require_operator)],
    responses=error_responses(401, 403, 409, 413, 422, 503),
    tags=["rubrics"],
)
async def put_rubric(task: Name, body: PutRubric, state: State) -> PutRubricAnswer:
    """Make a rubric of your own active: recorded as the lineage's bootstrap, or as an override of what was active."""
    return await publish(state.store, task, body)
