"""The client of the two services: `RewardClient`, and `BlockingRewardClient`, the same behind a thread of its own.

Retries repeat the very same item ids, so a retry is answered from what was stored: it bills no judge
and leaves no second trace.
"""

import asyncio
import os
import random
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter

from regrade.contracts import (
    MAIN_LINEAGE,
    ErrorCode,
    Purpose,
    PutRubric,
    PutRubricAnswer,
    Rubric,
    ScoreItem,
    ScoreRequest,
    ScoreResponse,
    Usage,
)
from regrade.contracts.score import MAX_ITEMS
from regrade.errors import AccessError, PinConflictError, RegradeError, RequestError, ServiceUnavailableError

DEFAULT_URL = "http://127.0.0.1:8700"

_RETRIED_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_WAIT_S = 30.0
_SERVICES_SHARE = 0.9
"""Of a request's time; the rest is for the way there and back."""
_STEPS_REMEMBERED = 256
_NO_STEP = ("", "", "", -1)

T = TypeVar("T")


class RewardClient:
    """Talks to the reward service at `url` (default: `REGRADE_URL`), with key `key` (default: `REGRADE_KEY`).

    One request may take `timeout_s`; the service is told, so that what is judged by then is not lost.
    A call is tried until `patience_s` has passed, with growing, jittered waits that honour
    `Retry-After`; items that the judge was away for are asked for again meanwhile. Raises
    `RequestError` for what asking again cannot mend, `ServiceUnavailableError` else.

    The later calls of a training step name the rubric of the step's first answer, so that a replica
    that has lost its Redis can stay with it.
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
            headers={"Regrade-Timeout-S": f"{_SERVICES_SHARE * timeout_s:.3f}"}
            | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=httpx.Timeout(timeout_s, connect=5.0),
        )
        self._patience_s = patience_s
        self._steps = _StepRubrics()

    async def score(self, task: str, items: Sequence[ScoreItem | Mapping[str, Any]], **options: Any) -> ScoreResponse:
        """Score completions. `items` are `ScoreItem`s or their fields; `options` are `ScoreRequest`'s other fields.

        An item without an id gets a fresh one: calling `score` again scores again, a retry inside does not. More
        items than a request may hold go in several.
        """
        named = [_with_id(item) for item in items]
        if len(named) > MAX_ITEMS:
            parts = [named[start : start + MAX_ITEMS] for start in range(0, len(named), MAX_ITEMS)]
            return _joined(await asyncio.gather(*(self.score(task, part, **options) for part in parts)))
        request = ScoreRequest.model_validate({"task": task, "items": named, **options})
        patience = _Patience(self._patience_s)
        response = await self._score(request, patience)
        while (missed := _missed(response)) and await patience.wait():
            try:
                repeated = request.model_copy(update={"items": tuple(named[i] for i in missed)})
                again = await self._score(repeated, patience)
            except ServiceUnavailableError:
                break
            response = _merged(response, missed, again)
        return response

    async def shadow(self, task: str, rubric: Rubric, items: Sequence[ScoreItem]) -> ScoreResponse:
        """Score by a candidate rubric: nothing is pinned or traced, and training goes first."""
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
        """The active rubric, or the one of a version or digest."""
        wanted = {"version": version, "digest": digest, "lineage": lineage, "scope": scope}
        query = {name: value for name, value in wanted.items() if value is not None}
        return Rubric.model_validate_json(await self._send("GET", f"/rubrics/{quote(task, safe='')}", params=query))

    async def put_rubric(
        self, task: str, rubric: Rubric, *, by: str, reason: str, expected: str | None = None
    ) -> PutRubricAnswer:
        """Make a rubric active, on record as yours."""
        body = PutRubric(rubric=rubric, by=by, reason=reason, expected=expected)
        return PutRubricAnswer.model_validate_json(
            await self._send("PUT", f"/rubrics/{quote(task, safe='')}", body.model_dump_json())
        )

    async def call(self, method: str, path: str, answer: type[T], *, json: Any = None, params: Any = None) -> T:
        """Any other route of either service, its answer validated as `answer`."""
        body = None if json is None else TypeAdapter(Any).dump_json(json).decode()
        return TypeAdapter(answer).validate_json(await self._send(method, path, body, params=params))

    async def readiness(self) -> dict[str, bool]:
        """What a service needs, and whether it answers. Raises `ServiceUnavailableError` when the service does not."""
        try:
            response = await self._http.get("/readyz")
        except httpx.TransportError as error:
            raise ServiceUnavailableError("unreachable", f"{self._http.base_url}: {error!r}") from error
        return TypeAdapter(dict[str, bool]).validate_json(response.content)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _score(self, request: ScoreRequest, patience: "_Patience") -> ScoreResponse:
        named = self._steps.named(request)
        try:
            body = await self._send("POST", "/score", named.model_dump_json(), patience=patience)
        except RequestError:
            if named is request:
                raise
            self._steps.forget(request)  # a name the caller did not choose must not fail the call
            body = await self._send("POST", "/score", request.model_dump_json(), patience=patience)
        response = ScoreResponse.model_validate_json(body)
        self._steps.note(request, response)
        return response

    async def _send(
        self,
        method: str,
        path: str,
        body: str | None = None,
        *,
        params: Any = None,
        patience: "_Patience | None" = None,
    ) -> bytes:
        patience = patience or _Patience(self._patience_s)
        while True:
            try:
                response = await self._http.request(
                    method, path, content=body, params=params, headers={"Content-Type": "application/json"}
                )
            except httpx.TransportError as error:
                problem: RegradeError = ServiceUnavailableError("unreachable", f"{self._http.base_url}: {error!r}")
                asked_to_wait = 0.0
            else:
                if response.is_success:
                    return response.content
                problem = _error_of(response)
                if response.status_code not in _RETRIED_STATUS:
                    raise problem
                asked_to_wait = _retry_after(response)
            if not await patience.wait(asked_to_wait):
                raise problem


class _Patience:
    """How long one call still tries: growing, jittered waits until `seconds` have passed."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._next_s = 0.25

    async def wait(self, at_least_s: float = 0.0) -> bool:
        """Wait until the next try is due; False at once when it would come too late."""
        pause = max(at_least_s, self._next_s * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        if time.monotonic() + pause > self._deadline:
            return False
        await asyncio.sleep(pause)
        self._next_s = min(_LONGEST_WAIT_S, 2 * self._next_s)
        return True


class _StepRubrics:
    """The rubric that each step's first answer came from, for the steps seen last."""

    def __init__(self) -> None:
        self._digests: OrderedDict[tuple[str, str, str, int], str | None] = OrderedDict()

    def named(self, request: ScoreRequest) -> ScoreRequest:
        """The request, naming its step's rubric where that is known and the caller named none."""
        digest = self._digests.get(_step_of(request) or _NO_STEP)
        return request if digest is None else request.model_copy(update={"rubric": digest})

    def note(self, request: ScoreRequest, response: ScoreResponse) -> None:
        """Remember the first answer of a step; one by several rubrics names none."""
        step = _step_of(request)
        if step is None or step in self._digests:
            return
        digests = {result.rubric.digest for result in response.results}
        self._digests[step] = digests.pop() if len(digests) == 1 else None
        if len(self._digests) > _STEPS_REMEMBERED:
            self._digests.popitem(last=False)

    def forget(self, request: ScoreRequest) -> None:
        """Take the step's next answer for its first."""
        self._digests.pop(_step_of(request) or _NO_STEP, None)


def _step_of(request: ScoreRequest) -> tuple[str, str, str, int] | None:
    """What shares a pin for certain: a training step's items without a scope of their own, by whatever is pinned."""
    if request.purpose is not Purpose.TRAIN or request.rubric is not None:
        return None
    if request.run is None or request.step is None or any(item.scope is not None for item in request.items):
        return None
    return request.task, request.lineage, request.run, request.step


class BlockingRewardClient:
    """`RewardClient` for code without an event loop: same arguments, same methods, each waits for its answer."""

    def __init__(self, url: str | None = None, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="regrade-client", daemon=True)
        self._thread.start()
        self._client = RewardClient(url, **options)

    def score(self, task: str, items: Sequence[ScoreItem | Mapping[str, Any]], **options: Any) -> ScoreResponse:
        """See `RewardClient.score`."""
        return self._wait(self._client.score(task, items, **options))

    def shadow(self, task: str, rubric: Rubric, items: Sequence[ScoreItem]) -> ScoreResponse:
        """See `RewardClient.shadow`."""
        return self._wait(self._client.shadow(task, rubric, items))

    def rubric(self, task: str, **which: Any) -> Rubric:
        """See `RewardClient.rubric`."""
        return self._wait(self._client.rubric(task, **which))

    def put_rubric(self, task: str, rubric: Rubric, **why: Any) -> PutRubricAnswer:
        """See `RewardClient.put_rubric`."""
        return self._wait(self._client.put_rubric(task, rubric, **why))

    def call(self, method: str, path: str, answer: type[T], **options: Any) -> T:
        """See `RewardClient.call`."""
        return self._wait(self._client.call(method, path, answer, **options))

    def readiness(self) -> dict[str, bool]:
        """See `RewardClient.readiness`."""
        return self._wait(self._client.readiness())

    def close(self) -> None:
        """Close the connections and end the thread."""
        if self._loop.is_closed():
            return
        self._wait(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self, answer: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(answer, self._loop).result()


def _with_id(item: ScoreItem | Mapping[str, Any]) -> ScoreItem:
    item = ScoreItem.model_validate(item)
    return item if item.id is not None else item.model_copy(update={"id": uuid.uuid4().hex})


def _missed(response: ScoreResponse) -> list[int]:
    """The results that want nothing but a judge that answers."""
    errors = [result.error for result in response.results]
    return [i for i, error in enumerate(errors) if error is not None and error.code is ErrorCode.JUDGE_UNAVAILABLE]


def _merged(response: ScoreResponse, places: Sequence[int], again: ScoreResponse) -> ScoreResponse:
    """`response` with the results of `again` in their places, and what both were billed."""
    replaced = dict(zip(places, again.results, strict=True))
    return ScoreResponse(
        results=tuple(replaced.get(i, result) for i, result in enumerate(response.results)),
        usage=Usage.total((response.usage, again.usage)),
        degraded=response.degraded or again.degraded,
    )


def _joined(parts: Sequence[ScoreResponse]) -> ScoreResponse:
    """One answer of several, in order."""
    return ScoreResponse(
        results=tuple(result for part in parts for result in part.results),
        usage=Usage.total(part.usage for part in parts),
        degraded=any(part.degraded for part in parts),
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


def _retry_after(response: httpx.Response) -> float:
    try:
        return min(_LONGEST_WAIT_S, max(0.0, float(response.headers.get("Retry-After", 0.0))))
    except ValueError:
        return 0.0
