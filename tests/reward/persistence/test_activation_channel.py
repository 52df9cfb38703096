"""A newly active rubric is in every replica by the activation channel; the poll only finds what that lost."""

import httpx
from redis.asyncio import Redis

from services.kit.store.rubric_store import RubricStore
from tests.conftest import StartReward
from tests.support.builders import TASK, activate, checks_only
from tests.support.waiting import until


async def test_the_channel_tells_every_replica(redis: Redis, store: RubricStore, start_reward: StartReward) -> None:
    """The poll is off, and nobody asks for a score: only an announcement can bring the version."""
    before = await redis.client_id()
    replicas = [start_reward(bootstrap_tasks=[TASK], active_poll_s=3_600.0).url for _ in range(2)]
    async with httpx.AsyncClient(timeout=60.0) as http:

        async def all_hear() -> bool:
            """Replicas of earlier tests may still be there: what has an older connection does not count."""
            followers = await redis.client_list(_type="pubsub")
            return sum(int(client["id"]) > before for client in followers if client["sub"] == "1") == len(replicas)

        await until(all_hear, "every replica to follow the channel")
        for version in (2, 3):
            await activate(store, checks_only(version))
            wanted = f'regrade_active_rubric_version{{lineage="main",task="{TASK}"}} {version}.0'

            async def everywhere(wanted: str = wanted) -> bool:
                return all([wanted in (await http.get(f"{url}/metrics")).text for url in replicas])

            await until(everywhere, f"version {version} everywhere")
