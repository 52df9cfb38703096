"""Activation: compare-and-set with an authority on record (I6), rollback, history, announcements."""

import asyncio

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from regrade.contracts import EventKind, GatePass, Override, Rollback
from services.kit.asyncio_utils import cancel_and_wait
from services.kit.errors import Conflict, NotFound
from services.kit.store.keys import LineageKey
from services.kit.store.redis import connect
from services.kit.store.rubric_store import Announcement, RubricStore, candidate_event, gate_event
from tests.support.builders import LINEAGE, OVERRIDE, TASK, activate, checks_only, gate_report
from tests.support.waiting import until

ONE, TWO, THREE = (checks_only(n) for n in (1, 2, 3))
GATE = GatePass(cycle="cycle-1")


async def test_versions_count_up_and_a_returning_rubric_keeps_its_own(store: RubricStore) -> None:
    assert [await activate(store, wanted) for wanted in (ONE, TWO, ONE, THREE)] == [1, 2, 1, 3]
    assert await store.versions(LINEAGE) == {1: ONE.digest, 2: TWO.digest, 3: THREE.digest}


async def test_activation_expects_what_is_active(store: RubricStore) -> None:
    await activate(store, ONE)
    await store.put(TASK, TWO)
    with pytest.raises(Conflict, match=f"another rubric is active: {ONE.digest}") as refused:
        await store.activate(LINEAGE, TWO.digest, expected=None, authority=OVERRIDE)
    assert refused.value.code == "conflict"
    with pytest.raises(Conflict):
        await store.activate(LINEAGE, TWO.digest, expected=THREE.digest, authority=OVERRIDE)
    with pytest.raises(Conflict, match="active: none"):
        await store.activate(LineageKey(TASK, "empty"), TWO.digest, expected=ONE.digest, authority=OVERRIDE)
    assert (await store.active(LINEAGE)) is not None


async def test_only_one_of_many_concurrent_activations_wins(redis_url: str, store: RubricStore) -> None:
    await activate(store, ONE)
    challengers = [checks_only(100 + n) for n in range(20)]
    for challenger in challengers:
        await store.put(TASK, challenger)
    clients = [connect(SecretStr(redis_url)) for _ in range(4)]
    stores = [RubricStore(client) for client in clients]
    outcomes = await asyncio.gather(
        *(
            stores[n % 4].activate(LINEAGE, challenger.digest, expected=ONE.digest, authority=OVERRIDE)
            for n, challenger in enumerate(challengers)
        ),
        return_exceptions=True,
    )
    for client in clients:
        await client.aclose()
    assert outcomes.count(2) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 19
    assert len(await store.versions(LINEAGE)) == 2
    assert len(await store.history(LINEAGE)) == 2
    winner = challengers[outcomes.index(2)]
    active = await store.active(LINEAGE)
    assert active is not None
    assert active.digest == winner.digest


async def test_what_is_not_stored_cannot_become_active(store: RubricStore) -> None:
    with pytest.raises(NotFound, match="is not stored"):
        await store.activate(LINEAGE, ONE.digest, expected=None, authority=OVERRIDE)
    assert await store.active(LINEAGE) is None


async def test_i6_the_gates_authority_needs_a_report_that_passed(store: RubricStore) -> None:
    await activate(store, ONE)
    await store.put(TASK, TWO)
    with pytest.raises(Conflict, match="has not passed the gate") as refused:
        await store.activate(LINEAGE, TWO.digest, expected=ONE.digest, authority=GATE)
    assert refused.value.code == "ungated"
    await store.record(LINEAGE, gate_event(gate_report(TWO.digest, ONE.digest, passed=False)))
    with pytest.raises(Conflict, match="has not passed the gate"):
        await store.activate(LINEAGE, TWO.digest, expected=ONE.digest, authority=GATE)
    await store.record(LINEAGE, gate_event(gate_report(TWO.digest, ONE.digest)))
    assert await store.activate(LINEAGE, TWO.digest, expected=ONE.digest, authority=GATE) == 2


async def test_i6_a_report_against_a_rubric_that_is_no_longer_active_does_not_count(store: RubricStore) -> None:
    await activate(store, ONE)
    await store.put(TASK, TWO)
    await store.record(LINEAGE, gate_event(gate_report(TWO.digest, ONE.digest)))
    await activate(store, THREE)
    with pytest.raises(Conflict, match="has not passed the gate against the active one"):
        await store.activate(LINEAGE, TWO.digest, expected=THREE.digest, authority=GATE)


async def test_i6_a_report_of_another_lineage_does_not_count(store: RubricStore) -> None:
    branch = LineageKey(TASK, "branch")
    await activate(store, ONE)
    await activate(store, ONE, lineage=branch)
    await store.put(TASK, TWO)
    await store.record(branch, gate_event(gate_report(TWO.digest, ONE.digest)))
    with pytest.raises(Conflict, match="has not passed the gate"):
        await store.activate(LINEAGE, TWO.digest, expected=ONE.digest, authority=GATE)


async def test_i6_the_gate_cannot_start_a_lineage(store: RubricStore) -> None:
    await store.put(TASK, ONE)
    with pytest.raises(Conflict, match="has not passed the gate"):
        await store.activate(LINEAGE, ONE.digest, expected=None, authority=GATE)


async def test_i6_bootstrap_only_where_nothing_is_active(store: RubricStore) -> None:
    bootstrap = Override(by="me", reason="first", bootstrap=True)
    for wanted in (ONE, TWO):
        await store.put(TASK, wanted)
    await store.activate(LINEAGE, ONE.digest, expected=None, authority=bootstrap)
    with pytest.raises(Conflict):
        await store.activate(LINEAGE, TWO.digest, expected=ONE.digest, authority=bootstrap)
    with pytest.raises(Conflict):
        await store.activate(LINEAGE, TWO.digest, expected=None, authority=bootstrap)


async def test_i6_a_rollback_returns_only_to_what_was_active(store: RubricStore) -> None:
    await activate(store, ONE)
    await store.put(TASK, TWO)
    rollback = Rollback(by="me", reason="I would like to")
    with pytest.raises(Conflict, match="has never been active") as refused:
        await store.activate(LINEAGE, TWO.digest, expected=ONE.digest, authority=rollback)
    assert refused.value.code == "never_active"


async def test_i6_every_activation_is_on_record_with_its_authority(store: RubricStore) -> None:
    await activate(store, ONE)
    await store.put(TASK, TWO)
    await store.record(
        LINEAGE, candidate_event(EventKind.PROPOSED, TWO.digest, by="catalogue", reason="short", cycle="cycle-1")
    )
    await store.record(LINEAGE, gate_event(gate_report(THREE.digest, ONE.digest, passed=False)))
    await store.record(LINEAGE, gate_event(gate_report(TWO.digest, ONE.digest)))
    await store.activate(LINEAGE, TWO.digest, expected=ONE.digest, authority=GATE)
    await store.rollback(LINEAGE, by="me", reason="worse")
    events = await store.history(LINEAGE)
    assert [event.kind.value for event in events] == [
        "activated",
        "proposed",
        "rejected",
        "gated",
        "activated",
        "rolled_back",
    ]
    assert [event.authority.kind if event.authority else None for event in events] == [
        "override",
        None,
        None,
        None,
        "gate",
        "rollback",
    ]
    first, _, rejected, gated, activated, rolled_back = events
    assert isinstance(first.authority, Override)
    assert first.authority.bootstrap
    assert (first.version, first.previous) == (1, None)
    assert rejected.reason == "no gain"
    assert gated.gate == gate_report(TWO.digest, ONE.digest)
    assert (activated.version, activated.previous, activated.cycle) == (2, ONE.digest, "cycle-1")
    assert (rolled_back.version, rolled_back.previous, rolled_back.by) == (1, TWO.digest, "me")
    assert sorted(event.id for event in events) == [event.id for event in events]
    assert all(event.time > 1_600_000_000 for event in events)


async def test_i6_the_gate_does_not_bring_back_what_was_rolled_back(store: RubricStore) -> None:
    await activate(store, ONE)
    await store.put(TASK, TWO)
    await store.record(LINEAGE, gate_event(gate_report(TWO.digest, ONE.digest)))
    await store.activate(LINEAGE, TWO.digest, expected=ONE.digest, authority=GATE)
    await store.rollback(LINEAGE, by="me", reason="too strict")
    assert await store.rolled_back(LINEAGE) == {TWO.digest: "too strict"}
    with pytest.raises(Conflict, match="rolled back: too strict") as refused:
        await store.activate(LINEAGE, TWO.digest, expected=ONE.digest, authority=GATE)
    assert refused.value.code == "rolled_back"
    assert await store.activate(LINEAGE, TWO.digest, expected=ONE.digest, authority=OVERRIDE) == 2
    await activate(store, ONE)
    assert await store.rolled_back(LINEAGE) == {}
    assert await store.activate(LINEAGE, TWO.digest, expected=ONE.digest, authority=GATE) == 2


async def test_rollback_goes_back_one_activation_at_a_time(store: RubricStore) -> None:
    for wanted in (ONE, TWO, THREE):
        await activate(store, wanted)
    assert await store.rollback(LINEAGE, by="me", reason="worse") == (TWO.digest, 2, None)
    assert await store.rollback(LINEAGE, by="me", reason="worse") == (ONE.digest, 1, None)
    with pytest.raises(Conflict, match="nothing to roll back to") as refused:
        await store.rollback(LINEAGE, by="me", reason="worse")
    assert refused.value.code == "first_version"


async def test_a_rollback_goes_back_from_what_was_expected(store: RubricStore) -> None:
    for wanted in (ONE, TWO, THREE):
        await activate(store, wanted)
    both = await asyncio.gather(
        *(store.rollback(LINEAGE, by=who, reason="worse", expected=THREE.digest) for who in ("a", "b")),
        return_exceptions=True,
    )
    assert [isinstance(outcome, Conflict) for outcome in both].count(True) == 1
    with pytest.raises(Conflict, match=f"another rubric is active: {TWO.digest}"):
        await store.rollback(LINEAGE, by="me", reason="worse", expected=THREE.digest, to=1)
    assert (await store.rollback(LINEAGE, by="me", reason="worse", expected=TWO.digest)).digest == ONE.digest


async def test_the_last_change_is_found_behind_many_proposals(store: RubricStore) -> None:
    assert await store.last_change(LINEAGE) is None
    for wanted in (ONE, TWO):
        await activate(store, wanted)
    for n in range(40):
        await store.record(
            LINEAGE, candidate_event(EventKind.PROPOSED, THREE.digest, by="me", reason=str(n), cycle="c")
        )
    change = await store.last_change(LINEAGE)
    assert change is not None
    assert (change.digest, change.version, change.previous) == (TWO.digest, 2, ONE.digest)
    assert change == (await store.history(LINEAGE))[1]
    assert (await store.rollback(LINEAGE, by="me", reason="worse")).digest == ONE.digest


async def test_rollback_to_a_version(store: RubricStore) -> None:
    with pytest.raises(NotFound, match="has no active rubric"):
        await store.rollback(LINEAGE, by="me", reason="worse", to=1)
    for wanted in (ONE, TWO, THREE):
        await activate(store, wanted)
    assert (await store.rollback(LINEAGE, by="me", reason="worse", to=1)).digest == ONE.digest
    assert (await store.rollback(LINEAGE, by="me", reason="better", to=3)).digest == THREE.digest
    with pytest.raises(NotFound, match="no rubric version 9"):
        await store.rollback(LINEAGE, by="me", reason="worse", to=9)


async def test_activations_are_announced(redis: Redis, store: RubricStore) -> None:
    announcements: list[Announcement] = []

    async def listen() -> None:
        async for announcement in store.announcements():
            announcements.append(announcement)

    async def subscribed() -> bool:
        return (await redis.pubsub_numsub("rg:activations"))[0][1] == 1

    listener = asyncio.create_task(listen())
    try:
        await until(subscribed, "the subscription")
        scoped = LineageKey(TASK, "main", "algebra")
        await activate(store, ONE)
        await activate(store, TWO, lineage=scoped)
        await until(lambda: len(announcements) == 2, "two announcements")
    finally:
        await cancel_and_wait(listener)
    assert announcements == [Announcement(LINEAGE, ONE.digest, 1), Announcement(scoped, TWO.digest, 1)]
