"""What commands print: texts of any origin, tables that never break a word, JSON, and errors of one line."""

import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import typer
from pydantic import BaseModel, TypeAdapter
from rich.console import Console
from rich.measure import measure_renderables
from rich.table import Table
from rich.text import Text

console = Console()
_errors = Console(stderr=True)
_UNLIMITED = console.options.update(max_width=1_000_000)
_GAP = 2
"""Cells between two columns."""


def fail(message: str) -> NoReturn:
    """Print `message` to stderr and end with status 1."""
    _errors.print(Text.assemble(("error:", "bold red"), " ", escaped(message)), soft_wrap=True)
    raise typer.Exit(1)


def print_notice(message: str) -> None:
    """Print a remark to stderr, so that stdout holds nothing but the command's result."""
    _errors.print(escaped(message, "yellow"), soft_wrap=True)


def counted(number: int, noun: str) -> str:
    """`1 cycle`, `2 cycles`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def local_time(seconds: float) -> str:
    """Unix seconds as a local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def print_text(text: str, style: str = "") -> None:
    """A text of any origin: markup is not interpreted, and control characters are escaped."""
    console.print(escaped(text, style), soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; cells are treated as in `print_text`, and None is an empty cell.

    A terminal gets a table that wraps between words, or, where that would break words, one block of lines a row. A file
    or pipe gets one line a row, never cut.
    """
    cells = [tuple("" if cell is None else _escape(str(cell)) for cell in row) for row in rows]
    if not console.is_terminal:
        return _print_records(columns, cells)
    widths = _widths(columns, cells)
    if widths is None:
        return _print_blocks(columns, cells)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for name, width in zip(columns, widths, strict=True):
        table.add_column(name, width=width)
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def print_json(answer: BaseModel | Sequence[BaseModel]) -> None:
    """A response as JSON; several as an array."""
    console.print_json(TypeAdapter(Any).dump_json(answer).decode())


def escaped(text: str, style: str = "") -> Text:
    """`text` without markup; a terminal would obey the control characters of a completion."""
    return Text(_escape(text), style=style)


def _escape(text: str) -> str:
    return "".join(c if c in "\n\t" or c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int] | None:
    """The width of each column on this terminal, in cells; None if the longest words do not fit side by side."""
    texts = [[Text(cell) for cell in column] for column in zip(columns, *rows, strict=True)]
    ranges = [measure_renderables(console, _UNLIMITED, column) for column in texts]
    widths = [measured.minimum for measured in ranges]
    free = console.width - sum(widths) - _GAP * (len(widths) - 1)
    if free < 0:
        return None
    narrowest_first = sorted(range(len(ranges)), key=lambda n: ranges[n].span)
    for rank, n in enumerate(narrowest_first):
        extra = min(ranges[n].span, free // (len(ranges) - rank))
        widths[n] += extra
        free -= extra
    return widths


def _print_records(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    records = [[" ".join(cell.split()) for cell in row] for row in (columns, *rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*records, strict=True)]
    for record in records:
        print_text("  ".join(cell.ljust(width) for cell, width in zip(record, widths, strict=True)).rstrip())


def _print_blocks(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    label = max(map(len, columns)) + 2
    room = max(1, console.width - label)
    for row in rows:
        for name, cell in zip(columns, row, strict=True):
            parts = [
                textwrap.wrap(part, room, break_long_words=False, break_on_hyphens=False) for part in cell.split("\n")
            ]
            for number, text in enumerate(part for wrapped in parts for part in wrapped):
                print_text(f"{'' if number else name:<{label}}{text}")
        print_text("")
