"""The callers: lanes that send one order after the other, go to the other replica when one fails, and ask again."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import aiohttp

from benchmarks.soak.answer_log import Book
from benchmarks.soak.processes import Part, Parts
from benchmarks.soak.traffic import TASKS, Order, Traffic, rubric_of
from regrade import RegradeError, RewardClient
from regrade.backoff import backoff_s

_PATIENCE_S = 90.0
_CLIENT_PATIENCE_S = 2.0
_REQUEST_S = 60.0
_LONGEST_PAUSE_S = 1.0
_ACTIVATE_EVERY_S = 5.0
_JSON = {"Content-Type": "application/json"}


class Clients:
    """`lanes` callers at once; `stop` lets each finish what it has begun."""

    def __init__(self, parts: Parts, book: Book, traffic: Traffic, *, lanes: int) -> None:
        self._parts = parts
        self._book = book
        self._traffic = traffic
        self._lanes = lanes
        self._stopping = asyncio.Event()
        self._rng = random.Random(lanes)
        self.kills = 0
        """How often a replica was killed: what a call lost meanwhile, the client does not tell."""
        self.activations = 0

    async def run(self) -> None:
        """Until stopped."""
        timeout = aiohttp.ClientTimeout(total=_REQUEST_S)
        async with contextlib.AsyncExitStack() as stack:
            connector = aiohttp.TCPConnector(limit=0)
            http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=timeout))
            library = [
                await stack.enter_async_context(
                    RewardClient(part.url, timeout_s=_REQUEST_S, patience_s=_CLIENT_PATIENCE_S)
                )
                for part in self._parts.replicas
            ]
            await self._bootstrap(http)
            activator = asyncio.create_task(self._activate(http))
            await asyncio.gather(*(self._lane(http, library) for _ in range(self._lanes)))
            await activator

    def stop(self) -> None:
        """No further orders."""
        self._stopping.set()

    async def _lane(self, http: aiohttp.ClientSession, library: Sequence[RewardClient]) -> None:
        while not self._stopping.is_set():
            order = self._traffic.next()
            self._book.requests[order.kind] += 1
            if order.kind == "client":
                await self._by_library(library, order)
            elif order.kind == "twins":
                await asyncio.gather(*(self._by_hand(http, order, n) for n in range(len(self._parts.replicas))))
            else:
                await self._by_hand(http, order, self._rng.randrange(len(self._parts.replicas)))

    async def _by_hand(self, http: aiohttp.ClientSession, order: Order, first: int) -> None:
        """Ask one replica after the other, with the same ids, until all of the order is answered."""
        deadline = time.monotonic() + _PATIENCE_S
        tries = 0
        while not await self._once(http, order, self._parts.replicas[(first + tries) % 2], hasty=tries == 0):
            tries += 1
            if time.monotonic() > deadline:
                self._book.violations.note("every request is answered in the end", order.kind)
                return
            await asyncio.sleep(backoff_s(tries, first_s=0.2, max_s=_LONGEST_PAUSE_S))

    async def _once(self, http: aiohttp.ClientSession, order: Order, part: Part, *, hasty: bool) -> bool:
        """One request; whether it settled the order."""
        self._book.asked(order.keys, order.pins)
        began = time.perf_counter()
        headers = _JSON | (order.headers if hasty else {})
        try:
            async with http.post(part.url + order.path, data=order.body, headers=headers) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self._book.statuses[type(error).__name__] += 1
            self._book.lost(order.keys)
            return False
        self._book.status(response.status, body[:200])
        if order.refused is not None and response.status not in (429, 503):
            self._expect(order, response.status, body)
            return True
        if response.status != 200:
            return self._refused(order, response, body)
        if not (hasty and order.headers):
            self._book.took(time.perf_counter() - began, order.kind)
        answer = json.loads(body)
        self._book.answered(order.keys, order.pins, answer)
        return all(result["reward"] is not None for result in answer["results"])

    def _expect(self, order: Order, status: int, body: bytes) -> None:
        told = json.loads(body)
        if status != order.refused or set(told) != {"error", "detail"}:
            self._book.violations.note(
                "a bad request is told what is wrong", f"{status}: {body[:100]!r} {order.body[:80]!r}"
            )

    def _refused(self, order: Order, response: aiohttp.ClientResponse, body: bytes) -> bool:
        if response.status not in (429, 503):
            self._book.violations.note("a good request is served", f"{order.kind} {response.status}: {body[:200]!r}")
            return True
        if "Retry-After" not in response.headers:
            self._book.violations.note("429 and 503 say when to come again", body[:200])
        return False

    async def _by_library(self, library: Sequence[RewardClient], order: Order) -> None:
        """The same with `RewardClient`, which retries by itself, and tells the other replica's when it gives up."""
        deadline = time.monotonic() + _PATIENCE_S
        first, tries = self._rng.randrange(len(library)), 0
        request = order.request
        options = {name: value for name, value in request.items() if name not in ("task", "items")}
        while time.monotonic() < deadline:
            self._book.asked(order.keys, order.pins)
            began, kills = time.perf_counter(), self.kills
            try:
                answer = await library[(first + tries) % 2].score(request["task"], request["items"], **options)
            except RegradeError as error:
                self._book.statuses[f"RewardClient {type(error).__name__}"] += 1
                self._book.lost(order.keys)
            else:
                if self.kills != kills:
                    self._book.lost(order.keys)
                self._book.statuses["RewardClient answered"] += 1
                self._book.took(time.perf_counter() - began, order.kind)
                told: dict[str, Any] = answer.model_dump(mode="json")
                self._book.answered(order.keys, order.pins, told)
                if all(result.reward is not None for result in answer.results):
                    return
            tries += 1
            await asyncio.sleep(self._rng.uniform(0.1, 0.5))
        self._book.violations.note("every request is answered in the end", order.kind)

    async def _activate(self, http: aiohttp.ClientSession) -> None:
        """A new rubric every few seconds, for one task and then the other, by any replica."""
        number = 0
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _ACTIVATE_EVERY_S)
            number += 1
            task = list(TASKS)[number % len(TASKS)]
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                self.activations += await self._put(http, self._rng.choice(self._parts.replicas), task, f"no. {number}")

    async def _bootstrap(self, http: aiohttp.ClientSession) -> None:
        """A first rubric for each task."""
        for task in TASKS:
            if not await self._put(http, self._parts.replicas[0], task, "first"):
                raise RuntimeError(f"no rubric could be put for {task}")

    async def _put(self, http: aiohttp.ClientSession, part: Part, task: str, wording: str) -> bool:
        body = {"rubric": rubric_of(task, wording), "by": "soak", "reason": "another one"}
        async with http.put(f"{part.url}/rubrics/{task}", json=body) as response:
            self._book.status(response.status, await response.read())
            return response.status == 200
