"""The archive: what leaves Redis is in Parquet first, once, whatever dies in between."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from regrade.contracts import CriterionScore, Trace
from services.kit.errors import Conflict
from services.kit.store import keys
from services.kit.store.keys import LineageKey
from services.kit.store.redis import read_entries
from services.kit.store.trace_log import TraceLog
from services.meta_reward.archive.archiver import ArchiveLimits, Archiver
from services.meta_reward.archive.parquet import SCHEMA, ArchiveStore, TraceFile, trace_of
from services.meta_reward.metrics import MetaRewardMetrics
from services.meta_reward.stores.leases import Leases
from tests.support.builders import ESSAY, LINEAGE, TASK, activate, checks_only, record
from tests.support.fake_engine import FakeEngine
from tests.support.meta import running_meta, train
from tests.support.redis_proxy import When, halting
from tests.support.servers import Process, spawn_service
from tests.support.valkey import Valkey
from tests.support.waiting import until

EAGER = ArchiveLimits(rows=10, every_s=1e9, keep=0)
OTHER = LineageKey(TASK, "other")


def archiver(redis: Redis, folder: Path | str, limits: ArchiveLimits = EAGER) -> Archiver:
    metrics = MetaRewardMetrics(CollectorRegistry())
    return Archiver(redis, ArchiveStore(str(folder)), Leases(redis, ttl_ms=2_000), metrics, limits)


async def scored(redis: Redis, first: int, count: int, **fields: Any) -> list[Trace]:
    """Traces in the log."""
    records = [record(f"i{n}", reward=n % 10 / 10, **fields) for n in range(first, first + count)]
    await TraceLog(redis).append(TASK, records)
    return [Trace.model_validate_json(entry.trace.to_json()) for entry in records if entry.trace is not None]


async def consumed(redis: Redis, lineage: LineageKey = LINEAGE, position: str = "$") -> None:
    """A line's cursor stands at the end of the stream, or at `position`."""
    await TraceLog(redis).cursor(lineage)
    await redis.xgroup_setid(keys.traces_key(TASK), lineage.label, position)


def read_back(folder: Path) -> list[Trace]:
    rows = pq.read_table(folder / TASK).sort_by("time").to_pylist()
    return [trace_of(row) for row in rows]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / TASK).iterdir())


async def ids(redis: Redis) -> list[str]:
    return [entry_id for entry_id, _ in await read_entries(redis, keys.traces_key(TASK))]


async def test_what_is_read_back_is_what_was_written(redis: Redis, tmp_path: Path) -> None:
    """Texts and conversations, with and without what may be missing; by one line of pyarrow."""
    criteria = (
        CriterionScore(id="a", score=0.25, confidence=0.5, rationale="why"),
        CriterionScore(id="b", score=None, confidence=None),
    )
    messages = [
        {"role": "user", "content": "Write."},
        {"role": "assistant", "content": "é\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")},
    ]
    wanted = await scored(redis, 0, 4, criteria=criteria, flags=("truncated", "flood"), reference="42", scope="algebra")
    wanted += await scored(redis, 4, 3, prompt=messages[:1], completion=messages[1:], run=None, step=None, version=None)
    wanted += await scored(redis, 7, 3, completion="", purpose="eval", metadata={"dataset": "essays", "length": 3})
    await archiver(redis, tmp_path).archive_due(TASK)
    assert read_back(tmp_path) == wanted
    table = pq.read_table(tmp_path / TASK)
    assert table.column("id").to_pylist() == await ids(redis)
    assert table.column("prompt").to_pylist()[4] == "Write."
    assert set(Trace.model_fields) < set(SCHEMA.names), "a field of a trace is missing in the archive"


async def test_only_what_is_archived_and_consumed_by_every_line_is_trimmed(redis: Redis, tmp_path: Path) -> None:
    wanted = await scored(redis, 0, 35)
    all_ids = await ids(redis)
    await consumed(redis)
    await consumed(redis, OTHER, all_ids[18])
    worker = archiver(redis, tmp_path)
    await worker.archive_due(TASK)
    assert names(tmp_path) == [f"{all_ids[n]}_{all_ids[n + 9]}.parquet" for n in (0, 10, 20)]
    assert await ids(redis) == all_ids[10:], "the other line has not consumed the second file's traces"
    await consumed(redis, OTHER)
    await worker.archive_due(TASK)
    assert await ids(redis) == all_ids[30:]
    wanted += await scored(redis, 35, 5)
    for lineage in (LINEAGE, OTHER):
        await consumed(redis, lineage)
    await worker.archive_due(TASK)
    assert read_back(tmp_path) == wanted
    assert await ids(redis) == []
    state = await worker.state(TASK)
    assert (state.announced, state.untrimmed) == (None, ())


async def test_a_line_without_traffic_holds_nothing_back(
    redis: Redis, reward_url: str, fake_engine: FakeEngine, tmp_path: Path
) -> None:
    """A scope that nobody trains has a cursor as any line has; the worker moves it along, and never backwards."""
    idle = LINEAGE._replace(scope="algebra")
    async with running_meta(redis, reward_url, fake_engine) as meta:
        await activate(meta.deps.store, checks_only(), lineage=idle)
        await meta.worker.run_due_cycle(idle)
        await train(meta.client, ESSAY, step=1)
        await meta.worker.run_due_cycle(LINEAGE)
        worker = archiver(redis, tmp_path, EAGER._replace(rows=8))
        (*_, last) = await ids(redis)
        await worker.archive_due(TASK)
        assert len(await ids(redis)) == 8, "the idle lineage has not been polled yet"
        await meta.worker.run_due_cycle(idle)
        assert await meta.deps.log.cursor(idle) == last
        await meta.deps.log.advance_cursor(idle, "1-1")
        assert await meta.deps.log.cursor(idle) == last
        await worker.archive_due(TASK)
        assert await ids(redis) == []
        assert len(read_back(tmp_path)) == 8


async def test_a_cursor_is_the_cycles_while_one_is_under_way(redis: Redis) -> None:
    traces = TraceLog(redis)
    await scored(redis, 0, 3)
    (*_, last) = await ids(redis)
    await traces.cursor(LINEAGE)
    await redis.set(keys.checkpoint_key(LINEAGE), "{}")
    await traces.advance_cursor(LINEAGE, last)
    assert await traces.cursor(LINEAGE) == "0-0"
    await redis.delete(keys.checkpoint_key(LINEAGE))
    await traces.advance_cursor(LINEAGE, last)
    assert await traces.cursor(LINEAGE) == last


async def test_evidence_outlives_the_trimmed_stream(
    redis: Redis, reward_url: str, fake_engine: FakeEngine, tmp_path: Path
) -> None:
    """A run's first steps are gone from Redis, and its later ones are still measured against them."""
    async with running_meta(redis, reward_url, fake_engine) as meta:
        await train(meta.client, ESSAY, step=1)
        await meta.worker.run_due_cycle(LINEAGE)
        await archiver(redis, tmp_path, EAGER._replace(rows=8)).archive_due(TASK)
        assert await ids(redis) == []
        await train(meta.client, "A title", step=2)
        await meta.worker.run_due_cycle(LINEAGE)
        evidence = (await meta.deps.status_store.reports(LINEAGE))[-1].evidence
        assert evidence.drift["words"] < -20
        assert "words_fell" in {alarm.name for alarm in evidence.alarms}
        await archiver(redis, tmp_path, EAGER._replace(rows=8)).archive_due(TASK)
        assert len(read_back(tmp_path)) == 16


async def test_without_a_cursor_nothing_is_trimmed_and_the_newest_stay(redis: Redis, tmp_path: Path) -> None:
    await scored(redis, 0, 30)
    await archiver(redis, tmp_path).archive_due(TASK)
    assert len(names(tmp_path)) == 3
    assert len(await ids(redis)) == 30
    await consumed(redis)
    await archiver(redis, tmp_path, EAGER._replace(keep=15)).archive_due(TASK)
    assert len(await ids(redis)) == 20, "fifteen are to stay, and a file's range goes whole"


async def test_few_traces_wait_for_company_but_not_for_ever(redis: Redis, tmp_path: Path) -> None:
    await scored(redis, 0, 3)
    await archiver(redis, tmp_path).archive_due(TASK)
    assert not (tmp_path / TASK).exists()
    await archiver(redis, tmp_path, EAGER._replace(every_s=0.0)).archive_due(TASK)
    assert len(read_back(tmp_path)) == 3


async def test_a_page_is_all_that_is_in_memory(redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    add = TraceFile.add

    def noted(self: TraceFile, page: Sequence[tuple[str, Trace]]) -> None:
        sizes.append(len(page))
        add(self, page)

    monkeypatch.setattr(TraceFile, "add", noted)
    await scored(redis, 0, 600)
    await archiver(redis, tmp_path, EAGER._replace(rows=600)).archive_due(TASK)
    assert sizes == [256, 256, 88]
    assert len(read_back(tmp_path)) == 600


async def test_two_workers_archive_each_trace_once(redis: Redis, tmp_path: Path) -> None:
    wanted = await scored(redis, 0, 60)
    await consumed(redis)
    one, other = archiver(redis, tmp_path), archiver(redis, tmp_path)
    await asyncio.gather(one.archive_due(TASK), other.archive_due(TASK))
    await one.archive_due(TASK)
    assert read_back(tmp_path) == wanted
    assert await ids(redis) == []


class Dies(Exception):
    """The process ends here, as far as the store is concerned."""


class Dying(ArchiveStore):
    """A store whose process dies before or behind the publishing of a file."""

    def __init__(self, url: str, behind: bool) -> None:
        super().__init__(url)
        self._behind = behind

    def publish(self, task: str, written: TraceFile) -> str:
        if self._behind:
            super().publish(task, written)
        raise Dies


@pytest.mark.parametrize("behind", [False, True])
async def test_a_death_at_the_store_loses_and_doubles_nothing(redis: Redis, tmp_path: Path, behind: bool) -> None:
    """More traces have come when the next worker looks, and it writes smaller files: the announced range stands."""
    wanted = await scored(redis, 0, 7)
    await consumed(redis)
    dying = archiver(redis, tmp_path, EAGER._replace(every_s=0.0))
    dying._store = Dying(str(tmp_path), behind)
    with pytest.raises(Dies):
        await dying.archive_due(TASK)
    assert len(await ids(redis)) == 7, "nothing is trimmed that may not be in the archive"
    wanted += await scored(redis, 7, 8)
    await consumed(redis)
    await archiver(redis, tmp_path, EAGER._replace(rows=5, every_s=0.0)).archive_due(TASK)
    assert read_back(tmp_path) == wanted
    assert len(names(tmp_path)) == 3
    assert await ids(redis) == []


async def test_a_worker_that_lost_its_lease_neither_trims_nor_moves_on(redis: Redis, tmp_path: Path) -> None:
    await scored(redis, 0, 10)
    await consumed(redis)
    worker = archiver(redis, tmp_path)

    class Slow(ArchiveStore):
        """Meanwhile another worker has taken the lease."""

        def publish(self, task: str, written: TraceFile) -> str:
            taken.set()
            return super().publish(task, written)

    taken = asyncio.Event()
    worker._store = Slow(str(tmp_path))
    step = worker._step

    async def late(redis_keys: Sequence[str], args: Sequence[str | int]) -> Any:
        if taken.is_set():
            await redis.set(keys.archive_lease_key(TASK), "another's")
        return await step(redis_keys, args)

    worker._step = late  # type: ignore[assignment]
    with pytest.raises(Conflict, match="lease was lost"):
        await worker.archive_due(TASK)
    assert len(await ids(redis)) == 10
    assert (await worker.state(TASK)).done == "0-0"
    await redis.delete(keys.archive_lease_key(TASK))
    await archiver(redis, tmp_path).archive_due(TASK)
    assert len(read_back(tmp_path)) == 10
    assert await ids(redis) == []


async def test_an_object_store_by_url(redis: Redis) -> None:
    wanted = await scored(redis, 0, 10)
    await archiver(redis, "memory://bucket/traces").archive_due(TASK)
    (path,) = fsspec.filesystem("memory").ls(f"/bucket/traces/{TASK}", detail=False)
    with fsspec.open(f"memory://{path}") as file:
        rows = pq.read_table(file).to_pylist()
    assert [trace_of(row) for row in rows] == wanted


@pytest.fixture
def spawned() -> Iterator[list[Process]]:
    running: list[Process] = []
    yield running
    for process in running:
        process.kill()


@pytest.mark.parametrize(
    ("pattern", "when"),
    [
        ('"next":{', "before"),
        ('"next":{', "behind"),
        ('"next":null,"kept":[{', "before"),
        ('"next":null,"kept":[{', "behind"),
    ],
)
async def test_a_worker_killed_while_it_archives(
    redis: Redis, valkey: Valkey, tmp_path: Path, spawned: list[Process], pattern: str, when: When
) -> None:
    """SIGKILL of the real service round the announcement of a file and round its being noted as done."""
    wanted = await scored(redis, 0, 25)
    await consumed(redis)
    settings: dict[str, Any] = {
        "archive_url": str(tmp_path / "archive"),
        "archive_rows": 10,
        "archive_keep": 0,
        "lease_ttl_s": 1.0,
        "poll_s": 0.05,
        "llm_proposer": False,
    }
    with halting(valkey.port, pattern, when) as proxy:
        spawned.append(
            spawn_service("services.meta_reward", "REGRADE_META_", tmp_path, redis_url=proxy.url, **settings)
        )
        proxy.wait()
        spawned[0].kill()
    wanted += await scored(redis, 25, 5)
    await consumed(redis)
    spawned.append(spawn_service("services.meta_reward", "REGRADE_META_", tmp_path, redis_url=valkey.url, **settings))

    async def trimmed() -> bool:
        return await ids(redis) == []

    await until(trimmed, "the next worker to archive and trim")
    assert read_back(tmp_path / "archive") == wanted
    assert len(names(tmp_path / "archive")) == 3, "nothing half written is left"
