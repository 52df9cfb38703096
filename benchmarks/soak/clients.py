"""The callers: each sends one request after the other, and retries at the other replica when one fails."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import aiohttp

from benchmarks.soak.answer_log import AnswerLog
from benchmarks.soak.processes import RestartableProcess, SoakStack
from benchmarks.soak.traffic import TASKS, PlannedRequest, Traffic, rubric_of
from regrade import RegradeError, RewardClient
from regrade.backoff import backoff_s

_PATIENCE_S = 90.0
_CLIENT_PATIENCE_S = 2.0
_REQUEST_S = 60.0
_LONGEST_PAUSE_S = 1.0
_ACTIVATE_EVERY_S = 5.0
_JSON = {"Content-Type": "application/json"}


class Clients:
    """`lanes` concurrent callers; after `stop`, each finishes its current request."""

    def __init__(self, stack: SoakStack, answers: AnswerLog, traffic: Traffic, *, lanes: int) -> None:
        self._stack = stack
        self._answers = answers
        self._traffic = traffic
        self._lanes = lanes
        self._stopping = asyncio.Event()
        self._rng = random.Random(lanes)
        self.kills = 0
        """Kills and restarts of a replica: `RewardClient` does not report answers that it lost in between."""
        self.activations = 0
        self.served_at = {replica.name: 0.0 for replica in stack.replicas}
        """When the last request was sent that each replica answered from Redis (`time.monotonic`)."""

    def begin_epoch(self) -> None:
        """Redis is about to be emptied."""
        self._answers.epoch += 1

    def give_up_waiting(self) -> None:
        """A replica has not answered from Redis within the limit."""
        self._answers.violations.add("service is back within 10 s of another primary", self.served_at)

    async def run(self) -> None:
        """Runs until stopped."""
        timeout = aiohttp.ClientTimeout(total=_REQUEST_S)
        async with contextlib.AsyncExitStack() as stack:
            connector = aiohttp.TCPConnector(limit=0)
            http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=timeout))
            library = [
                await stack.enter_async_context(
                    RewardClient(replica.url, timeout_s=_REQUEST_S, patience_s=_CLIENT_PATIENCE_S)
                )
                for replica in self._stack.replicas
            ]
            await self._bootstrap(http)
            activator = asyncio.create_task(self._activate(http))
            await asyncio.gather(*(self._run_caller(http, library) for _ in range(self._lanes)))
            await activator

    def stop(self) -> None:
        """Send no further requests."""
        self._stopping.set()

    async def _run_caller(self, http: aiohttp.ClientSession, library: Sequence[RewardClient]) -> None:
        while not self._stopping.is_set():
            planned = self._traffic.next()
            self._answers.requests[planned.kind] += 1
            if planned.kind == "client":
                await self._by_library(library, planned)
            elif planned.kind == "duplicate":
                await asyncio.gather(*(self._send(http, planned, n) for n in range(len(self._stack.replicas))))
            else:
                await self._send(http, planned, self._rng.randrange(len(self._stack.replicas)))

    async def _send(self, http: aiohttp.ClientSession, planned: PlannedRequest, first: int) -> None:
        """Send to the replicas in turn, with the same ids, until all items have a reward."""
        deadline = time.monotonic() + _PATIENCE_S
        tries = 0
        while not await self._try(http, planned, self._stack.replicas[(first + tries) % 2], first_try=tries == 0):
            tries += 1
            if time.monotonic() > deadline:
                self._answers.violations.add("every request is answered after retries", planned.kind)
                return
            await asyncio.sleep(backoff_s(tries, first_s=0.2, max_s=_LONGEST_PAUSE_S))

    async def _try(
        self, http: aiohttp.ClientSession, planned: PlannedRequest, replica: RestartableProcess, *, first_try: bool
    ) -> bool:
        """One request; whether no retry is needed."""
        self._answers.record_request(planned.keys, planned.pins)
        began, sent, epoch = time.perf_counter(), time.monotonic(), self._answers.epoch
        headers = _JSON | (planned.headers if first_try else {})
        try:
            async with http.post(replica.url + planned.path, data=planned.body, headers=headers) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self._answers.statuses[type(error).__name__] += 1
            self._answers.record_lost(planned.keys)
            return False
        self._answers.record_status(response.status, body[:200])
        if planned.expected_status is not None and response.status not in (429, 503):
            self._check_refusal(planned, response.status, body)
            return True
        if response.status != 200:
            return self._check_retryable(planned, response, body)
        if not (first_try and planned.headers):
            self._answers.record_latency(time.perf_counter() - began, planned.kind)
        answer = json.loads(body)
        self._answers.record_answer(planned.keys, self._comparable(planned.pins, epoch), answer)
        if planned.keys and not answer["degraded"]:
            self.served_at[replica.name] = max(sent, self.served_at[replica.name])
        return all(result["reward"] is not None for result in answer["results"])

    def _comparable(self, pins: Sequence[str], epoch: int) -> Sequence[str]:
        """The pins of a request that was sent in `epoch`; none if Redis was emptied before the answer."""
        return pins if epoch == self._answers.epoch else [""] * len(pins)

    def _check_refusal(self, planned: PlannedRequest, status: int, body: bytes) -> None:
        decoded = json.loads(body)
        if status != planned.expected_status or set(decoded) != {"error", "detail"}:
            self._answers.violations.add(
                "an invalid request gets an error text", f"{status}: {body[:100]!r} {planned.body[:80]!r}"
            )

    def _check_retryable(self, planned: PlannedRequest, response: aiohttp.ClientResponse, body: bytes) -> bool:
        if response.status not in (429, 503):
            self._answers.violations.add(
                "a valid request is answered 200", f"{planned.kind} {response.status}: {body[:200]!r}"
            )
            return True
        if "Retry-After" not in response.headers:
            self._answers.violations.add("429 and 503 have Retry-After", body[:200])
        return False

    async def _by_library(self, library: Sequence[RewardClient], planned: PlannedRequest) -> None:
        """The same with `RewardClient`, which retries by itself; when it gives up, at the other replica."""
        deadline = time.monotonic() + _PATIENCE_S
        first, tries = self._rng.randrange(len(library)), 0
        request = planned.request
        options = {name: value for name, value in request.items() if name not in ("task", "items")}
        while time.monotonic() < deadline:
            self._answers.record_request(planned.keys, planned.pins)
            began, kills, epoch = time.perf_counter(), self.kills, self._answers.epoch
            try:
                answer = await library[(first + tries) % 2].score(request["task"], request["items"], **options)
            except RegradeError as error:
                self._answers.statuses[f"RewardClient {type(error).__name__}"] += 1
                self._answers.record_lost(planned.keys)
            else:
                if self.kills != kills:
                    self._answers.record_lost(planned.keys)
                self._answers.statuses["RewardClient answered"] += 1
                self._answers.record_latency(time.perf_counter() - began, planned.kind)
                decoded: dict[str, Any] = answer.model_dump(mode="json")
                self._answers.record_answer(planned.keys, self._comparable(planned.pins, epoch), decoded)
                if all(result.reward is not None for result in answer.results):
                    return
            tries += 1
            await asyncio.sleep(self._rng.uniform(0.1, 0.5))
        self._answers.violations.add("every request is answered after retries", planned.kind)

    async def _activate(self, http: aiohttp.ClientSession) -> None:
        """Activate a new rubric every few seconds, for each task in turn, at a random replica."""
        number = 0
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _ACTIVATE_EVERY_S)
            number += 1
            task = list(TASKS)[number % len(TASKS)]
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                self.activations += await self._put(http, self._rng.choice(self._stack.replicas), task, f"no. {number}")

    async def _bootstrap(self, http: aiohttp.ClientSession) -> None:
        """Activate the first rubric of each task."""
        for task in TASKS:
            if not await self._put(http, self._stack.replicas[0], task, "first"):
                raise RuntimeError(f"no rubric could be activated for {task}")

    async def _put(self, http: aiohttp.ClientSession, replica: RestartableProcess, task: str, wording: str) -> bool:
        body = {"rubric": rubric_of(task, wording), "by": "soak", "reason": "another one"}
        async with http.put(f"{replica.url}/rubrics/{task}", json=body) as response:
            self._answers.record_status(response.status, await response.read())
            return response.status == 200
