"""Rubrics as files that people edit: reading one whose digest is out of date, and an editor for the active one."""

import json
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from pydantic import ValidationError

from regrade.cli.connection import first_problem, read_text
from regrade.cli.output import fail, print_notice
from regrade.contracts import Rubric

_LABELS = ("digest", "version", "created_by")
"""What a printed rubric says about itself; a digest is the identity of its content, so an edit makes it wrong."""


def read_rubric(file: Path) -> Rubric:
    """The rubric in a file; if it was edited since it was printed, without the labels that no longer hold.

    Ends the command with one line if the file holds no rubric.
    """
    text = read_text(file)
    try:
        value = json.loads(text)
    except ValueError as error:
        fail(f"{file}: not JSON: {error}")
    printed = value.get("digest") if isinstance(value, dict) else None
    labels = {name: value.pop(name) for name in _LABELS if name in value} if printed is not None else {}
    try:
        rubric = Rubric.model_validate_json(json.dumps(value))
        if rubric.digest == printed:
            return Rubric.model_validate_json(json.dumps(value | labels))
    except ValidationError as error:
        fail(f"{file}: {first_problem(error)}. `regrade schema Rubric` prints what a rubric may hold")
    if printed is not None:
        print_notice(
            f"note: {file} was edited: its {', '.join(labels)} ({str(printed)[:8]}) are those of the rubric before the "
            f"edit, and are ignored. The digest is {rubric.digest[:8]} now"
        )
    return rubric


def edit_rubric(rubric: Rubric) -> tuple[Rubric, Path]:
    """`rubric` as a person leaves it in $VISUAL or $EDITOR, and the file with the text.

    Ends the command with one line, which names the file, if there is no editor or the text is no rubric.
    """
    hidden = {*_LABELS, "parent"}
    descriptor, name = tempfile.mkstemp(prefix="regrade-rubric-", suffix=".json")
    with os.fdopen(descriptor, "w", encoding="utf-8") as output:
        output.write(f"{rubric.model_dump_json(indent=2, exclude=hidden)}\n")
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        status = subprocess.run([*shlex.split(editor), name], check=False).returncode  # noqa: S603 - the user's editor
    except (OSError, ValueError) as error:
        fail(f"the editor {editor!r} does not start ({error}): set EDITOR, or edit {name} and put it with `rubric put`")
    if status != 0:
        fail(f"the editor {editor!r} ended with status {status}; nothing was activated, and your text is in {name}")
    return read_rubric(Path(name)), Path(name)
