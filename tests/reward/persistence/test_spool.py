"""The spool on disk: killed writers, damaged files, files of dead and living processes, bounds, permissions."""

import asyncio
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.kit.errors import Overloaded, ServiceError, Unavailable
from services.reward.persistence.spool import Spool, SpoolLimits
from services.reward.persistence.spool_file import SpoolEntry, SpoolFile
from tests.support.builders import TASK, checks_only, result

LIMITS = SpoolLimits(max_bytes=100_000, max_age_s=3_600.0, fsync=True)
RUBRIC = checks_only()
WRITER = """
import asyncio, itertools, sys
from pathlib import Path
from typing import Any
from tests.reward.persistence.test_spool import LIMITS, Spool, write

async def main() -> None:
    spool = Spool(Path(sys.argv[1]), LIMITS._replace(max_bytes=10**9, fsync=sys.argv[2] == "fsync"))
    for n in itertools.count():
        await write(spool, f"{n}.0", f"{n}.1", f"{n}.2")
        print(n, flush=True)

asyncio.run(main())
"""


def entry(name: str, *, reward: float = 0.5, written: float | None = None, task: str = TASK) -> SpoolEntry:
    outcome = result(RUBRIC.digest, item_id=name, reward=reward).model_dump_json().encode()
    return SpoolEntry(
        task=task,
        lineage="main",
        base=name,
        rubric=f"{RUBRIC.digest} 1 ",
        pin="pin",
        provisional=False,
        ttl_s=60,
        outcome=outcome,
        trace='{"text": "two\\nlines, ünïcode"}'.encode(),
        time=written or time.time(),
    )


async def write(spool: Spool, *names: str) -> list[bytes]:
    return await spool.write([entry(name) for name in names], [(TASK, RUBRIC)])


async def replayed(spool: Spool) -> list[str]:
    """Everything in the spool, in the order of a replay, after which it is empty."""
    names: list[str] = []
    for file in await spool.sealed():
        batch, position = await spool.batch(file, 0)
        while batch:
            names += [one.base for one in batch]
            await spool.acknowledge(file, batch)
            batch, position = await spool.batch(file, position)
        await spool.drop(file)
    return names


async def reopened(root: Path) -> Spool:
    """A later process on the same folder."""
    spool = Spool(root, LIMITS)
    await spool.adopt()
    return spool


def databases(root: Path) -> list[Path]:
    return sorted(root.glob("*.spool"))


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def killed_writer(root: Path, durability: str, batches: int) -> None:
    """A process that is killed once it has acknowledged so many batches."""
    command = [sys.executable, "-c", WRITER, str(root), durability]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert [int(writer.stdout.readline()) for _ in range(batches)] == list(range(batches))
        writer.kill()


def copy_with_torn_journal(database: Path, folder: Path, cut: int) -> None:
    folder.mkdir()
    shutil.copy(database, folder)
    (folder / f"{database.name}-wal").write_bytes(Path(f"{database}-wal").read_bytes()[:-cut])


async def test_the_next_process_has_what_was_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMITS)
    assert await write(spool, "a", "b") == [b"", b""]
    await spool.aclose()
    later = Spool(tmp_path, LIMITS)
    adopted = await later.adopt()
    assert [(pin.pin, pin.rubric, pin.ttl_s) for pin in adopted.pins] == [("pin", entry("a").rubric, 60)]
    assert adopted.rubrics == [(TASK, RUBRIC.model_dump_json().encode())]
    outcomes = await later.outcomes(TASK, ["a", "c"])
    assert [(base, outcome.id, outcome.cached) for base, outcome in outcomes.items()] == [("a", "a", True)]
    assert await later.outcomes("other_task", ["a"]) == {}
    assert later.entries == 2
    assert await replayed(later) == ["a", "b"]
    await later.aclose()
    assert files(tmp_path) == []


async def test_i5_the_first_writer_of_an_item_counts(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMITS)
    first, second = entry("a", reward=0.25), entry("a", reward=0.75)
    assert await spool.write([first, second], []) == [b"", first.outcome]
    answers = await asyncio.gather(*(spool.write([entry("b", reward=n / 10)], []) for n in range(8)))
    assert sum(reply == b"" for (reply,) in answers) == 1
    assert len({reply for (reply,) in answers if reply}) == 1
    assert spool.entries == 2
    await spool.aclose()
    later = await reopened(tmp_path)
    assert await later.write([second], []) == [first.outcome]
    await later.aclose()


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["fsync", "no fsync"])
async def test_i5_a_writer_killed_at_any_moment_loses_nothing_it_answered(tmp_path: Path, durability: str) -> None:
    """Whole batches alone are there, and every one that was acknowledged."""
    for batches in (1, 7, 40):
        root = tmp_path / str(batches)
        await asyncio.to_thread(killed_writer, root, durability, batches)
        spool = await reopened(root)
        names = await replayed(spool)
        count = len(names) // 3
        assert count >= batches
        assert names == [f"{n}.{m}" for n in range(count) for m in range(3)]
        await spool.aclose()


@pytest.mark.parametrize("cut", [1, 3_000, 5_000])
async def test_i5_a_torn_tail_costs_the_unanswered_batch_only(tmp_path: Path, cut: int) -> None:
    """The disk's state in the middle of a write: the last transaction is incomplete."""
    spool = Spool(tmp_path / "live", LIMITS)
    await write(spool, "a", "b")
    await write(spool, "torn")
    (live,) = databases(tmp_path / "live")
    copy_with_torn_journal(live, tmp_path / "crashed", cut)
    later = await reopened(tmp_path / "crashed")
    assert sorted(await later.outcomes(TASK, ["a", "b", "torn"])) == ["a", "b"]
    assert await write(later, "c") == [b""]
    assert await replayed(later) == ["a", "b", "c"]
    await later.aclose()
    await spool.aclose()


@pytest.mark.parametrize(("start", "length"), [(0, 4_096), (100, 50), (4_096, 4_096), (9_000, 9_000)])
async def test_a_damaged_file_is_put_aside_and_the_others_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, start: int, length: int
) -> None:
    for name in ("a", "b"):
        spool = Spool(tmp_path, LIMITS)
        await write(spool, *(f"{name}{n}" for n in range(20)))
        await spool.aclose()
    damaged, _ = databases(tmp_path)
    content = bytearray(damaged.read_bytes())
    content[start : start + length] = b"\xff" * length
    damaged.write_bytes(content)
    later = await reopened(tmp_path)
    assert later.entries == 20
    assert f"{damaged.name}.unread" in files(tmp_path)
    assert "a spool cannot be read" in caplog.text
    await later.aclose()


async def test_a_file_of_another_release_is_put_aside_not_lost(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMITS)
    await write(spool, "a")
    await spool.aclose()
    (path,) = databases(tmp_path)
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    later = await reopened(tmp_path)
    assert later.entries == 0
    await later.aclose()
    with sqlite3.connect(f"{path}.unread") as database:
        assert database.execute("SELECT base FROM entries").fetchall() == [("a",)]
    database.close()


async def test_a_living_process_keeps_its_file(tmp_path: Path) -> None:
    first = Spool(tmp_path, LIMITS)
    await write(first, "a")
    second = await reopened(tmp_path)
    assert second.entries == 0
    await write(second, "b")
    assert len(databases(tmp_path)) == 2
    await first.aclose()
    await second.adopt()
    assert second.entries == 2
    assert (await second.adopt()).pins == []
    third = await reopened(tmp_path)
    assert third.entries == 0
    await second.aclose()
    await third.adopt()
    assert sorted(await replayed(third)) == ["a", "b"]
    await third.aclose()


async def test_many_processes_share_out_the_orphans(tmp_path: Path) -> None:
    for n in range(5):
        dead = Spool(tmp_path, LIMITS)
        await write(dead, str(n))
        await dead.aclose()
    living = [Spool(tmp_path, LIMITS) for _ in range(4)]
    await asyncio.gather(*(spool.adopt() for spool in living))
    shares = [await replayed(spool) for spool in living]
    assert sorted(name for share in shares for name in share) == list("01234")
    for spool in living:
        await spool.aclose()


async def test_a_replay_takes_bounded_batches_and_later_entries_go_to_another_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMITS._replace(max_bytes=10_000_000))
    await spool.write([entry(str(n)) for n in range(100)], [(TASK, RUBRIC)])
    (file,) = await spool.sealed()
    await write(spool, "later")
    batch, position = await spool.batch(file, 0)
    assert [one.base for one in batch] == [str(n) for n in range(64)]
    await spool.acknowledge(file, batch)
    assert await spool.outcomes(TASK, ["0", "64"]) == await spool.outcomes(TASK, ["64"])
    batch, position = await spool.batch(file, position)
    assert [one.base for one in batch] == [str(n) for n in range(64, 100)]
    assert await spool.batch(file, position) == ([], position)
    await spool.acknowledge(file, batch)
    await spool.drop(file)
    assert len(databases(tmp_path)) == spool.entries == 1
    assert await replayed(spool) == ["later"]
    assert spool.size == 0
    await spool.aclose()
    large = [entry(str(n))._replace(trace=b"x" * 3_000_000) for n in range(2)]
    spool = Spool(tmp_path, LIMITS._replace(max_bytes=10_000_000))
    await spool.write(large, [])
    (file,) = await spool.sealed()
    assert [one.base for one in (await spool.batch(file, 0))[0]] == ["0"]
    await spool.aclose()


async def test_it_is_bounded_in_size(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMITS._replace(max_bytes=3_000))
    await write(spool, "a")
    with pytest.raises(Overloaded) as refused:
        await spool.write([entry(f"more{n}") for n in range(9)], [])
    assert (refused.value.status, refused.value.code) == (429, "spool_full")
    assert refused.value.retry_after
    assert spool.full
    assert spool.size < 3_000
    assert await write(spool, "a") == [entry("a").outcome]
    assert await replayed(spool) == ["a"]
    assert await write(spool, "b") == [b""]
    await spool.aclose()


async def test_it_is_bounded_in_age(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMITS)
    await spool.write([entry("old", written=time.time() - 4_000.0)], [])
    with pytest.raises(Overloaded, match="spool"):
        await write(spool, "new")
    assert list(await spool.outcomes(TASK, ["old"])) == ["old"]
    await spool.aclose()


async def test_a_full_disk_is_429_and_loses_nothing(tmp_path: Path) -> None:
    """The replay works without any room: it reads, and then deletes the whole file."""
    spool = Spool(tmp_path, LIMITS)
    await write(spool, "a")
    (file,) = spool._files
    (pages,) = file._connection.execute("PRAGMA page_count").fetchone()
    file._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Overloaded) as refused:
        await spool.write([entry("b")._replace(trace=b"x" * 20_000), entry("c")], [])
    assert (refused.value.status, refused.value.code) == (429, "spool_full")
    assert list(await spool.outcomes(TASK, ["a", "b", "c"])) == ["a"]
    assert await replayed(spool) == ["a"]
    assert await write(spool, "b") == [b""]
    await spool.aclose()


async def test_entries_that_cannot_be_deleted_are_replayed_until_the_file_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_a_full_disk(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    spool = Spool(tmp_path, LIMITS)
    await write(spool, "a", "b")
    monkeypatch.setattr(SpoolFile, "delete", on_a_full_disk)
    assert await replayed(spool) == ["a", "b"]
    assert (spool.entries, databases(tmp_path)) == (0, [])
    await spool.aclose()


async def test_a_disk_that_fails_is_503_and_counts_nothing(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    spool = Spool(root, LIMITS)
    await write(spool, "a")
    await replayed(spool)
    moved = shutil.move(root, tmp_path / "elsewhere")
    with pytest.raises(Unavailable) as failed:
        await write(spool, "a")
    assert (failed.value.status, failed.value.code) == (503, "spool_failed")
    assert await spool.outcomes(TASK, ["a"]) == {}
    shutil.move(moved, root)
    assert await write(spool, "a") == [b""]
    await spool.aclose()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY])
async def test_after_a_failed_write_it_is_full_until_a_probe_of_that_size_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    room = 5_000_000

    def on_a_small_disk(write: Callable[..., None]) -> Callable[..., None]:
        def limited(file: SpoolFile, first: Any, *rest: Any) -> None:
            wanted = first if isinstance(first, int) else sum(one.size for one in first)
            if wanted > room:
                error = sqlite3.OperationalError("the disk fails")
                error.sqlite_errorcode = code
                raise error
            write(file, first, *rest)

        return limited

    for name in ("insert", "fill"):
        monkeypatch.setattr(SpoolFile, name, on_a_small_disk(getattr(SpoolFile, name)))
    spool = Spool(tmp_path, LIMITS._replace(max_bytes=1_000_000_000))
    await spool.probe()
    await write(spool, "a")
    with pytest.raises(ServiceError):
        await spool.write([entry("b")._replace(trace=b"x" * 6_000_000)], [])
    for _ in range(2):
        assert spool.full
        with pytest.raises(ServiceError) as refused:
            spool.refuse_if_full()
        assert refused.value.status in (429, 503)
        await spool.probe()
    room = 50_000_000
    await spool.probe()
    assert not spool.full
    spool.refuse_if_full()
    assert len(databases(tmp_path)) == 1, "a probe leaves nothing behind"
    assert await replayed(spool) == ["a"]
    await spool.aclose()


@pytest.mark.parametrize(("fsync", "synchronous"), [(True, 2), (False, 1)])
async def test_a_batch_is_fsynced_where_that_is_set(tmp_path: Path, fsync: bool, synchronous: int) -> None:
    spool = Spool(tmp_path, LIMITS._replace(fsync=fsync))
    (file,) = spool._files
    assert file._connection.execute("PRAGMA synchronous").fetchone() == (synchronous,)
    assert file._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await spool.aclose()


async def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    root = tmp_path / "deeper" / "spool"
    spool = Spool(root, LIMITS)
    await write(spool, "a")
    for path in (root, *root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    await spool.aclose()


async def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    spool = await reopened(tmp_path)
    await spool.aclose()
    assert files(tmp_path) == ["lost+found", "notes.txt"]


async def test_a_caller_that_goes_away_leaves_no_half_written_batch(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMITS)
    leaving = asyncio.create_task(write(spool, "a"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await write(spool, "b") == [b""]
    await spool.aclose()
    later = await reopened(tmp_path)
    assert await replayed(later) == ["a", "b"]
    await later.aclose()
