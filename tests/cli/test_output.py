"""Tables on terminals of several widths, and in files and pipes: no word is broken, no cell is cut."""

import io
import re
from collections.abc import Sequence

import pytest
from rich.console import Console

from regrade.cli import output

COLUMNS = ("time", "event", "version", "digest", "by", "order", "attacks resisted", "reason")
ROWS = [
    ("2026-11-28 22:04:09", "activated", 2, "0123abcd", "catalogue", "0.71 → 0.93", "0.50 → 1.00", "passed the gate"),
    ("2026-11-28 22:05:10", "rolled_back", 1, "4567cdef", "dana", None, None, "rewards [/INST] fell\x1b[31m too hard"),
]


def printed(monkeypatch: pytest.MonkeyPatch, width: int, *, terminal: bool, rows: Sequence[tuple[object, ...]]) -> str:
    file = io.StringIO()
    monkeypatch.setattr(output, "console", Console(file=file, width=width, force_terminal=terminal))
    output.print_table(COLUMNS, rows)
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())


@pytest.mark.parametrize("width", [40, 80, 120, 240])
@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], [(*ROWS[0][:-1], "w" * 38)]])
def test_a_terminal_breaks_no_word(
    monkeypatch: pytest.MonkeyPatch, width: int, rows: Sequence[tuple[object, ...]]
) -> None:
    text = printed(monkeypatch, width, terminal=True, rows=rows)
    words = set(text.split())
    for cell in (cell for row in rows for cell in row if cell is not None):
        assert set(str(cell).replace("\x1b", "\\u001b").split()) <= words, text
    assert "…" not in text
    if "w" * 38 not in text:
        assert max(map(len, text.splitlines())) <= width


def test_a_pipe_gets_one_line_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*ROWS, (*ROWS[0][:-1], f"two\nlines {'and words ' * 40}end")]
    lines = printed(monkeypatch, 80, terminal=False, rows=rows).splitlines()
    assert len(lines) == 1 + len(rows)
    assert lines[0].split() == " ".join(COLUMNS).split()
    assert lines[3].endswith("and words end")
    assert "two lines and" in lines[3]
    assert [lines[n].index("0.71") for n in (1, 3)] == 2 * [lines[0].index("order")]


def test_a_table_without_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(monkeypatch, 80, terminal=False, rows=[]).split() == " ".join(COLUMNS).split()
    assert "…" not in printed(monkeypatch, 240, terminal=True, rows=[])
