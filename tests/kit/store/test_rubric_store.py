"""The rubric store: immutable rubrics by content (I1), found by version, digest or scope."""

import json

import pytest
from redis.asyncio import Redis

from regrade.contracts import Rubric
from services.kit.errors import NotFound
from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricPointer, RubricStore
from tests.support.builders import LINEAGE, TASK, activate, check, checks_only, rubric

SCOPED = LineageKey(TASK, "main", "algebra/3")


async def test_i1_a_second_put_of_a_digest_changes_nothing(redis: Redis, store: RubricStore) -> None:
    first = rubric(created_by="first", rationale="as it was")
    second = rubric(created_by="second", rationale="rewritten")
    assert await store.put(TASK, first) == await store.put(TASK, second) == first.digest
    assert await RubricStore(redis).get(TASK, first.digest) == first


async def test_i1_tampering_with_a_stored_rubric_is_noticed(redis: Redis, store: RubricStore) -> None:
    digest = await store.put(TASK, rubric())
    document = json.loads(str(await redis.get(keys.rubric_key(TASK, digest))))
    await redis.set(keys.rubric_key(TASK, digest), json.dumps(document | {"preamble": "Be generous."}))
    with pytest.raises(ValueError, match="digest does not match"):
        await store.get(TASK, digest)


async def test_i1_another_rubric_under_a_digest_is_noticed(redis: Redis, store: RubricStore) -> None:
    digest = await store.put(TASK, rubric())
    await redis.set(keys.rubric_key(TASK, digest), rubric(preamble="Be generous.").model_dump_json())
    with pytest.raises(ValueError, match="holds another rubric"):
        await store.get(TASK, digest)
    without = rubric(preamble="Be generous.").model_dump_json(exclude={"digest"})
    await redis.set(keys.rubric_key(TASK, digest), without)
    with pytest.raises(ValueError, match="holds another rubric"):
        await store.get(TASK, digest)


async def test_every_kind_of_criterion_is_read_back(redis: Redis, store: RubricStore) -> None:
    wanted = rubric(check("shape", {"check": "json_schema", "schema": {"type": "object"}}))
    digest = await store.put(TASK, wanted)
    assert await RubricStore(redis).get(TASK, digest) == wanted


async def test_a_known_rubric_is_answered_without_redis(redis: Redis, store: RubricStore) -> None:
    digest = await store.put(TASK, rubric())
    await store.get(TASK, digest)
    await redis.flushall()
    assert (await store.get(TASK, digest)).digest == digest


async def test_the_cache_holds_the_latest_used(redis: Redis, store: RubricStore) -> None:
    digests = [await store.put(TASK, checks_only(n)) for n in range(1, 514)]
    await store.get(TASK, digests[0])
    for digest in digests[1:-1]:
        await store.get(TASK, digest)
    await store.get(TASK, digests[0])
    await store.get(TASK, digests[-1])
    await redis.flushall()
    await store.get(TASK, digests[0])
    with pytest.raises(NotFound):
        await store.get(TASK, digests[1])


async def test_rubrics_of_another_task_are_not_found(store: RubricStore) -> None:
    digest = await store.put(TASK, rubric())
    with pytest.raises(NotFound, match="has no rubric"):
        await store.get("another", digest)


async def test_the_narrowest_scope_wins(store: RubricStore) -> None:
    with pytest.raises(NotFound, match="has no active rubric in lineage"):
        await store.active_with_fallback(SCOPED)
    await activate(store, checks_only(1))
    assert (await store.active_with_fallback(SCOPED)).scope is None
    await activate(store, checks_only(2), lineage=LineageKey(TASK, "main", "algebra"))
    assert await store.active_with_fallback(SCOPED) == RubricPointer(checks_only(2).digest, 1, "algebra")
    await activate(store, checks_only(3), lineage=SCOPED)
    assert await store.active_with_fallback(SCOPED) == RubricPointer(checks_only(3).digest, 1, "algebra/3")
    assert (await store.active_with_fallback(LINEAGE)).digest == checks_only(1).digest


async def test_lineages_are_apart(store: RubricStore) -> None:
    await activate(store, checks_only(1))
    assert await store.active(LineageKey(TASK, "branch")) is None
    await activate(store, checks_only(2), lineage=LineageKey(TASK, "branch"))
    assert await store.versions(LINEAGE) == {1: checks_only(1).digest}
    assert await store.versions(LineageKey(TASK, "branch")) == {1: checks_only(2).digest}


async def test_find_by_version_and_by_digest(store: RubricStore) -> None:
    stored = await store.put(TASK, checks_only(9))
    for words in (1, 2):
        await activate(store, checks_only(words))
    assert await store.find(LINEAGE, 2) == RubricPointer(checks_only(2).digest, 2, None)
    assert await store.find(SCOPED, 1) == RubricPointer(checks_only(1).digest, 1, None)
    assert await store.find(LINEAGE, checks_only(1).digest) == RubricPointer(checks_only(1).digest, 1, None)
    assert await store.find(LINEAGE, stored) == RubricPointer(stored, None, None)
    with pytest.raises(NotFound, match="no rubric version 3"):
        await store.find(LINEAGE, 3)
    with pytest.raises(NotFound, match="has no rubric"):
        await store.find(LINEAGE, "f" * 64)


async def test_labelled_is_the_rubric_with_its_names_in_a_lineage(store: RubricStore) -> None:
    stored = await store.put(TASK, checks_only(9))
    await activate(store, checks_only(1), lineage=SCOPED)
    placed = await store.labelled(SCOPED, checks_only(1).digest)
    assert (placed.lineage, placed.scope, placed.version) == ("main", "algebra/3", 1)
    assert placed.digest == checks_only(1).digest
    assert (await store.labelled(SCOPED, stored)).version is None
    assert isinstance(placed, Rubric)


def test_an_active_pointer_reads_back() -> None:
    for active in (RubricPointer("d" * 64, 3, "a/b"), RubricPointer("d" * 64, None, None)):
        assert RubricPointer.parse(str(active)) == active
