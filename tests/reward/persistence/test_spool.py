"""The spool on disk: torn and damaged lines, folders of dead and living processes, bounds, permissions."""

import asyncio
import shutil
import stat
import time
import zlib
from pathlib import Path

import pytest

from services.kit.errors import Overloaded, Unavailable
from services.reward.persistence.spool import Limits, Spool
from services.reward.persistence.spool_segments import Entry, StoredRubric, encode, read_lines
from tests.support.builders import TASK, checks_only, result

LIMITS = Limits(max_bytes=100_000, max_age_s=3_600.0, segment_bytes=4_000, fsync=True)
RUBRIC = checks_only()


def _entry(name: str, *, reward: float = 0.5, written: float | None = None) -> Entry:
    outcome = result(RUBRIC.digest, item_id=name, reward=reward).model_dump_json()
    return Entry(
        task=TASK,
        lineage="main",
        base=name,
        rubric=f"{RUBRIC.digest} 1 ",
        pin="pin",
        made_up=False,
        ttl_s=60,
        outcome=outcome,
        trace='{"text": "two\\nlines, ünïcode"}',
        time=written or time.time(),
    )


async def _write(spool: Spool, *names: str) -> list[str]:
    return await spool.write([_entry(name) for name in names], [(TASK, RUBRIC)])


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _segments(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.seg"))


async def _reopened(root: Path) -> tuple[Spool, list[str]]:
    """A later process on the same folder, and the items it finds."""
    spool = Spool(root, LIMITS)
    return spool, [line.base for line in await spool.adopt() if isinstance(line, Entry)]


async def test_what_was_written_is_found_by_the_next_process(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMITS)
    assert await _write(spool, "a", "b") == ["", ""]
    await spool.aclose()
    later = Spool(tmp_path, LIMITS)
    assert [type(line) for line in await later.adopt()] == [StoredRubric, Entry, Entry]
    held = later.held(TASK, "a")
    assert held is not None
    assert (held.id, held.cached) == ("a", True)
    assert later.held(TASK, "c") is later.held("other_task", "a") is None
    assert later.entries == 2
    await later.aclose()


async def test_i5_the_first_writer_of_an_item_counts(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMITS)
    first, second = _entry("a", reward=0.25), _entry("a", reward=0.75)
    assert await spool.write([first, second], []) == ["", first.outcome]
    answers = await asyncio.gather(*(spool.write([_entry("b", reward=n / 10)], []) for n in range(8)))
    assert sum(reply == "" for (reply,) in answers) == 1
    assert len({reply for (reply,) in answers if reply}) == 1
    assert spool.entries == 2
    await spool.aclose()


@pytest.mark.parametrize("cut", [1, 30, 200])
async def test_i5_a_torn_tail_costs_what_was_never_answered_and_nothing_else(tmp_path: Path, cut: int) -> None:
    spool = Spool(tmp_path, LIMITS)
    await _write(spool, "a", "b")
    await spool.aclose()
    (segment,) = _segments(tmp_path)
    with segment.open("ab") as file:
        file.write(encode(_entry("torn"))[:-cut])
    later, found = await _reopened(tmp_path)
    assert found == ["a", "b"]
    await _write(later, "c")
    await later.aclose()
    latest, found = await _reopened(tmp_path)
    assert sorted(found) == ["a", "b", "c"]
    await latest.aclose()


async def test_a_damaged_line_is_left_out_and_the_next_one_reads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path, LIMITS)
    await _write(spool, "a", "b", "c")
    await spool.aclose()
    (segment,) = _segments(tmp_path)
    lines = segment.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"reward', b'"Reward', 1)
    segment.write_bytes(b"".join(lines) + b"\n17\nnonsense\n")
    assert [line.base for line in read_lines(segment) if isinstance(line, Entry)] == ["a", "c"]
    assert caplog.text.count("torn or damaged") == 4


async def test_a_living_process_keeps_its_folder(tmp_path: Path) -> None:
    first = Spool(tmp_path, LIMITS)
    await _write(first, "a")
    second, found = await _reopened(tmp_path)
    assert found == []
    await _write(second, "b")
    assert len({segment.parent for segment in _segments(tmp_path)}) == 2
    await first.aclose()
    assert [line.base for line in await second.adopt() if isinstance(line, Entry)] == ["a"]
    assert await second.adopt() == []
    third, found = await _reopened(tmp_path)
    assert found == []
    await second.aclose()
    assert [line.base for line in await third.adopt() if isinstance(line, Entry)] in (["a", "b"], ["b", "a"])
    await third.aclose()


async def test_many_processes_share_out_the_orphans(tmp_path: Path) -> None:
    for n in range(5):
        dead = Spool(tmp_path, LIMITS)
        await _write(dead, str(n))
        await dead.aclose()
    living = [Spool(tmp_path, LIMITS) for _ in range(4)]
    found = await asyncio.gather(*(spool.adopt() for spool in living))
    bases = [line.base for lines in found for line in lines if isinstance(line, Entry)]
    assert sorted(bases) == list("01234")
    for spool in living:
        await spool.aclose()


async def test_segments_are_small_self_contained_and_deleted_when_acknowledged(tmp_path: Path) -> None:
    dead = Spool(tmp_path, LIMITS)
    for n in range(30):
        await _write(dead, str(n))
    await dead.aclose()
    assert len(_segments(tmp_path)) > 2
    for segment in _segments(tmp_path):
        assert segment.stat().st_size <= LIMITS.segment_bytes + 2_000
        assert isinstance(next(read_lines(segment)), StoredRubric)
    spool, _ = await _reopened(tmp_path)
    first, *rest = await spool.sealed()
    pending = await spool.pending(first)
    spool.acknowledge(first, pending[:1])
    assert await spool.pending(first) == pending[1:]
    assert spool.held(TASK, pending[0].base) is None
    for one in (first, *rest):
        spool.acknowledge(one, await spool.pending(one))
        spool.drop(one)
    assert (spool.entries, spool.bytes, spool.empty) == (0, 0, True)
    assert _segments(tmp_path) == []
    await spool.aclose()
    assert _names(tmp_path) == []


async def test_it_is_bounded_in_size(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMITS._replace(max_bytes=3_000))
    await _write(spool, "a")
    with pytest.raises(Overloaded) as refused:
        await spool.write([_entry(f"more{n}") for n in range(9)], [])
    assert (refused.value.status, refused.value.code) == (429, "spool_full")
    assert refused.value.retry_after
    assert spool.full
    assert spool.bytes == sum(segment.stat().st_size for segment in _segments(tmp_path)) < 3_000
    assert await _write(spool, "a") == [_entry("a").outcome]
    (segment,) = await spool.sealed()
    spool.acknowledge(segment, await spool.pending(segment))
    spool.drop(segment)
    assert await _write(spool, "b") == [""]
    await spool.aclose()


async def test_it_is_bounded_in_age(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMITS)
    await spool.write([_entry("old", written=time.time() - 4_000.0)], [])
    with pytest.raises(Overloaded, match="spool"):
        await _write(spool, "new")
    assert spool.held(TASK, "old") is not None
    await spool.aclose()


async def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    root = tmp_path / "deeper" / "spool"
    spool = Spool(root, LIMITS)
    await _write(spool, "a")
    for path in (root, *root.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    await spool.aclose()


async def test_a_disk_that_fails_is_told_and_counts_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMITS)
    (name,) = _names(tmp_path)
    own = tmp_path / name
    moved = shutil.move(own, tmp_path / "away")
    with pytest.raises(Unavailable) as failed:
        await _write(spool, "a")
    assert (failed.value.status, failed.value.code) == (503, "spool_failed")
    assert spool.held(TASK, "a") is None
    shutil.move(moved, own)
    assert await _write(spool, "a") == [""]
    await spool.aclose()


async def test_a_segment_of_another_release_is_put_aside_not_lost(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMITS)
    await _write(spool, "a")
    await spool.aclose()
    (segment,) = _segments(tmp_path)
    payload = b'{"kind":"item","colour":"red"}'
    segment.write_bytes(b"%d %08x %s\n" % (len(payload), zlib.crc32(payload), payload))
    later, found = await _reopened(tmp_path)
    assert found == []
    await later.aclose()
    assert (tmp_path / f"{segment.parent.name}-{segment.stem}.unread").read_bytes().endswith(payload + b"\n")


async def test_foreign_folders_are_let_be(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    spool, found = await _reopened(tmp_path)
    assert found == []
    await spool.aclose()
    assert _names(tmp_path) == ["lost+found", "notes.txt"]
    assert _names(tmp_path / "lost+found") == []


async def test_a_caller_that_goes_away_leaves_no_half_written_batch(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LIMITS)
    leaving = asyncio.create_task(_write(spool, "a"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await _write(spool, "b") == [""]
    await spool.aclose()
    later, found = await _reopened(tmp_path)
    assert found == ["a", "b"]
    await later.aclose()
