"""I6 at the service's door: whatever becomes active over HTTP is on record with who and why."""

from regrade import RewardClient
from regrade.contracts import Override
from services.kit.store.rubric_store import RubricStore
from tests.conftest import StartReward
from tests.support.builders import LINEAGE, TASK, checks_only


async def test_i6_what_an_operator_puts_is_a_recorded_override(client: RewardClient, store: RubricStore) -> None:
    """The starting rubric is the line's recorded bootstrap, an operator's own an override of it."""
    await client.put_rubric(TASK, checks_only(1), by="ann", reason="shorter is better")
    first, second = await store.history(LINEAGE)
    assert isinstance(first.authority, Override)
    assert isinstance(second.authority, Override)
    assert (first.authority.bootstrap, first.by) == (True, "bootstrap")
    assert (second.authority.bootstrap, second.by, second.reason) == (False, "ann", "shorter is better")
    assert second.previous == first.digest


async def test_i6_a_first_rubric_put_by_hand_is_the_bootstrap(start_reward: StartReward, store: RubricStore) -> None:
    async with RewardClient(start_reward().url) as client:
        await client.put_rubric("own_task", checks_only(1), by="ann", reason="first")
    (event,) = await store.history(LINEAGE._replace(task="own_task"))
    assert isinstance(event.authority, Override)
    assert event.authority.bootstrap


async def test_i6_scoring_activates_nothing(client: RewardClient, store: RubricStore) -> None:
    before = await store.history(LINEAGE)
    items = [{"prompt": "p", "completion": "c"}]
    await client.score(TASK, items, rubric=checks_only(1), purpose="shadow")
    await client.score(TASK, items, rubric=checks_only(2), purpose="eval")
    await client.score(TASK, items, run="r", step=1)
    assert await store.history(LINEAGE) == before


async def test_i6_two_replicas_start_one_line(start_reward: StartReward, store: RubricStore) -> None:
    for _ in range(2):
        start_reward(bootstrap_tasks=[TASK])
    assert len(await store.history(LINEAGE)) == 1
