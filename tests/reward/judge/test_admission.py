"""Who is let in to the engine, in which order, and when the door is shut."""

import asyncio
from typing import Any

import httpx
import pytest

from regrade.contracts import Purpose
from services.kit.errors import Overloaded
from services.reward.judge.admission import Admission
from tests.conftest import StartReward
from tests.support.builders import TASK, item
from tests.support.fake_engine import FakeEngine
from tests.support.waiting import until


class _Door:
    """An admission, and who is inside."""

    def __init__(self, **limits: Any) -> None:
        self.admission = Admission(**({"capacity": 4, "shadow_capacity": 2, "queue": 8, "quiet_s": 0.0} | limits))
        self.inside: list[str] = []
        self._leave = {name: asyncio.Event() for name in "abcdefgh"}
        self._visits: dict[str, asyncio.Task[None]] = {}

    async def comes(self, name: str, conversations: int, purpose: Purpose) -> None:
        self._visits[name] = asyncio.create_task(self._visit(name, conversations, purpose))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def leaves(self, name: str) -> None:
        self._leave[name].set()
        await self._visits[name]
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def gives_up(self, name: str) -> None:
        self._visits[name].cancel()
        await asyncio.wait({self._visits[name]})

    async def _visit(self, name: str, conversations: int, purpose: Purpose) -> None:
        async with self.admission.hold(conversations, purpose):
            self.inside.append(name)
            await self._leave[name].wait()
        self.inside.remove(name)


async def test_training_goes_before_evaluation_before_shadow() -> None:
    door = _Door(capacity=1, shadow_capacity=1)
    await door.comes("a", 1, Purpose.TRAIN)
    await door.comes("b", 1, Purpose.SHADOW)
    await door.comes("c", 1, Purpose.EVAL)
    await door.comes("d", 1, Purpose.TRAIN)
    assert door.inside == ["a"]
    for leaving, entering in (("a", "d"), ("d", "c"), ("c", "b")):
        await door.leaves(leaving)
        assert door.inside == [entering]


async def test_shadow_never_takes_all_the_room() -> None:
    door = _Door()
    for name in "abc":
        await door.comes(name, 1, Purpose.SHADOW)
    assert door.inside == ["a", "b"]
    await door.comes("d", 2, Purpose.TRAIN)
    assert door.inside == ["a", "b", "d"]


async def test_a_large_request_is_not_overtaken_for_ever() -> None:
    """A small one does not slip past a large one that waits; one larger than all the room gets all of it."""
    door = _Door()
    await door.comes("a", 3, Purpose.TRAIN)
    await door.comes("b", 9, Purpose.TRAIN)
    await door.comes("c", 1, Purpose.TRAIN)
    assert door.inside == ["a"]
    await door.leaves("a")
    assert door.inside == ["b"]
    await door.leaves("b")
    assert door.inside == ["c"]


async def test_who_gives_up_takes_no_room() -> None:
    door = _Door(capacity=1, shadow_capacity=1)
    await door.comes("a", 1, Purpose.TRAIN)
    await door.comes("b", 1, Purpose.TRAIN)
    await door.comes("c", 1, Purpose.SHADOW)
    await door.gives_up("b")
    await door.leaves("a")
    assert door.inside == ["c"]
    await door.gives_up("c")
    await door.comes("d", 1, Purpose.TRAIN)
    assert door.inside[-1] == "d"


async def test_a_full_queue_is_refused() -> None:
    door = _Door(capacity=1, queue=2)
    await door.comes("a", 1, Purpose.TRAIN)
    for name in "bc":
        door.admission.refuse_if_full()
        await door.comes(name, 1, Purpose.TRAIN)
    with pytest.raises(Overloaded) as refused:
        door.admission.refuse_if_full()
    assert refused.value.retry_after


async def test_overload_is_429_with_retry_after_and_passes(start_reward: StartReward, fake_engine: FakeEngine) -> None:
    """With the engine held, what can't be queued is refused at once; what was accepted is answered later."""
    url = start_reward(bootstrap_tasks=[TASK], judge_in_flight=2, judge_queue=4).url
    fake_engine.hold()
    async with httpx.AsyncClient(base_url=url, timeout=60.0) as http:

        def ask(first: int) -> asyncio.Task[httpx.Response]:
            items = [item(first + n) for n in range(6)]
            return asyncio.create_task(http.post("/score", json={"task": TASK, "items": items}))

        accepted = ask(0)
        await until(lambda: len(fake_engine.calls) == 2, "the engine to be busy")
        refused = await ask(10)
        assert (refused.status_code, refused.json()["error"]) == (429, "overloaded")
        assert int(refused.headers["Retry-After"]) > 0
        fake_engine.release()
        assert all(result["reward"] is not None for result in (await accepted).json()["results"])
        assert (await ask(20)).status_code == 200


async def test_while_training_goes_on_candidates_get_their_share() -> None:
    """Of room that training leaves free, a candidate gets one conversation for four of training's, no more."""
    door = _Door(capacity=16, shadow_capacity=4, shadow_share=0.25, quiet_s=60.0)
    await door.comes("a", 4, Purpose.TRAIN)
    for name in "bcd":
        await door.comes(name, 1, Purpose.SHADOW)
    assert door.inside == ["a", "b"]
    await door.leaves("b")
    assert door.inside == ["a"], "what was earned is spent"
    await door.comes("e", 4, Purpose.TRAIN)
    assert door.inside == ["a", "e", "c"]


async def test_a_moment_behind_training_is_still_training_and_quiet_ends_it() -> None:
    door = _Door(capacity=4, shadow_capacity=2, shadow_share=0.01, quiet_s=1.0)
    await door.comes("a", 1, Purpose.TRAIN)
    for name in "bc":
        await door.comes(name, 1, Purpose.SHADOW)
    await door.leaves("a")
    assert door.inside == [], "the next batch comes right behind"
    await until(lambda: door.inside == ["b", "c"], "quiet")
