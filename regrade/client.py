"""The client of both services: `RewardClient` for asyncio, and `BlockingRewardClient` for code without an event loop.

A retry repeats the item ids of the first try, so the service answers it from what it stored: the judge is billed once
and the item has one trace.
"""

import asyncio
import functools
import os
import uuid
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Concatenate, ParamSpec, Self, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from regrade.contracts import (
    MAIN_LINEAGE,
    ActiveRubric,
    ErrorCode,
    Purpose,
    PutRubric,
    Rubric,
    ScoreItem,
    ScoreRequest,
    ScoreResponse,
    Usage,
)
from regrade.contracts.score import MAX_BODY_BYTES, MAX_ITEMS
from regrade.errors import RequestError, ServiceUnavailableError, TooLargeError
from regrade.items import ItemFields, RefusedItem, read_item, refused_result
from regrade.loop_thread import LoopThread
from regrade.transport import RetryBudget, Transport

DEFAULT_URL = "http://127.0.0.1:8700"

_REMEMBERED_STEPS = 256
"""A trainer works on a few steps at a time; 256 leaves room for several runs that share one client."""
_PIN_BYTES = 128
"""Room in a body for the digest of the step's rubric."""

P = ParamSpec("P")
T = TypeVar("T")
_SCORE_RESPONSE = TypeAdapter(ScoreResponse)

StepKey = tuple[str, str, str, int]
"""Task, lineage, run and step."""


class RewardClient:
    """Client of the service at `url` (default: `REGRADE_URL`) with API key `key` (default: `REGRADE_KEY`).

    `timeout_s` limits one request. The service gets this limit too, and returns what is judged by then.
    `patience_s` limits one call with its retries, which wait longer each time, with jitter, and honour `Retry-After`.
    Items without a reward because the judge was unavailable are sent again within that time. Raises `RequestError`
    where a retry cannot help, `ServiceUnavailableError` when the time is over, and `ConfigurationError` where URL, key,
    proxy or certificate cannot work.

    Later calls of a training step name the rubric that scored the step's first call, so that a replica which has lost
    its Redis can use the same one. A proxy comes from the environment, as in httpx, but an address of this machine is
    always reached directly.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        timeout_s: float = 300.0,
        patience_s: float = 120.0,
    ) -> None:
        key = key if key is not None else os.environ.get("REGRADE_KEY", "")
        url = url or os.environ.get("REGRADE_URL", DEFAULT_URL)
        self._transport = Transport(url, key, timeout_s=timeout_s, patience_s=patience_s)
        self._max_body_bytes = MAX_BODY_BYTES
        self._step_rubrics = _StepRubrics()

    async def score(
        self, /, task: str, items: Sequence[ScoreItem | ItemFields | RefusedItem], **options: Any
    ) -> ScoreResponse:
        """Score completions: `items` are `ScoreItem`s or their fields, `options` the other fields of `ScoreRequest`.

        An item without an id gets a new one, so a second call scores it again while a retry within a call does not.
        An item whose content cannot be scored has the error `invalid_item`, and the others are scored. Items that are
        more than a request may hold, by number or by size, go in several.
        """
        given = [read_item(item) for item in items]
        valid = [_with_id(item) for item in given if isinstance(item, ScoreItem)]
        refused = {i: item for i, item in enumerate(given) if isinstance(item, RefusedItem)}
        # Of refused items alone, a stand-in makes a request: its other fields are validated all the same.
        first = valid[:1] or [ScoreItem(prompt="-", completion="-")] * bool(refused)
        request = ScoreRequest.model_validate({"task": task, "items": first, **options})
        parts = self._parts(request, valid)
        responses = await asyncio.gather(*(self._score_part(part) for part in parts))
        results = iter([result for response in responses for result in response.results])
        return ScoreResponse(
            results=tuple(
                refused_result(refused[i], request.lineage) if i in refused else next(results)
                for i in range(len(given))
            ),
            usage=Usage.total(response.usage for response in responses),
            degraded=any(response.degraded for response in responses),
        )

    async def shadow(self, task: str, rubric: Rubric, items: Sequence[ScoreItem]) -> ScoreResponse:
        """Score with a candidate rubric: nothing is pinned or traced, and training requests go first."""
        return await self.score(task, items, rubric=rubric, purpose=Purpose.SHADOW, lineage=rubric.lineage)

    async def rubric(
        self,
        task: str,
        *,
        version: int | None = None,
        digest: str | None = None,
        lineage: str = MAIN_LINEAGE,
        scope: str | None = None,
    ) -> Rubric:
        """The rubric with this version or digest, or the active one."""
        fields = {"version": version, "digest": digest, "lineage": lineage, "scope": scope}
        query = {name: value for name, value in fields.items() if value is not None}
        return await self.call("GET", f"/rubrics/{quote(task, safe='')}", Rubric, params=query)

    async def put_rubric(
        self, task: str, rubric: Rubric, *, by: str, reason: str, expected: str | None = None
    ) -> ActiveRubric:
        """Activate a rubric; `by` and `reason` go on record. Raises `PinConflictError` unless `expected` is active."""
        body = PutRubric(rubric=rubric, by=by, reason=reason, expected=expected)
        return await self.call("PUT", f"/rubrics/{quote(task, safe='')}", ActiveRubric, json=body)

    async def call(self, method: str, path: str, answer: type[T], *, json: Any = None, params: Any = None) -> T:
        """Any other route of either service; the response body is validated as `answer`."""
        body = None if json is None else TypeAdapter(Any).dump_json(json).decode()
        return self._parsed(TypeAdapter(answer), await self._transport.send(method, path, body, params=params))

    async def readiness(self) -> dict[str, bool]:
        """Which dependencies of the service are available. Raises `ServiceUnavailableError` without a retry."""
        parts = self._parsed(TypeAdapter(dict[str, Any]), await self._transport.get_once("/readyz"))
        return {name: answers for name, answers in parts.items() if isinstance(answers, bool)}

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    def _parts(self, request: ScoreRequest, items: Sequence[ScoreItem]) -> Iterator[ScoreRequest]:
        """Requests with `items` in order, each within the limits of number and of bytes if it holds several."""
        envelope = len(request.model_copy(update={"items": ()}).model_dump_json().encode()) + _PIN_BYTES
        part: list[ScoreItem] = []
        size = envelope
        for item in items:
            item_size = len(item.model_dump_json().encode()) + 1  # and a comma
            if part and (len(part) == MAX_ITEMS or size + item_size > self._max_body_bytes):
                yield request.model_copy(update={"items": tuple(part)})
                part, size = [], envelope
            part.append(item)
            size += item_size
        if part:
            yield request.model_copy(update={"items": tuple(part)})

    async def _score_part(self, request: ScoreRequest) -> ScoreResponse:
        """The response to one request, which is sent in halves where the service finds it too large."""
        budget = self._transport.retry_budget()
        try:
            response = await self._score(request, budget)
        except TooLargeError as error:
            return await self._score_halves(request, error)
        while (missing := _unjudged(response)) and await budget.wait():
            try:
                retry = request.model_copy(update={"items": tuple(request.items[i] for i in missing)})
                second = await self._score(retry, budget)
            except ServiceUnavailableError:
                break
            response = _merged(response, missing, second)
        return response

    async def _score_halves(self, request: ScoreRequest, error: TooLargeError) -> ScoreResponse:
        size, items = len(request.model_dump_json().encode()), request.items
        self._max_body_bytes = min(self._max_body_bytes, size // 2)
        if len(items) == 1:
            refused = RefusedItem(items[0].id, f"a request of {size} bytes with this item alone: {error}")
            return ScoreResponse(results=(refused_result(refused, request.lineage),), usage=Usage(), degraded=False)
        middle = len(items) // 2
        halves = [request.model_copy(update={"items": half}) for half in (items[:middle], items[middle:])]
        first, second = await asyncio.gather(*map(self._score_part, halves))
        return ScoreResponse(
            results=first.results + second.results,
            usage=Usage.total((first.usage, second.usage)),
            degraded=first.degraded or second.degraded,
        )

    async def _score(self, request: ScoreRequest, budget: RetryBudget) -> ScoreResponse:
        pinned = self._step_rubrics.applied_to(request)
        try:
            body = await self._transport.send("POST", "/score", pinned.model_dump_json(), budget=budget)
        except TooLargeError:
            raise
        except RequestError:
            if pinned is request:
                raise
            self._step_rubrics.forget(request)  # the caller did not choose this rubric, so it must not fail the call
            body = await self._transport.send("POST", "/score", request.model_dump_json(), budget=budget)
        response = self._parsed(_SCORE_RESPONSE, body)
        if len(response.results) != len(request.items):
            raise self._transport.unexpected(body)
        self._step_rubrics.remember(request, response)
        return response

    def _parsed(self, answer: TypeAdapter[T], body: bytes) -> T:
        try:
            return answer.validate_json(body)
        except ValidationError:
            problem = self._transport.unexpected(body)
        raise problem


class _StepRubrics:
    """The digest of the rubric that scored each recent step's first call; None for several rubrics."""

    def __init__(self) -> None:
        self._digests: OrderedDict[StepKey, str | None] = OrderedDict()

    def applied_to(self, request: ScoreRequest) -> ScoreRequest:
        """The request with its step's rubric, if that is known and the caller gave none."""
        step = _step_of(request)
        digest = self._digests.get(step) if step else None
        return request if digest is None else request.model_copy(update={"rubric": digest})

    def remember(self, request: ScoreRequest, response: ScoreResponse) -> None:
        """Keep the rubric of a step's first response."""
        step = _step_of(request)
        if step is None or step in self._digests:
            return
        digests = {result.rubric.digest for result in response.results if result.rubric.digest}
        self._digests[step] = digests.pop() if len(digests) == 1 else None
        if len(self._digests) > _REMEMBERED_STEPS:
            self._digests.popitem(last=False)

    def forget(self, request: ScoreRequest) -> None:
        """Treat the step's next response as its first."""
        if step := _step_of(request):
            self._digests.pop(step, None)


def _step_of(request: ScoreRequest) -> StepKey | None:
    """The step whose items certainly share a pin; None for items with a scope, which may have another rubric."""
    if request.purpose is not Purpose.TRAIN or request.rubric is not None:
        return None
    if request.run is None or request.step is None or any(item.scope is not None for item in request.items):
        return None
    return request.task, request.lineage, request.run, request.step


def _blocking(
    method: Callable[Concatenate[RewardClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["BlockingRewardClient", P], T]:
    """The method of `BlockingRewardClient` that runs `method` and waits for it."""

    @functools.wraps(method)
    def wait(client: "BlockingRewardClient", /, *args: P.args, **options: P.kwargs) -> T:
        return client._thread.submit(method, client._client, *args, **options).result()

    return wait


class BlockingRewardClient:
    """`RewardClient` for code without an event loop: same arguments and methods; each method returns its result."""

    def __init__(self, url: str | None = None, **options: Any) -> None:
        self._client = RewardClient(url, **options)  # first, since it may refuse its arguments
        self._thread = LoopThread("regrade-client")

    score = _blocking(RewardClient.score)
    shadow = _blocking(RewardClient.shadow)
    rubric = _blocking(RewardClient.rubric)
    put_rubric = _blocking(RewardClient.put_rubric)
    call = _blocking(RewardClient.call)
    readiness = _blocking(RewardClient.readiness)

    def close(self) -> None:
        """Close the connections and end the thread."""
        self._thread.close(self._client.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _with_id(item: ScoreItem) -> ScoreItem:
    return item if item.id is not None else item.model_copy(update={"id": uuid.uuid4().hex})


def _unjudged(response: ScoreResponse) -> list[int]:
    """The indices of the results that only lack an available judge."""
    errors = [result.error for result in response.results]
    return [i for i, error in enumerate(errors) if error is not None and error.code is ErrorCode.JUDGE_UNAVAILABLE]


def _merged(response: ScoreResponse, indices: Sequence[int], retried: ScoreResponse) -> ScoreResponse:
    """`response` with the results of `retried` at `indices`, and the usage of both."""
    replaced = dict(zip(indices, retried.results, strict=True))
    return ScoreResponse(
        results=tuple(replaced.get(i, result) for i, result in enumerate(response.results)),
        usage=Usage.total((response.usage, retried.usage)),
        degraded=response.degraded or retried.degraded,
    )
