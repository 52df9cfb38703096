"""The routes that speak trainers' own wire formats, each with the shape of failure that its trainer can live with.

What is to be scored as what stands in the URL's query, since the bodies are the trainers'. A trainer that can send no
header of its own has the key in its URL: `http://:KEY@host:8700/...`.
"""

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.security import HTTPAuthorizationCredentials
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import to_json
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from regrade.adapters import nemo_gym, openrlhf, slime
from regrade.contracts import Scope, ScoreItem
from services.kit.errors import Invalid, Overloaded, ServiceError, Unavailable
from services.kit.results import ItemResult
from services.kit.web.server import Credentials, error_responses, require_key
from services.reward.api.micro_batching import Target
from services.reward.api.routes import State
from services.reward.api.state import RewardState

log = logging.getLogger(__name__)

_MARGIN_S = 15.0
"""Kept of a trainer's time limit, for the way there and back and a slow judge's last answer."""


class TrainerQuery(Target):
    """The query of a trainer's URL. `hold_s`: how long a sample is tried, judge or Redis away or not."""

    scope: Scope | None = None
    hold_s: Annotated[float | None, Field(ge=1, le=3_600)] = None

    @property
    def target(self) -> Target:
        """What the samples of one batch share."""
        return Target(task=self.task, run=self.run, mode=self.mode, lineage=self.lineage, purpose=self.purpose)


class FilteredQuery(TrainerQuery):
    """Of a trainer that can filter. `unscored=nan` answers NaN for what cannot be scored: its group is left out."""

    unscored: Literal["error", "nan"] = "error"


class SlimeQuery(FilteredQuery):
    """`reply=dict` answers an object, for `--reward-key score`."""

    reply: Literal["float", "dict"] = "float"


async def _trainer_key(request: Request, credentials: Credentials) -> str:
    """The caller's key, once it is known to be one."""
    given = credentials or _of_url(request.headers.get("authorization", ""))
    await require_key(request, given)
    return given.credentials if given else ""


def _of_url(header: str) -> HTTPAuthorizationCredentials | None:
    """The key of a URL with one: a client sends it as the password, or the name, of Basic authentication."""
    scheme, _, told = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, password = base64.b64decode(told, validate=True).decode().partition(":")
    except ValueError:
        return None
    return HTTPAuthorizationCredentials(scheme="Bearer", credentials=password or name)


router = APIRouter(
    prefix="/adapters",
    tags=["trainers"],
    dependencies=[Depends(_trainer_key)],
    responses=error_responses(401, 404, 413, 422, 429, 503),
)


Key = Annotated[str, Depends(_trainer_key)]


@router.post("/openrlhf", response_model=openrlhf.OpenRLHFResponse)
async def openrlhf_reward(
    body: openrlhf.OpenRLHFRequest, query: Annotated[FilteredQuery, Query()], state: State, key: Key
) -> Response:
    """OpenRLHF's `--reward.remote_url`. A sample is held for 165 s, as the run ends after five quick failures."""
    results = await _scored(state, key, query, openrlhf.CLIENT_TIMEOUT_S, lambda: openrlhf.to_items(body, query.scope))
    return _json(openrlhf.to_response(results))


@router.post("/slime", response_model=float | dict[str, float])
async def slime_reward(
    body: slime.SlimeRequest, query: Annotated[SlimeQuery, Query()], state: State, key: Key
) -> Response:
    """slime's and miles' `--rm-url`. A sample is held for 105 s; miles waits longer and asks once: `hold_s=285`."""
    (result,) = await _scored(state, key, query, slime.CLIENT_TIMEOUT_S, lambda: [slime.to_item(body, query.scope)])
    return _json(slime.to_float(result) if query.reply == "float" else slime.to_object(result))


@router.post("/nemo-gym/verify", response_model=nemo_gym.VerifyResponse)
async def nemo_gym_verify(
    body: nemo_gym.VerifyRequest, query: Annotated[TrainerQuery, Query()], state: State, key: Key
) -> Response:
    """NeMo Gym's `/verify`. A judge that fails is a 200 with reward 0.0 and the class of failure that Gym filters."""
    (item,) = _mapped(lambda: [nemo_gym.to_item(body, query.scope)])
    try:
        (result,) = await _held(state, key, query, nemo_gym.CLIENT_TIMEOUT_S, [item])
    except (Unavailable, Overloaded) as error:
        return _json(nemo_gym.failure_row(body, f"{error.code}: {error.detail}"))
    except (RedisConnectionError, RedisTimeoutError):
        return _json(nemo_gym.failure_row(body, "redis_unavailable"))
    if result.reward is None:
        assert result.error is not None
        return _json(nemo_gym.failure_row(body, f"{result.error.code}: {result.error.message}"))
    components = {entry.id: entry.score for entry in result.criteria if entry.score is not None}
    return _json(nemo_gym.to_row(body, result, components))


@router.post("/nemo-gym/compare", response_model=nemo_gym.CompareResponse)
async def nemo_gym_compare(
    body: nemo_gym.CompareRequest, query: Annotated[TrainerQuery, Query()], state: State, key: Key
) -> Response:
    """NeMo Gym's `/compare`: the group's rewards, each by itself; an error where one of them cannot be had."""
    results = await _scored(state, key, query, nemo_gym.CLIENT_TIMEOUT_S, lambda: nemo_gym.to_items(body, query.scope))
    return _json(nemo_gym.to_comparison(results))


async def _scored(
    state: RewardState, key: str, query: TrainerQuery, gives_up_after_s: float, items: Callable[[], list[ScoreItem]]
) -> list[ItemResult]:
    """The outcomes; all of them rewards, unless the caller wants NaN for the others. Raises `ServiceError`."""
    results = await _logged(query, _held(state, key, query, gives_up_after_s, _mapped(items)))
    missing = next((result for result in results if result.reward is None), None)
    if missing is not None and not (isinstance(query, FilteredQuery) and query.unscored == "nan"):
        assert missing.error is not None
        kind = Unavailable if missing.error.retryable else Invalid
        raise kind(missing.error.message, code=missing.error.code)
    return results


async def _logged(query: TrainerQuery, results: Awaitable[list[ItemResult]]) -> list[ItemResult]:
    """These trainers tell their users little of why a call was refused. Outages are told where they are met."""
    try:
        return await results
    except (Unavailable, Overloaded):
        raise
    except ServiceError as error:
        log.warning("a trainer's sample was not scored", extra={"task": query.task, "kind": error.code})
        raise


def _mapped(items: Callable[[], list[ScoreItem]]) -> list[ScoreItem]:
    try:
        return items()
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise Invalid("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in problems[:8])) from None
    except ValueError as error:
        raise Invalid(str(error)) from None


async def _held(
    state: RewardState, key: str, query: TrainerQuery, gives_up_after_s: float, items: list[ScoreItem]
) -> list[ItemResult]:
    """The outcomes, once the caller's budget and the judge allow it. Raises `ServiceError` when waiting has not helped.

    A spent budget is waited for as well: these trainers take a refusal for a failure.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + (query.hold_s if query.hold_s is not None else gives_up_after_s - _MARGIN_S)
    while True:
        try:
            state.quotas.charge(state.quotas.enter(key), len(items))
            break
        except Overloaded as error:
            if error.retry_after is None or loop.time() + error.retry_after > until:
                raise
            await asyncio.sleep(error.retry_after)
    return await state.batcher.score(query.target, items, hold_s=max(0.0, until - loop.time()))


def _json(answer: BaseModel | dict[str, Any] | float) -> Response:
    """As JSON; a NaN, which a caller has asked for, as `NaN`."""
    told = answer.model_dump() if isinstance(answer, BaseModel) else answer
    return Response(to_json(told, inf_nan_mode="constants"), media_type="application/json")
