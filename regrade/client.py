"""The client of both services: `RewardClient` for asyncio, and `BlockingRewardClient` for code without an event loop.

A retry repeats the item ids of the first try, so the service answers it from what it stored: the judge is billed once
and the item has one trace.
"""

import asyncio
import functools
import os
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter

from regrade.backoff import backoff_s
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
from regrade.contracts.score import MAX_ITEMS
from regrade.errors import AccessError, PinConflictError, RegradeError, RequestError, ServiceUnavailableError
from regrade.loop_thread import LoopThread

DEFAULT_URL = "http://127.0.0.1:8700"

_RETRIED_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 30.0
_SERVICE_TIMEOUT_SHARE = 0.9
"""The share of `timeout_s` that the service may use; the rest is for the network in both directions."""
_REMEMBERED_STEPS = 256
"""A trainer works on a few steps at a time; 256 leaves room for several runs that share one client."""

P = ParamSpec("P")
T = TypeVar("T")
StepKey = tuple[str, str, str, int]
"""Task, lineage, run and step."""


class RewardClient:
    """Client of the service at `url` (default: `REGRADE_URL`) with API key `key` (default: `REGRADE_KEY`).

    `timeout_s` limits one request. The service gets this limit too, and returns what is judged by then.
    `patience_s` limits one call with its retries, which wait longer each time, with jitter, and honour `Retry-After`.
    Items without a reward because the judge was unavailable are sent again within that time. Raises `RequestError`
    where a retry cannot help, `ServiceUnavailableError` when the time is over.

    Later calls of a training step name the rubric that scored the step's first call, so that a replica which has lost
    its Redis can use the same one.
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
        self._http = httpx.AsyncClient(
            base_url=url or os.environ.get("REGRADE_URL", DEFAULT_URL),
            headers={
                "Content-Type": "application/json",
                "Regrade-Timeout-S": f"{_SERVICE_TIMEOUT_SHARE * timeout_s:.3f}",
                **({"Authorization": f"Bearer {key}"} if key else {}),
            },
            timeout=httpx.Timeout(timeout_s, connect=5.0),
        )
        self._patience_s = patience_s
        self._step_rubrics = _StepRubrics()

    async def score(
        self, /, task: str, items: Sequence[ScoreItem | Mapping[str, Any]], **options: Any
    ) -> ScoreResponse:
        """Score completions: `items` are `ScoreItem`s or their fields, `options` the other fields of `ScoreRequest`.

        An item without an id gets a new one, so a second call scores it again while a retry within a call does not.
        More than `MAX_ITEMS` items go in several requests.
        """
        identified = [_with_id(item) for item in items]
        if len(identified) > MAX_ITEMS:
            chunks = [identified[start : start + MAX_ITEMS] for start in range(0, len(identified), MAX_ITEMS)]
            return _concatenated(await asyncio.gather(*(self.score(task, chunk, **options) for chunk in chunks)))
        request = ScoreRequest.model_validate({"task": task, "items": identified, **options})
        budget = _RetryBudget(self._patience_s)
        response = await self._score(request, budget)
        while (missing := _unjudged(response)) and await budget.wait():
            try:
                retry = request.model_copy(update={"items": tuple(identified[i] for i in missing)})
                second = await self._score(retry, budget)
            except ServiceUnavailableError:
                break
            response = _merged(response, missing, second)
        return response

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
        return Rubric.model_validate_json(await self._send("GET", f"/rubrics/{quote(task, safe='')}", params=query))

    async def put_rubric(
        self, task: str, rubric: Rubric, *, by: str, reason: str, expected: str | None = None
    ) -> ActiveRubric:
        """Activate a rubric; `by` and `reason` go on record. Raises `PinConflictError` unless `expected` is active."""
        body = PutRubric(rubric=rubric, by=by, reason=reason, expected=expected)
        return await self.call("PUT", f"/rubrics/{quote(task, safe='')}", ActiveRubric, json=body)

    async def call(self, method: str, path: str, answer: type[T], *, json: Any = None, params: Any = None) -> T:
        """Any other route of either service; the response body is validated as `answer`."""
        body = None if json is None else TypeAdapter(Any).dump_json(json).decode()
        return TypeAdapter(answer).validate_json(await self._send(method, path, body, params=params))

    async def readiness(self) -> dict[str, bool]:
        """Which dependencies of the service are available. Raises `ServiceUnavailableError` without a retry."""
        try:
            response = await self._http.get("/readyz")
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        return TypeAdapter(dict[str, bool]).validate_json(response.content)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def _score(self, request: ScoreRequest, budget: "_RetryBudget") -> ScoreResponse:
        pinned = self._step_rubrics.applied_to(request)
        try:
            body = await self._send("POST", "/score", pinned.model_dump_json(), budget=budget)
        except RequestError:
            if pinned is request:
                raise
            self._step_rubrics.forget(request)  # the caller did not choose this rubric, so it must not fail the call
            body = await self._send("POST", "/score", request.model_dump_json(), budget=budget)
        response = ScoreResponse.model_validate_json(body)
        self._step_rubrics.remember(request, response)
        return response

    async def _send(
        self,
        method: str,
        path: str,
        body: str | None = None,
        *,
        params: Any = None,
        budget: "_RetryBudget | None" = None,
    ) -> bytes:
        budget = budget or _RetryBudget(self._patience_s)
        while True:
            retry_after_s = 0.0
            try:
                response = await self._http.request(method, path, content=body, params=params)
            except httpx.TransportError as error:
                problem = self._unreachable(error)
            else:
                if response.is_success:
                    return response.content
                problem = _error_of(response)
                if response.status_code not in _RETRIED_STATUS:
                    raise problem
                retry_after_s = _retry_after_s(response)
            if not await budget.wait(retry_after_s):
                raise problem

    def _unreachable(self, error: httpx.TransportError) -> RegradeError:
        return ServiceUnavailableError("unreachable", f"{self._http.base_url}: {error!r}")


class _RetryBudget:
    """The retries of one call: growing, jittered waits until `seconds` have passed."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._failures = 0

    async def wait(self, at_least_s: float = 0.0) -> bool:
        """Wait before the next try; False at once if the time would be over by then."""
        self._failures += 1
        pause = max(at_least_s, backoff_s(self._failures, first_s=_FIRST_WAIT_S, max_s=_LONGEST_WAIT_S))
        if time.monotonic() + pause > self._deadline:
            return False
        await asyncio.sleep(pause)
        return True


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
        digests = {result.rubric.digest for result in response.results}
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
        self._thread = LoopThread("regrade-client")
        self._client = RewardClient(url, **options)

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


def _with_id(item: ScoreItem | Mapping[str, Any]) -> ScoreItem:
    item = ScoreItem.model_validate(item)
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


def _concatenated(responses: Sequence[ScoreResponse]) -> ScoreResponse:
    return ScoreResponse(
        results=tuple(result for response in responses for result in response.results),
        usage=Usage.total(response.usage for response in responses),
        degraded=any(response.degraded for response in responses),
    )


def _error_of(response: httpx.Response) -> RegradeError:
    try:
        body = response.json()
        code, detail = str(body["error"]), str(body["detail"])
    except (ValueError, KeyError, TypeError):
        code, detail = f"http_{response.status_code}", response.text[:300]
    if response.status_code in _RETRIED_STATUS:
        return ServiceUnavailableError(code, detail)
    kinds = {401: AccessError, 403: AccessError, 409: PinConflictError}
    return kinds.get(response.status_code, RequestError)(code, detail)


def _retry_after_s(response: httpx.Response) -> float:
    try:
        return min(_LONGEST_WAIT_S, max(0.0, float(response.headers.get("Retry-After", 0.0))))
    except ValueError:
        return 0.0
