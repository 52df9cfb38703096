"""The `regrade` command: `score`, `doctor` and `schema`, and the commands of the other modules of this package."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter

from regrade import contracts
from regrade.cli import anchors, cycles, evolution, rubric, tasks, traces
from regrade.cli.connection import (
    DEFAULT_META_URL,
    JsonOption,
    KeyOption,
    MetaUrlOption,
    TaskArgument,
    UrlOption,
    connect,
    errors_without_traceback,
    read_jsonl,
)
from regrade.cli.doctor import examine
from regrade.cli.output import console, fail, print_json, print_table, print_text
from regrade.client import DEFAULT_URL
from regrade.contracts import ItemResult, Purpose, ScoreItem

_HELP = """Score completions with an LLM judge, manage the rubric that it scores by, and watch the rubric evolve.

\b
check the installation     regrade doctor
score a completion         regrade score TASK --prompt ... --completion ...
see the current state      regrade status TASK
see what happened          regrade rubric history TASK
see why                    regrade cycles TASK; regrade cycles show TASK 1
see what was scored        regrade traces TASK --flag instruction
edit the rubric            regrade rubric edit TASK --reason "our house style"
undo an activation         regrade rubric rollback TASK --reason "too strict"
suspend evolution          regrade pause TASK --reason "a deadline"
continue it                regrade resume TASK

Set REGRADE_URL, REGRADE_META_URL and REGRADE_KEY to leave out --url, --meta-url and --key.
The meta-reward service shows the same in a browser, under /console.
"""

app = typer.Typer(name="regrade", help=_HELP, no_args_is_help=True, pretty_exceptions_show_locals=False)
for group in (rubric, anchors, cycles, tasks, traces):
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2])
for command in (evolution.status, evolution.evolve, evolution.pause, evolution.resume, evolution.alarms):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_text(f"regrade {version('regrade')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


_EXAMPLE = '{"prompt": "Why trees?", "completion": "They give shade."}'
_CONTRACTS = {name: getattr(contracts, name) for name in contracts.__all__ if name[0].isupper()}


@app.command()
def score(
    task: TaskArgument,
    prompt: Annotated[str, typer.Option(help="The prompt that the completion answers.")] = "",
    completion: Annotated[str, typer.Option(help="The completion to score.")] = "",
    file: Annotated[
        Path | None, typer.Option(help="JSONL instead; each line has prompt, completion and other item fields.")
    ] = None,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = "",
) -> None:
    """Score completions by the active rubric.

    They count as evaluation: traced, but no evidence for evolution.

    Example: regrade score essay_writing --prompt "Why plant trees?" --completion "They give shade."
    """
    if file is None and not completion:
        fail("nothing to score: give --completion (and --prompt), or --file")
    items = [ScoreItem(prompt=prompt, completion=completion)] if file is None else read_jsonl(file, ScoreItem, _EXAMPLE)
    with connect(url, key) as client:
        answer = client.score(task, items, purpose=Purpose.EVAL)
    if as_json:
        print_json(answer)
    else:
        print_table(("item", "reward", "criteria", "flags", "rubric"), map(_row, answer.results))


@app.command()
def doctor(
    task: Annotated[str, typer.Argument(help="A task that has a task pack.")] = "essay_writing",
    originals: Annotated[int, typer.Option(min=2, help="Number of trusted originals to measure the judge on.")] = 8,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="Time for measuring the judge, which is then cut short.")
    ] = 12.0,
    url: UrlOption = DEFAULT_URL,
    meta_url: MetaUrlOption = DEFAULT_META_URL,
    key: KeyOption = "",
) -> None:
    """Check both services and what they depend on, measure the judge, and print a remedy for each problem.

    The judge scores trusted originals and damaged copies of them.
    Its anchor AUC is the share of pairs in the right order: 0.5 is chance, below 0.7 is too weak.
    Ends with status 1 if something is broken.

    Example: regrade doctor essay_writing --originals 16 --seconds 120
    """
    with errors_without_traceback():
        healthy = examine(task, originals, seconds, url, meta_url, key)
    if not healthy:
        raise typer.Exit(1)


@app.command()
def schema(
    name: Annotated[
        str, typer.Argument(help="A contract, e.g. Rubric; without a name, all contracts are listed.")
    ] = "",
) -> None:
    """Print the JSON Schema of a contract.

    Example: regrade schema ScoreRequest
    """
    if not name:
        print_text("\n".join(sorted(_CONTRACTS)))
    elif name not in _CONTRACTS:
        fail(f"no contract {name!r}; `regrade schema` lists them")
    else:
        console.print_json(json.dumps(TypeAdapter(_CONTRACTS[name]).json_schema()))


def _row(result: ItemResult) -> tuple[str, ...]:
    reward = f"{result.reward:.3f}" if result.reward is not None else f"none: {result.error and result.error.code}"
    criteria = ", ".join(f"{c.id} {c.score:.2f}" if c.score is not None else f"{c.id} -" for c in result.criteria)
    version = result.rubric.version or result.rubric.digest[:8]
    return result.id[:8], reward, criteria, ", ".join(result.flags), f"v{version}"
