"""`regrade tasks`: list task packs, create one, validate one."""

import os
from pathlib import Path
from typing import Annotated

import typer

from regrade.cli.groups import ListGroup
from regrade.cli.output import fail, print_notice, print_table, print_text
from regrade.tasks import BrokenTaskError, TaskPack, UnknownTaskError, available_tasks, load_pack
from regrade.tasks.pack import TASKS_DIR, Evaluator, Kind, read_pack
from regrade.tasks.scaffold import new_pack
from regrade.tasks.validate import findings

_DEFAULT_FOLDER = Path("tasks")
_HELP = """Task packs: a folder with prompts, rubrics and anchors for each task. `regrade tasks` lists them.

Example: regrade tasks new haiku --in my-tasks
"""

app = typer.Typer(cls=ListGroup, help=_HELP)


@app.command("list")
def list_tasks() -> None:
    """List the tasks of this package and of the folders in REGRADE_TASKS_DIR.

    Example: regrade tasks list
    """
    columns = ("task", "kind", "mode", "evaluator", "prompts", "originals", "rubrics")
    print_table(columns, (_row(task) for task in available_tasks()))


@app.command()
def new(
    task: Annotated[str, typer.Argument(help="Name of the task: letters, digits, _ . and -.")],
    folder: Annotated[Path, typer.Option("--in", help="Folder for your packs; created if missing.")] = _DEFAULT_FOLDER,
    kind: Annotated[
        Kind, typer.Option(help="breadth: one rubric for all prompts. depth: guidelines for each scope.")
    ] = "breadth",
    evaluator: Annotated[Evaluator, typer.Option(help="How a trained policy is evaluated.")] = "judge",
) -> None:
    """Create a task pack to start from: every file is there, with lines to replace.

    Example: regrade tasks new haiku --in my-tasks
    """
    try:
        pack = new_pack(folder, task, kind=kind, evaluator=evaluator)
    except (FileExistsError, ValueError) as error:
        fail(str(error))
    print_text(f"written: {pack}")
    print_text(f"next: edit its files, then `regrade tasks validate {pack}`")
    if str(folder.resolve()) not in os.environ.get(TASKS_DIR, "").split(os.pathsep):
        print_text(f"for the services and the trainer: export {TASKS_DIR}={folder.resolve()}")


@app.command()
def validate(
    task: Annotated[str, typer.Argument(help="Name of a task, or the folder of its pack.")],
) -> None:
    """Check a task pack; ends with status 1 if it cannot be used for training.

    A warning is no error: a new pack is valid, and its example lines are named.

    Example: regrade tasks validate my-tasks/haiku
    """
    try:
        pack = _named(task)
    except (BrokenTaskError, UnknownTaskError) as error:
        fail(str(error))
    problems = findings(pack)
    for problem in problems:
        mark, style = ("error", "red") if problem.fatal else ("warning", "yellow")
        print_text(f"{mark}: {problem.text}", style)
    if any(problem.fatal for problem in problems):
        raise typer.Exit(1)
    prompts, originals = len(pack.prompts), len(pack.originals)
    print_text(f"{pack.name} is valid: {prompts} prompts, {originals} trusted originals", style="green")


def _named(task: str) -> TaskPack:
    """The pack in a folder, of a task, or in the folder that `tasks new` writes to by default."""
    if Path(task).is_dir():
        return read_pack(Path(task).resolve())
    made = _DEFAULT_FOLDER / task
    return read_pack(made.resolve()) if task not in available_tasks() and made.is_dir() else load_pack(task)


def _row(task: str) -> tuple[object, ...]:
    try:
        pack = load_pack(task)
    except BrokenTaskError as error:
        print_notice(f"{task} is broken: {error}")
        return task, "broken", *[None] * 5
    counts = (len(pack.prompts), len(pack.originals))
    return task, pack.kind, pack.mode.value, pack.evaluator, *counts, len(pack.rubrics)
