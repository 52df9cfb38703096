"""What imported pairs do to the error level of the next decision, in a running service."""

from redis.asyncio import Redis

from regrade.contracts import GateReport, LabelledPair
from regrade.tasks.anchors import is_held_out
from tests.meta_reward.gate.candidates import HARMS
from tests.meta_reward.propose.test_bad_meta_judge import meta_judge_of, one_cycle
from tests.support.builders import TASK
from tests.support.fake_engine import FakeEngine
from tests.support.meta import Meta, running_meta

HARM = next(harm for harm in HARMS if harm.stopped == "gate")


async def decided(meta: Meta, step: int) -> GateReport:
    *_, last = await one_cycle(meta, step)
    assert last.gate is not None
    return last.gate


async def test_a_pair_more_is_no_new_level_and_twice_as_many_originals_are(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    fake_engine.script = meta_judge_of(HARM.reply)
    written = [LabelledPair(prompt=f"Say {n}.", better=f"So it is {n}, and why.", worse=f"So {n}") for n in range(60)]
    pairs = [pair for pair in written if is_held_out(pair.identity)]
    async with running_meta(redis, reward_url, fake_engine, llm=True, catalogue=False, longest_wait=1) as meta:
        first = await decided(meta, 1)
        await meta.deps.anchors.add(TASK, pairs[:1])
        second = await decided(meta, 2)
        assert first.anchors_base != second.anchors_base
        assert 0 < first.base_originals == second.base_originals - 1
        assert (first.decisions, second.decisions) == (1, 2)
        await meta.deps.anchors.add(TASK, pairs)
        third = await decided(meta, 3)
        assert third.base_originals >= 2 * second.base_originals
        assert third.decisions == 1
        assert third.level == first.level
