"""The routes of the reward service: `/score`, and reading and putting rubrics."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import Field, TypeAdapter, ValidationError

from regrade.contracts import (
    MAIN_LINEAGE,
    ActiveRubric,
    Digest,
    Name,
    PutRubric,
    Rubric,
    Scope,
    ScoreRequest,
    ScoreResponse,
)
from services.kit.errors import NotFound
from services.kit.store.keys import LineageKey
from services.kit.web.server import (
    GuardedRoute,
    error_responses,
    may_operate,
    read_json_bytes,
    require_key,
    require_operator,
)
from services.reward.api.publishing import publish
from services.reward.api.score_body import ScoreBody, parse_score_body
from services.reward.api.state import RewardState

router = APIRouter(route_class=GuardedRoute)


async def _state(request: Request) -> RewardState:
    state: RewardState = request.app.state.reward
    return state


State = Annotated[RewardState, Depends(_state)]
_TIMEOUT_HEADER = "Regrade-Timeout-S"
_TIMEOUT: TypeAdapter[float] = TypeAdapter(Annotated[float, Field(gt=0, le=86_400)])
Timeout = Annotated[
    float | None,
    Header(alias=_TIMEOUT_HEADER, gt=0, le=86_400, description="Seconds the caller waits; later items are null."),
]


class ScoreRoute(GuardedRoute):
    """`/score`, the most frequent call: FastAPI's own solving and parsing would take three times as long."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The function that answers a request."""

        async def handle(request: Request) -> Response:
            credentials = await self.run_guards(request)
            state = await _state(request)
            tenant = state.quotas.admit_request(credentials.credentials if credentials else "")
            content = await read_json_bytes(request)
            body = parse_score_body(content)
            state.quotas.charge_items(tenant, len(body.request.items), len(content))
            if isinstance(body.request.rubric, Rubric):
                operates = may_operate(request, credentials)
                await state.candidates.admit(body.request.task, body.request.rubric, may_operate=operates)
            return await _score(body, state, _timeout_of(request))

        return handle


def _timeout_of(request: Request) -> float | None:
    value = request.headers.get(_TIMEOUT_HEADER)
    try:
        return None if value is None else _TIMEOUT.validate_python(value)
    except ValidationError as error:
        errors = [{**problem, "loc": ("header", _TIMEOUT_HEADER)} for problem in error.errors()]
        raise RequestValidationError(errors) from None


score_router = APIRouter(route_class=ScoreRoute)


@score_router.post(
    "/score",
    response_model=ScoreResponse,
    dependencies=[Depends(require_key)],
    responses=error_responses(401, 403, 404, 409, 413, 422, 429, 503),
    tags=["scoring"],
)
async def score(body: ScoreRequest, state: State, timeout_s: Timeout = None) -> Response:
    """Score completions by the pinned (else the active) rubric of their task.

    200 when each item has an outcome: a reward in [0, 1], or null with a typed error. An item whose
    content cannot be scored (no text, too many turns) has the error `invalid_item`, and the others
    are scored. 503 when the judge could score none of them. A repeated request with the same item
    ids returns the stored outcomes: nothing is judged or recorded twice.
    """
    return await _score(ScoreBody(body), state, timeout_s)


async def _score(body: ScoreBody, state: RewardState, timeout_s: float | None) -> Response:
    request = body.request
    deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
    response = await state.pipeline.score(request, deadline=deadline, refused=body.refused)
    return Response(response.to_json(), media_type="application/json")


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
    version: Annotated[int | None, Query(ge=1, description="A version of this lineage.")] = None,
    digest: Annotated[Digest | None, Query(description="Any stored rubric, even one that was never active.")] = None,
) -> Rubric:
    """The active rubric of a task, or the one of a version or digest."""
    key = LineageKey(task, lineage, scope)
    if version is None and digest is None:
        pointer = await state.actives.current(key)
    else:
        pointer = await state.store.find(key, version if version is not None else digest or "")
        if None not in (version, digest) and pointer.digest != digest:
            raise NotFound(f"version {version} is not rubric {digest}", code="unknown_rubric")
    return await state.store.labelled(key._replace(scope=pointer.scope), pointer.digest)


@router.put(
    "/rubrics/{task}",
    dependencies=[Depends(require_operator)],
    responses=error_responses(401, 403, 409, 413, 422, 503),
    tags=["rubrics"],
)
async def put_rubric(task: Name, body: PutRubric, state: State) -> ActiveRubric:
    """Make a rubric of your own active; recorded as the lineage's bootstrap, or as an override of the active one."""
    await state.candidates.validate(body.rubric)
    return await publish(state.store, task, body)
