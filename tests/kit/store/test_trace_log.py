"""The trace log: first writer wins (I5), the cap writes nothing, windows by lineage."""

import asyncio

import pytest
from msgspec.structs import replace
from pydantic import SecretStr
from redis.asyncio import Redis

from services.kit.errors import Overloaded
from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.redis import connect, read_entries
from services.kit.store.trace_log import OutcomeRecord, TraceLog
from tests.support.builders import LINEAGE, TASK, record

SCOPED = LineageKey(TASK, "main", "algebra")


async def test_i5_the_first_writer_wins(trace_log: TraceLog) -> None:
    first, second = record("a", reward=0.25), record("a", reward=0.75)
    assert await trace_log.append(TASK, [first]) == [first.result]
    (stored,) = await trace_log.append(TASK, [second])
    assert stored == replace(first.result, cached=True)
    assert [trace.reward for trace in (await trace_log.recent(TASK, 10)).traces] == [0.25]


async def test_i5_concurrent_writers_leave_one_trace_and_agree(redis_url: str, trace_log: TraceLog) -> None:
    clients = [connect(SecretStr(redis_url)) for _ in range(4)]
    logs = [TraceLog(client) for client in clients]
    identities = [f"i{n}" for n in range(5)]

    async def write(number: int) -> list[float | None]:
        reward = number / 100
        stored = await logs[number % 4].append(TASK, [record(identity, reward=reward) for identity in identities])
        return [outcome.reward for outcome in stored]

    answers = await asyncio.gather(*(write(n) for n in range(40)))
    for client in clients:
        await client.aclose()
    traces = (await trace_log.recent(TASK, 1_000)).traces
    assert sorted(trace.item_id for trace in traces) == identities
    rewards = {trace.item_id: trace.reward for trace in traces}
    assert all(answer == [rewards[identity] for identity in identities] for answer in answers)


async def test_i5_a_batch_that_repeats_an_item_leaves_one_trace(trace_log: TraceLog) -> None:
    written, repeated = await trace_log.append(TASK, [record("a"), record("a")])
    assert (written.cached, repeated.cached) == (False, True)
    assert len((await trace_log.recent(TASK, 10)).traces) == 1


async def test_an_outcome_without_a_trace_is_stored_alone(trace_log: TraceLog) -> None:
    silent = OutcomeRecord("a", record("a").result, None)
    await trace_log.append(TASK, [silent])
    assert (await trace_log.recent(TASK, 10)).traces == []
    (stored,) = await trace_log.append(TASK, [silent])
    assert stored.cached


async def test_at_the_cap_nothing_is_written(redis: Redis) -> None:
    capped = TraceLog(redis, cap=2)
    await capped.append(TASK, [record("a"), record("b")])
    count = await redis.dbsize()
    with pytest.raises(Overloaded, match="at its cap") as refused:
        await capped.append(TASK, [record("c"), record("d")])
    assert (refused.value.status, refused.value.code, refused.value.retry_after) == (429, "trace_log_full", 30)
    assert await redis.dbsize() == count
    assert await redis.xlen(keys.traces_key(TASK)) == 2
    assert not (await capped.append(TASK, [OutcomeRecord("c", record("c").result, None)]))[0].cached


async def _stored_size(redis: Redis) -> tuple[int, int]:
    stored = [fields["trace"] for _, fields in await read_entries(redis, keys.traces_key(TASK))]
    return len(stored), sum(len(text.encode()) for text in stored)


async def test_a_few_large_traces_reach_the_cap_in_bytes(redis: Redis) -> None:
    capped = TraceLog(redis, cap_bytes=100_000)
    for n in range(3):
        await capped.append(TASK, [record(f"{n}", completion="x" * 40_000)])
    with pytest.raises(Overloaded, match="TRACE_CAP_BYTES") as refused:
        await capped.append(TASK, [record("more")])
    assert refused.value.code == "trace_log_full"
    with pytest.raises(Overloaded):
        await capped.check_room(TASK)
    size = await capped.size(TASK)
    assert size == await _stored_size(redis)
    assert (await TraceLog(redis).append(TASK, [record("0")]))[0].cached


@pytest.mark.parametrize("trim", [("MAXLEN", 2), ("MAXLEN", 0), ("MINID", "=", "2-0")], ids=str)
async def test_the_size_in_bytes_follows_whoever_trims(redis: Redis, trim: tuple[object, ...]) -> None:
    """Also beside entries of a release that did not count."""
    log, stream = TraceLog(redis), keys.traces_key(TASK)
    await redis.xadd(stream, {"trace": record("old").to_json()[2]}, id="1-0")
    for n in range(4):
        await log.append(TASK, [record(f"{n}", completion="é" * 10_000), record(f"{n} small")])
    await redis.execute_command("XTRIM", stream, *trim)  # type: ignore[no-untyped-call]
    assert await log.size(TASK) == await _stored_size(redis)
    await log.check_room(TASK)
    await log.append(TASK, [record("next", completion="x" * 30_000)])
    assert await log.size(TASK) == await _stored_size(redis)


async def test_outcomes_expire(redis: Redis) -> None:
    await TraceLog(redis, outcome_ttl_s=100).append(TASK, [record("a")])
    assert 90 < await redis.ttl(keys.outcome_prefix(TASK) + "a") <= 100


async def test_a_window_holds_one_lineages_traces_in_order(trace_log: TraceLog) -> None:
    for n in range(10):
        await trace_log.append(TASK, [record(f"m{n}"), record(f"s{n}", scope="algebra"), record(f"b{n}", lineage="b")])
    window = await trace_log.read(LINEAGE, "0-0", 4)
    assert [trace.item_id for trace in window.traces] == ["m0", "m1", "m2", "m3"]
    window = await trace_log.read(LINEAGE, window.end, 100)
    assert [trace.item_id for trace in window.traces] == ["m4", "m5", "m6", "m7", "m8", "m9"]
    assert await trace_log.read(LINEAGE, window.end, 100) == ([], window.end)
    assert len((await trace_log.read(SCOPED, "0-0", 100)).traces) == 10
    assert [trace.item_id for trace in (await trace_log.recent(TASK, 3)).traces] == ["b9", "s9", "m9"]


async def test_a_window_passes_over_what_is_not_wanted(trace_log: TraceLog) -> None:
    """However much of it there is: a window is filled with what counts, and covers the rest."""
    noise = [record(f"e{n}", purpose="eval") for n in range(1_200)]
    await trace_log.append(TASK, [*noise, record("a"), record("b"), record("tail", purpose="eval")])
    window = await trace_log.read(LINEAGE, "0-0", 1, lambda trace: trace.purpose == "train")
    assert [trace.item_id for trace in window.traces] == ["a"]
    rest = await trace_log.read(LINEAGE, window.end, 5, lambda trace: trace.purpose == "train")
    assert [trace.item_id for trace in rest.traces] == ["b"]
    again = await trace_log.read(LINEAGE, "0-0", 5, lambda trace: trace.purpose == "train", until=window.end)
    assert again == window, "a window is read again as it was"
    page = await trace_log.entries_after(TASK, "0-0", 700, until=window.end)
    assert [trace.item_id for _, trace in page] == [f"e{n}" for n in range(700)]
    page = await trace_log.entries_after(TASK, page[-1][0], 700, until=window.end)
    assert len(page) == 501
    assert page[-1][0] == window.end


async def test_the_latest_that_are_wanted(trace_log: TraceLog) -> None:
    await trace_log.append(TASK, [record("a"), record("b")])
    end = (await trace_log.read(LINEAGE, "0-0", 2)).end
    await trace_log.append(TASK, [record(f"e{n}", purpose="eval") for n in range(600)])
    assert [t.item_id for t in (await trace_log.recent(TASK, 5, wanted=lambda t: t.purpose == "train")).traces] == [
        "b",
        "a",
    ]
    assert [t.item_id for t in (await trace_log.recent(TASK, 1, until=end)).traces] == ["b"]


async def test_a_lineage_has_a_cursor_of_its_own(redis: Redis, trace_log: TraceLog) -> None:
    assert await trace_log.cursor(LINEAGE) == "0-0"
    assert await trace_log.cursor(LINEAGE) == "0-0"
    await trace_log.append(TASK, [record("a"), record("b")])
    first = (await trace_log.read(LINEAGE, "0-0", 1)).end
    await redis.xgroup_setid(keys.traces_key(TASK), LINEAGE.label, first)
    assert await trace_log.cursor(LINEAGE) == first
    assert await trace_log.cursor(SCOPED) == "0-0"
    assert sorted(await trace_log.cursors(TASK)) == ["0-0", first]
    assert await trace_log.cursors("no_such_task") == []
    assert [trace.item_id for trace in (await trace_log.read(LINEAGE, first, 10)).traces] == ["b"]
