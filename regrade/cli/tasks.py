"""`regrade tasks`: which tasks there are, a new one from a skeleton, and whether one holds together."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from regrade.cli.connection import console, fail
from regrade.tasks import BrokenTaskError, UnknownTaskError, available_tasks, load_pack
from regrade.tasks.pack import TASKS_DIR, Evaluator, Kind, read_pack
from regrade.tasks.scaffold import new_pack
from regrade.tasks.validate import findings

app = typer.Typer(help="Task packs: a folder for each task.", no_args_is_help=True)


@app.command("list")
def list_tasks() -> None:
    """The tasks at hand: those that ship with Regrade, and those in the folders of REGRADE_TASKS_DIR."""
    table = Table(Column("task", no_wrap=True), "kind", "mode", "evaluator", "prompts", "originals", "rubrics")
    for task in available_tasks():
        try:
            pack = load_pack(task)
        except BrokenTaskError as error:
            table.add_row(task, f"[red]broken:[/] {error}")
            continue
        counts = (str(len(pack.prompts)), str(len(pack.originals)))
        table.add_row(task, pack.kind, pack.mode.value, pack.evaluator, *counts, ", ".join(pack.rubrics))
    console.print(table)


@app.command()
def new(
    task: Annotated[str, typer.Argument(help="Name of the task: letters, digits, _ . and -.")],
    folder: Annotated[Path, typer.Option("--in", help="Folder of your packs; it is made.")] = Path("tasks"),
    kind: Annotated[Kind, typer.Option(help="breadth: one rubric for all; depth: guidelines a scope.")] = "breadth",
    evaluator: Annotated[Evaluator, typer.Option(help="What a trained policy is measured by.")] = "judge",
) -> None:
    """Write a task pack to start from, outside of this package."""
    try:
        place = new_pack(folder, task, kind=kind, evaluator=evaluator)
    except (FileExistsError, ValueError) as error:
        fail(str(error))
    console.print(f"written: {place}", soft_wrap=True)
    console.print(f"next: edit its files, then `regrade tasks validate {place}`", soft_wrap=True)
    if str(folder.resolve()) not in os.environ.get(TASKS_DIR, "").split(os.pathsep):
        console.print(f"services and trainer find it by: export {TASKS_DIR}={folder.resolve()}", soft_wrap=True)


@app.command()
def validate(
    task: Annotated[str, typer.Argument(help="A task's name, or the folder of its pack.")],
) -> None:
    """Say what is wrong with a task pack; ends with status 1 when it cannot be trained on."""
    try:
        pack = read_pack(Path(task).resolve()) if Path(task).is_dir() else load_pack(task)
    except (BrokenTaskError, UnknownTaskError) as error:
        fail(str(error))
    found = findings(pack)
    for finding in found:
        mark = "[red]error[/]" if finding.fatal else "[yellow]advice[/]"
        console.print(f"{mark}: {finding.text}", soft_wrap=True)
    if any(finding.fatal for finding in found):
        raise typer.Exit(1)
    prompts, originals = len(pack.prompts), len(pack.originals)
    console.print(f"[green]{pack.name} holds together:[/] {prompts} prompts, {originals} trusted originals")
