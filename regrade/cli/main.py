"""The `regrade` command: what each word of it does stands in the module of that name."""

import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter
from rich.table import Table

from regrade import contracts
from regrade.cli import anchors, cycles, evolution, rubric, tasks, traces
from regrade.cli.connection import (
    DEFAULT_META_URL,
    DEFAULT_URL,
    AsJson,
    Key,
    MetaUrl,
    Task,
    Url,
    connect,
    console,
    fail,
    plain_errors,
    print_json,
)
from regrade.cli.doctor import examine
from regrade.contracts import Purpose, ScoreItem, ScoreResponse

_HELP = """Score texts, look after the rubric they are scored by, and watch it evolve.

\b
a first look      regrade doctor
score a text      regrade score TASK --prompt ... --completion ...
what goes on      regrade status TASK
what happened     regrade rubric history TASK
why               regrade cycles list TASK, then cycles show TASK CYCLE
what was scored   regrade traces list TASK --flag instruction
step in           regrade rubric rollback TASK --reason "too strict"
wait              regrade pause TASK --reason "a deadline", then resume

The services are found by --url and --meta-url, or REGRADE_URL and REGRADE_META_URL; a key by REGRADE_KEY.
The same with pictures: /console of the meta-reward service.
"""

app = typer.Typer(
    name="regrade",
    help=_HELP,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
app.add_typer(rubric.app, name="rubric")
app.add_typer(anchors.app, name="anchors")
app.add_typer(cycles.app, name="cycles")
app.add_typer(tasks.app, name="tasks")
app.add_typer(traces.app, name="traces")
for command in (evolution.status, evolution.evolve, evolution.pause, evolution.resume, evolution.alarms):
    app.command()(command)

_CONTRACTS = {name: getattr(contracts, name) for name in contracts.__all__ if name[0].isupper()}


@app.command()
def score(
    task: Task,
    prompt: Annotated[str, typer.Option(help="The prompt the completion answers.")] = "",
    completion: Annotated[str, typer.Option(help="The completion to score.")] = "",
    file: Annotated[Path | None, typer.Option(help="JSONL of {prompt, completion, ...}, instead of the two.")] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    key: Key = "",
) -> None:
    """Score completions by the active rubric. Counts as evaluation: traced, but no evidence for evolution."""
    if file is None and not completion:
        fail("give --completion (and --prompt), or --file")
    with connect(url, key) as client:
        items = [ScoreItem(prompt=prompt, completion=completion)] if file is None else _read_items(file)
        answer = client.score(task, items, purpose=Purpose.EVAL)
    if as_json:
        print_json(answer)
    else:
        _show_scores(answer)


@app.command()
def doctor(
    task: Annotated[str, typer.Argument(help="A task with a task pack.")] = "essay_writing",
    originals: Annotated[int, typer.Option(min=2, help="Trusted originals to measure the judge on.")] = 8,
    url: Url = DEFAULT_URL,
    meta_url: MetaUrl = DEFAULT_META_URL,
    key: Key = "",
) -> None:
    """Check every part, measure how well the judge tells good text from damaged, and say what to do."""
    with plain_errors():
        healthy = examine(task, originals, url, meta_url, key)
    if not healthy:
        raise typer.Exit(1)


@app.command()
def schema(
    name: Annotated[str, typer.Argument(help="A contract, e.g. Rubric; without one, their names are listed.")] = "",
) -> None:
    """Print the JSON Schema of a contract."""
    if not name:
        console.print("\n".join(sorted(_CONTRACTS)))
    elif name not in _CONTRACTS:
        fail(f"no contract {name!r}; `regrade schema` lists them")
    else:
        console.print_json(json.dumps(TypeAdapter(_CONTRACTS[name]).json_schema()))


def _read_items(file: Path) -> list[ScoreItem]:
    lines = file.read_text(encoding="utf-8").split("\n")
    return [ScoreItem.model_validate_json(line) for line in lines if line.strip()]


def _show_scores(answer: ScoreResponse) -> None:
    table = Table("item", "reward", "criteria", "flags", "rubric")
    for result in answer.results:
        reward = f"{result.reward:.3f}" if result.reward is not None else f"none: {result.error and result.error.code}"
        criteria = ", ".join(f"{c.id} {c.score:.2f}" if c.score is not None else f"{c.id} -" for c in result.criteria)
        version = result.rubric.version or result.rubric.digest[:8]
        table.add_row(result.id[:8], reward, criteria, ", ".join(result.flags), f"v{version}")
    console.print(table)
