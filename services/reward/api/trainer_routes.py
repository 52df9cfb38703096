"""Routes in the formats of trainers' own reward servers, each with the kind of failure that its trainer can handle.

The URL's query says what to score the samples as, since the bodies are the trainers'. A trainer that cannot send a
header has the key in its URL: `http://:KEY@host:8700/...`.
"""

import asyncio
import base64
import json
import logging
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.security import HTTPAuthorizationCredentials
from pydantic import BaseModel, Field
from pydantic_core import PydanticSerializationError, to_json
from redis.exceptions import RedisError

from regrade.adapters import nemo_gym, openrlhf, slime
from regrade.contracts import ItemResult as RefusedResult
from regrade.contracts import Scope, ScoreItem
from regrade.items import ItemFields, RefusedItem, read_item, refused_result
from services.kit.errors import Invalid, Overloaded, ServiceError, Unavailable, redis_problem
from services.kit.results import ItemResult
from services.kit.web.server import Credentials, GuardedRoute, error_responses, require_key
from services.reward.api.micro_batching import Target
from services.reward.api.routes import State
from services.reward.api.state import RewardState

log = logging.getLogger(__name__)

Items = Sequence[ItemFields | RefusedItem]
Outcome = ItemResult | RefusedResult
"""The pipeline's result, or that of a sample that cannot be scored and did not reach it."""

_MARGIN_S = 15.0
"""Subtracted from a trainer's time limit, for the network and for a slow last answer of the judge."""


class TrainerQuery(Target):
    """The query of a trainer's URL."""

    scope: Scope | None = None
    hold_s: Annotated[float | None, Field(ge=1, le=3_600)] = None
    """Seconds for which a sample is retried while the judge or Redis is unavailable; default: the trainer's limit."""

    @property
    def target(self) -> Target:
        """What the samples of one batch share."""
        return Target(task=self.task, run=self.run, mode=self.mode, lineage=self.lineage, purpose=self.purpose)


class FilteredQuery(TrainerQuery):
    """The query of a trainer that can leave out groups."""

    unscored: Literal["error", "nan"] = "error"
    """`nan` returns NaN for a sample that cannot be scored, so that the trainer leaves out its group."""


class SlimeQuery(FilteredQuery):
    """The query of slime and miles."""

    reply: Literal["float", "dict"] = "float"
    """`dict` returns an object, for `--reward-key score`."""


class NeMoGymQuery(TrainerQuery):
    """The query of NeMo Gym's `/verify`."""

    unscored: Literal["mask", "error"] = "mask"
    """`mask` returns Gym's failed row, which NeMo-RL masks in the loss; `error` an error, which ends a NeMo-RL step."""


async def _trainer_key(request: Request, credentials: Credentials) -> str:
    """The caller's key, from the header or the URL, once it is verified; empty where no key is configured."""
    credentials = credentials or _basic_credentials(request.headers.get("authorization", ""))
    await require_key(request, credentials)
    return credentials.credentials if credentials else ""


def _basic_credentials(header: str) -> HTTPAuthorizationCredentials | None:
    """The key of a URL: a client sends it as the password, or the name, of Basic authentication."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return None
    return HTTPAuthorizationCredentials(scheme="Bearer", credentials=password or name)


router = APIRouter(
    route_class=GuardedRoute,
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
    """OpenRLHF's `--reward.remote_url`. A sample is retried for 165 s, since five quick failures end the run."""
    results = await _rewards(state, key, query, openrlhf.CLIENT_TIMEOUT_S, openrlhf.to_items(body, query.scope))
    return _json(openrlhf.to_response(results))


@router.post("/slime", response_model=float | dict[str, float])
async def slime_reward(
    body: slime.SlimeRequest, query: Annotated[SlimeQuery, Query()], state: State, key: Key
) -> Response:
    """slime's and miles' `--rm-url`. A sample is retried for 105 s; for miles, which waits longer, set `hold_s=285`."""
    (result,) = await _rewards(state, key, query, slime.CLIENT_TIMEOUT_S, [slime.to_item(body, query.scope)])
    return _json(slime.to_float(result) if query.reply == "float" else slime.to_object(result))


@router.post("/nemo-gym/verify", response_model=nemo_gym.VerifyResponse)
async def nemo_gym_verify(
    body: nemo_gym.VerifyRequest, query: Annotated[NeMoGymQuery, Query()], state: State, key: Key
) -> Response:
    """NeMo Gym's `/verify`. A failure of the judge is a 200 with reward 0.0, a failure class and `mask_sample`."""
    item = nemo_gym.to_item(body, query.scope)
    try:
        (result,) = await _score(state, key, query, nemo_gym.CLIENT_TIMEOUT_S, [item])
    except (Unavailable, Overloaded) as error:
        if query.unscored == "error":
            raise
        return _json(nemo_gym.failure_row(body, f"{error.code}: {error.detail}"))
    except RedisError as error:
        if query.unscored == "error":
            raise
        problem = redis_problem(error)
        return _json(nemo_gym.failure_row(body, f"{problem.code}: {problem.detail}"))
    if result.reward is None:
        assert result.error is not None
        if query.unscored == "error":
            raise _missing(result)
        return _json(nemo_gym.failure_row(body, f"{result.error.code}: {result.error.message}"))
    components = {entry.id: entry.score for entry in result.criteria if entry.score is not None}
    return _json(nemo_gym.to_row(body, result, components))


@router.post("/nemo-gym/compare", response_model=nemo_gym.CompareResponse)
async def nemo_gym_compare(
    body: nemo_gym.CompareRequest, query: Annotated[TrainerQuery, Query()], state: State, key: Key
) -> Response:
    """NeMo Gym's `/compare`: the rewards of a group; an error if one of them is missing."""
    results = await _rewards(state, key, query, nemo_gym.CLIENT_TIMEOUT_S, nemo_gym.to_items(body, query.scope))
    return _json(nemo_gym.to_comparison(results))


async def _rewards(
    state: RewardState, key: str, query: TrainerQuery, time_limit_s: float, items: Items
) -> list[Outcome]:
    """Results with rewards; without, where the query asks for NaN. Raises `ServiceError` for a missing reward."""
    try:
        results = await _score(state, key, query, time_limit_s, items)
    except ServiceError as error:
        if not isinstance(error, Unavailable | Overloaded):  # these trainers do not show the error's text
            log.warning("a trainer's sample was not scored", extra={"task": query.task, "kind": error.code})
        raise
    missing = next((result for result in results if result.reward is None), None)
    if missing is not None and not (isinstance(query, FilteredQuery) and query.unscored == "nan"):
        raise _missing(missing)
    return results


def _missing(result: Outcome) -> ServiceError:
    """503 where a retry may give a reward, else 422."""
    assert result.error is not None
    kind = Unavailable if result.error.retryable else Invalid
    return kind(result.error.message, code=result.error.code)


async def _score(state: RewardState, key: str, query: TrainerQuery, time_limit_s: float, items: Items) -> list[Outcome]:
    """One result an item. Raises `ServiceError` when retries until shortly before the time limit have not helped.

    A tenant over budget waits as well, because these trainers take a refusal for a failure.
    """
    read = [read_item(item) for item in items]
    valid = [item for item in read if isinstance(item, ScoreItem)]
    size = sum(len(item.model_dump_json().encode()) for item in valid)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (query.hold_s if query.hold_s is not None else time_limit_s - _MARGIN_S)
    while True:
        try:
            state.quotas.charge_items(state.quotas.admit_request(key), len(items), size)
            break
        except Overloaded as error:
            if error.retry_after is None or loop.time() + error.retry_after > deadline:
                raise
            await asyncio.sleep(error.retry_after)
    scored = iter(await state.batcher.score(query.target, valid, hold_s=max(0.0, deadline - loop.time())))
    return [_refused(item, query) if isinstance(item, RefusedItem) else next(scored) for item in read]


def _refused(item: RefusedItem, query: TrainerQuery) -> Outcome:
    log.warning("a trainer's sample cannot be scored", extra={"task": query.task, "detail": item.message})
    return refused_result(item, query.lineage)


def _json(content: BaseModel | dict[str, Any] | float) -> Response:
    """As JSON, in which NaN is written `NaN`, and half of a surrogate pair, which a row may hold, as an escape."""
    value = content.model_dump() if isinstance(content, BaseModel) else content
    try:
        encoded = to_json(value, inf_nan_mode="constants")
    except PydanticSerializationError:
        encoded = json.dumps(value).encode()
    return Response(encoded, media_type="application/json")
