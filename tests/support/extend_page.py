"""The examples of `docs/extend.md`, applied to a copy of the packages and run.

Each section (`## ...`) is an example. The first line of a fenced block is a comment that says what the block is:

    # services/kit/checks/ends_with_question.py            a file to add
    # register: services/kit/checks/__init__.py, below `CHECKS = (`   lines to insert below (or above) that line
    # try it                                                the last block: a program that must exit with 0

In JSON, which has no comments, `//` stands for `#`. Blocks without such a first line are text only. A section
without a block to apply is text only as well.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from os import environ, pathsep
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("regrade", "services")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FIRST = re.compile(
    r"(?:#|//) (?:(?P<try>try it)"
    r"|register: (?P<target>\S+), (?P<side>above|below) `(?P<anchor>.+)`"
    r"|(?P<path>[\w./-]+/[\w.-]+))"
)
_TIMEOUT_S = 240.0


class ExampleError(Exception):
    """An example does not work as it stands in the page; the message begins with the section's name."""


class Block(NamedTuple):
    """A fenced block: its language, what its first line says, and the text below that line."""

    language: str
    first: re.Match[str]
    text: str


class Section(NamedTuple):
    """A section of the page, with the blocks that are to be applied."""

    name: str
    blocks: Sequence[Block]


def sections(page: str) -> list[Section]:
    """The sections that have something to apply, in order. Raises `ExampleError` if one does not end in a try."""
    examples = []
    for part in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        name, _, body = part.partition("\n")
        section = Section(name.strip(), list(_blocks(body)))
        if not section.blocks:
            continue
        if [bool(block.first["try"]) for block in section.blocks] != [False] * (len(section.blocks) - 1) + [True]:
            raise ExampleError(f"{section.name}: the last block, and no other, must begin with `# try it`")
        examples.append(section)
    return examples


def _blocks(body: str) -> list[Block]:
    blocks = []
    for language, content in _FENCE.findall(body):
        line, _, text = content.partition("\n")
        if first := _FIRST.fullmatch(line.strip()):
            blocks.append(Block(language, first, text))
    return blocks


def run(section: Section, root: Path, folder: Path) -> None:
    """Apply a section's blocks to a copy of the packages of `root` in `folder`, and run its try in a fresh process.

    Raises `ExampleError` where a file is there already, a line to register at is not found once, or the try fails.
    """
    for package in PACKAGES:
        shutil.copytree(root / package, folder / package)
    *changes, attempt = section.blocks
    for block in changes:
        if block.first["path"]:
            _add(section, folder / block.first["path"], block.text)
        else:
            _register(section, folder / block.first["target"], block)
    command = [sys.executable, "-c"] if attempt.language == "python" else ["bash", "-euo", "pipefail", "-c"]
    env = {"PYTHONPATH": str(folder), "PATH": f"{Path(sys.executable).parent}{pathsep}{environ['PATH']}"}
    done = subprocess.run(
        [*command, attempt.text], cwd=folder, env={**environ, **env}, capture_output=True, text=True,
        timeout=_TIMEOUT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ExampleError(f"{section.name}: the try exits with {done.returncode}:\n{done.stdout}{done.stderr}")


def _add(section: Section, path: Path, text: str) -> None:
    if path.exists():
        raise ExampleError(f"{section.name}: {path.name} is there already; a block adds a file or registers a line")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _register(section: Section, path: Path, block: Block) -> None:
    anchor = block.first["anchor"].strip()
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    places = [number for number, line in enumerate(lines) if line.strip() == anchor]
    if len(places) != 1:
        raise ExampleError(f"{section.name}: {path.name} has the line `{anchor}` {len(places)} times, not once")
    at = places[0] + (block.first["side"] == "below")
    lines[at:at] = [block.text]
    path.write_text("".join(lines), encoding="utf-8")
