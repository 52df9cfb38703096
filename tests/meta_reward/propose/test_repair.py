"""After a collapse: the policy writes nothing but titles, and the rubric that says so is adopted and kept."""

import pytest
from redis.asyncio import Redis

from regrade import RewardClient
from regrade.contracts import EventKind
from regrade.tasks import load_pack
from services.kit.store import keys
from services.meta_reward.propose.base import Progress, ProposalContext
from services.meta_reward.types import Candidate, Proposal
from tests.meta_reward.gate.candidates import DEVELOPMENT, Improvement
from tests.support.builders import LINEAGE, TASK, llm
from tests.support.fake_engine import FakeEngine
from tests.support.meta import meta_script, running_meta
from tests.support.reader import reading_judge

VARIETY = llm("variety", description="The text is varied: each sentence says something new.", weight=0.5)
REPAIR = Improvement("a rubric that sees through titles", (DEVELOPMENT, VARIETY), replaces=True)


class Handed:
    """Proposes what it was given."""

    name = "handed"

    async def propose(self, context: ProposalContext, progress: Progress) -> Proposal:
        """The repair."""
        return Proposal((Candidate(REPAIR.applied_to(context.active), self.name),), ())


async def write_titles(client: RewardClient, step: int) -> list[float]:
    """Two titles for each prompt, of equal length, one of which takes the prompt's words up."""
    items = []
    for n, wanted in enumerate(load_pack(TASK).prompts[:8]):
        topic = max(wanted.prompt.rstrip(".?").split(), key=len)
        items += [
            {"id": f"{n}{title}", "group": str(n), "prompt": wanted.prompt, "completion": f"{title}: A Study"}
            for title in (topic, "Something")
        ]
    answer = await client.score(TASK, items, run="r", step=step)
    return [result.reward for result in answer.results if result.reward is not None]


async def test_a_repair_is_adopted_and_kept(redis: Redis, reward_url: str, fake_engine: FakeEngine) -> None:
    """Titles differ under the old rubric and are equally bad under the new one: no reason to go back."""
    fake_engine.script = meta_script(reading_judge)
    async with running_meta(redis, reward_url, fake_engine, gate_originals=24) as meta:
        meta.worker._deps = meta.deps._replace(proposers=[Handed()])
        before = await write_titles(meta.client, step=1)
        assert sum(one != other for one, other in zip(before[::2], before[1::2], strict=True)) >= 6, (
            "it tells titles apart"
        )
        await meta.worker.run_due_cycle(LINEAGE)
        repaired = await meta.deps.store.active(LINEAGE)
        assert repaired is not None
        assert repaired.version == 2

        after = await write_titles(meta.client, step=2)
        assert after[::2] == pytest.approx(after[1::2]), "no spread is left in a group"
        assert max(after) < min(before)
        await meta.worker.watch(LINEAGE)
        history = await meta.deps.store.history(LINEAGE)
        assert history[-1].kind is EventKind.ACTIVATED
        assert await meta.deps.store.active(LINEAGE) == repaired
        assert await redis.get(keys.watched_activation_key(LINEAGE)) == history[-1].id, "it was judged, and let stand"
