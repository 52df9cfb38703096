"""Redis loses data under running services: what was active is active again, and the log says so (I2, I6)."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from regrade.contracts import EventKind, Override
from regrade.tasks import load_pack
from services.kit.store import keys
from services.kit.store.rubric_store import RubricStore
from services.reward.api.publishing import starting_rubrics
from services.reward.metrics import RewardMetrics
from services.reward.persistence.restoration import LineageRestorer
from tests.conftest import StartReward
from tests.support.builders import LINEAGE, TASK, activate, checks_only
from tests.support.outage import ask, digests, error_of, numbered, recovered, score, settings
from tests.support.valkey import running_valkey
from tests.support.waiting import until

STARTING = load_pack(TASK).starting_rubric.digest
NEVER_POLLS = {"bootstrap_tasks": [TASK], "active_poll_s": 3_600.0}


def _restored(url: str, origin: str) -> bool:
    sample = f'regrade_restored_lineages_total{{origin="{origin}",task="{TASK}"}} 1.0'
    return sample in httpx.get(f"{url}/metrics", timeout=60.0).text


async def _evolve(redis: Redis, url: str, *words: int) -> None:
    """Activate rubrics, and wait until the replica has the last one."""
    store = RubricStore(redis)
    for count in words:
        await activate(store, checks_only(count))
    version = f'regrade_active_rubric_version{{lineage="main",task="{TASK}"}} {1.0 + len(words)}'
    await until(lambda: version in httpx.get(f"{url}/metrics").text, "the activation to be known")


async def _flush(redis: Redis) -> None:
    await redis.flushall()


async def _delete_active(redis: Redis) -> None:
    await redis.delete(keys.active_key(LINEAGE))


REQUESTS: dict[str, dict[str, Any]] = {
    "step": {"run": "r", "step": 2},
    "group": {"run": "r"},
    "evaluation": {"purpose": "eval"},
}


@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("lose", [_flush, _delete_active])
async def test_the_next_request_is_served_under_the_rubric_that_was_active(
    redis: Redis,
    start_reward: StartReward,
    caplog: pytest.LogCaptureFixture,
    lose: Callable[[Redis], Awaitable[None]],
    fields: dict[str, Any],
) -> None:
    url = start_reward(**NEVER_POLLS).url
    score(url, numbered(0), run="r", step=1)
    await _evolve(redis, url, 3)
    await lose(redis)
    answer = score(url, numbered(1), **fields)
    assert digests(answer) == {checks_only(3).digest}
    assert answer["results"][0]["rubric"]["version"] == 2
    assert "Redis has lost data" in caplog.text
    assert _restored(url, "memory" if lose is _flush else "history")
    last = (await RubricStore(redis).history(LINEAGE))[-1]
    assert last.kind is EventKind.ACTIVATED
    assert isinstance(last.authority, Override)
    assert last.authority.bootstrap
    assert "Redis had lost" in last.reason


async def test_rubrics_can_be_read_after_a_loss(redis: Redis, start_reward: StartReward) -> None:
    url = start_reward(**NEVER_POLLS).url
    await redis.flushall()
    response = await asyncio.to_thread(httpx.get, f"{url}/rubrics/{TASK}")
    assert (response.status_code, response.json()["version"]) == (200, 1)


async def test_a_version_that_a_caller_remembers_never_names_another_rubric(
    redis: Redis, start_reward: StartReward, store: RubricStore
) -> None:
    """The lineage is numbered on: the restored rubric keeps its number, and lost numbers stay unknown."""
    url = start_reward(**NEVER_POLLS).url
    await _evolve(redis, url, 3, 4, 5)
    await redis.flushall()
    assert score(url, numbered(0), run="r", step=1)["results"][0]["rubric"]["version"] == 4
    await activate(store, checks_only(6))
    assert await store.versions(LINEAGE) == {4: checks_only(5).digest, 5: checks_only(6).digest}
    assert error_of(url, numbered(1), run="r", step=2, rubric=2) == (404, "unknown_rubric")
    for step, (name, words) in enumerate(((4, 5), (checks_only(5).digest, 5), (checks_only(3).digest, 3)), 10):
        assert digests(score(url, numbered(1), run="r", step=step, rubric=name)) == {checks_only(words).digest}


async def test_a_lineage_that_starts_at_1_again_gives_old_digests_no_old_numbers(
    redis: Redis, start_reward: StartReward, store: RubricStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A replica without memory was first; one that remembers version 3 follows it, and forgets its numbers."""
    remembers = start_reward(**NEVER_POLLS).url
    await _evolve(redis, remembers, 3, 4)
    await redis.flushall()
    fresh = LineageRestorer(store, starting_rubrics([TASK]), RewardMetrics(CollectorRegistry()))
    await fresh.restore(LINEAGE, None)
    await until(lambda: "the active version went back" in caplog.text, "the replica to follow")
    answer = score(remembers, numbered(1), run="r", step=9)
    assert (digests(answer), answer["results"][0]["rubric"]["version"]) == ({STARTING}, 1)
    assert error_of(remembers, numbered(1), run="r", step=10, rubric=3) == (404, "unknown_rubric")
    assert error_of(remembers, numbered(1), run="r", step=10, rubric=checks_only(4).digest) == (422, "never_active")


async def test_a_fresh_replica_goes_on_with_the_history_that_is_there(redis: Redis, start_reward: StartReward) -> None:
    """Only the active key is gone: the pack's starting rubric must not take the place of what evolved."""
    first = start_reward(**NEVER_POLLS)
    await _evolve(redis, first.url, 3)
    first.stop()
    await redis.delete(keys.active_key(LINEAGE))
    url = start_reward(**NEVER_POLLS).url
    answer = score(url, numbered(0), run="r", step=1)
    assert (digests(answer), answer["results"][0]["rubric"]["version"]) == ({checks_only(3).digest}, 2)


async def test_a_task_that_an_operator_started_is_restored_too(
    redis: Redis, start_reward: StartReward, store: RubricStore
) -> None:
    await activate(store, checks_only(3))
    url = start_reward(active_poll_s=3_600.0).url
    score(url, numbered(0), run="r", step=1)
    await redis.flushall()
    assert digests(score(url, numbered(0), run="r", step=2)) == {checks_only(3).digest}
    assert error_of(url, numbered(0), task="never_met") == (404, "unknown_task")
    assert error_of(url, numbered(0), lineage="never-met") == (404, "unknown_task")


async def test_i2_a_pin_outlives_the_loss(redis: Redis, start_reward: StartReward) -> None:
    """A step that began under an older rubric is finished under it, also on a replica that has not seen its pin."""
    urls = [start_reward(**NEVER_POLLS).url for _ in range(2)]
    first = score(urls[0], numbered(0), run="r", step=1)
    await _evolve(redis, urls[0], 3)
    await redis.flushall()
    assert digests(score(urls[0], numbered(1), run="r", step=1)) == digests(first) == {STARTING}
    assert digests(score(urls[1], numbered(2), run="r", step=1)) == {STARTING}
    assert digests(score(urls[0], numbered(3), run="r", step=2)) == {checks_only(3).digest}


async def test_a_pin_keeps_the_lifetime_that_it_has_in_redis(redis: Redis, start_reward: StartReward) -> None:
    """A replica that meets a pin late does not make it live longer: what expired is no loss."""
    setter, reader = (start_reward(**NEVER_POLLS).url for _ in range(2))
    score(setter, numbered(0), run="r", step=1)
    key = keys.pin_key(LINEAGE, "r", 1, "")
    await redis.pexpire(key, 1_500)
    score(reader, numbered(1), run="r", step=1)
    await _evolve(redis, reader, 3)

    async def expired() -> bool:
        return not await redis.exists(key)

    await until(expired, "the pin to expire")
    assert digests(score(reader, numbered(2), run="r", step=1)) == {checks_only(3).digest}


async def test_several_replicas_restore_a_lineage_once(redis: Redis, start_reward: StartReward) -> None:
    urls = [start_reward(**NEVER_POLLS).url for _ in range(3)]
    await redis.flushall()
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda n: score(urls[n % 3], numbered(n), run="r", step=1), range(24)))
    assert {digest for answer in answers for digest in digests(answer)} == {STARTING}
    assert len(await RubricStore(redis).history(LINEAGE)) == 1


async def test_a_lineage_that_exists_is_not_overwritten(
    redis: Redis, start_reward: StartReward, store: RubricStore
) -> None:
    url = start_reward(**NEVER_POLLS).url
    await redis.flushall()
    await activate(store, checks_only(9))
    assert digests(score(url, numbered(0), run="r", step=1)) == {checks_only(9).digest}
    assert len(await store.history(LINEAGE)) == 1


async def test_without_traffic_the_poll_restores(redis: Redis, start_reward: StartReward, store: RubricStore) -> None:
    start_reward(bootstrap_tasks=[TASK], active_poll_s=0.2)
    await redis.flushall()

    async def active() -> bool:
        return await store.active(LINEAGE) is not None

    await until(active, "the lineage to be restored")


async def test_a_redis_that_restarts_empty_is_filled_before_it_is_used(
    start_reward: StartReward, tmp_path: Path
) -> None:
    with running_valkey() as forgetful:
        url = start_reward(**settings(forgetful, tmp_path, spool_dir="")).url
        score(url, numbered(0), run="r", step=1)
        forgetful.stop()
        assert ask(url, numbered(1), run="r", step=2).status_code == 503
        forgetful.start_again()
        await recovered(url)
        assert digests(score(url, numbered(1), run="r", step=2)) == {STARTING}


async def test_a_rubric_whose_content_is_gone_is_a_loss_and_not_a_callers_mistake(
    redis: Redis, start_reward: StartReward
) -> None:
    holder = start_reward(**NEVER_POLLS)
    await _evolve(redis, holder.url, 3)
    score(holder.url, numbered(0), run="r", step=1)
    await redis.delete(keys.rubric_key(TASK, checks_only(3).digest))
    stranger = start_reward(active_poll_s=3_600.0).url
    assert error_of(stranger, numbered(0), run="r", step=1) == (503, "rubric_lost")
    assert digests(score(holder.url, numbered(1), run="r", step=1)) == {checks_only(3).digest}


async def test_a_flushed_script_cache_is_nothing(redis: Redis, start_reward: StartReward) -> None:
    url = start_reward(**NEVER_POLLS).url
    score(url, numbered(0), run="r", step=1)
    await redis.script_flush()
    score(url, numbered(1), run="r", step=1)


async def test_the_activation_channel_survives_what_anybody_publishes(redis: Redis, start_reward: StartReward) -> None:
    url = start_reward(**NEVER_POLLS).url

    async def follows() -> bool:
        return int(dict(await redis.pubsub_numsub(keys.ACTIVATIONS_CHANNEL))[keys.ACTIVATIONS_CHANNEL]) > 0

    for text in ("no JSON", "{}", '{"task": 1}'):
        await until(follows, "the subscription")
        await redis.publish(keys.ACTIVATIONS_CHANNEL, text)
    await redis.client_kill_filter(_type="pubsub")
    await asyncio.sleep(1.2)  # the subscriber's pause
    await until(follows, "the subscription")
    await _evolve(redis, url, 3)
