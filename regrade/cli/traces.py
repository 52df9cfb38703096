"""`regrade traces`: scored completions and how they got their rewards."""

from typing import Annotated

import typer

from regrade.cli.connection import (
    DEFAULT_META_URL,
    JsonOption,
    KeyOption,
    MetaService,
    MetaUrlOption,
    TaskArgument,
    connect,
    meta_command,
)
from regrade.cli.groups import ListGroup
from regrade.cli.output import local_time, print_json, print_table, print_text
from regrade.contracts import Flag, Trace, TracePage, as_text

_SNIPPET = 60

_HELP = """Traces: one record for each scored completion. `regrade traces TASK` lists them.

Example: regrade traces essay_writing --lowest 0.9
"""

app = typer.Typer(cls=ListGroup, help=_HELP, no_args_is_help=True)


@app.command("list")
@meta_command
def list_traces(
    meta: MetaService,
    task: TaskArgument,
    run: Annotated[str | None, typer.Option(help="Training run.")] = None,
    step: Annotated[int | None, typer.Option(min=0, help="Optimizer step.")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Version of the rubric that scored them.")] = None,
    flag: Annotated[Flag | None, typer.Option(help="Flag that they have.")] = None,
    lowest: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Lowest reward.")] = None,
    highest: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Highest reward.")] = None,
    text: Annotated[str | None, typer.Option(help="Text that prompt or completion contains, in any case.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=256, help="Number of traces.")] = 20,
    before: Annotated[str | None, typer.Option(help="Continue here; the previous page prints the value.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List traces that match every given option, newest first.

    High rewards for odd text are worth a look: --lowest 0.9, or --flag instruction.

    Example: regrade traces essay_writing --run run-1 --lowest 0.9
    """
    page = meta.get(
        f"/traces/{task}", TracePage, run=run, step=step, version=version, flag=flag and flag.value, lowest=lowest,
        highest=highest, text=text, limit=limit, before=before,
    )  # fmt: skip
    if not page.traces:
        meta.require_rubric(task)
    if as_json:
        return print_json(page)
    if not page.traces:
        print_text("no trace matches; `regrade status` shows how many traces wait for a cycle")
        return print_text(f"older traces: --before {page.older}") if page.older else None
    rows = []
    for trace in page.traces:
        rubric = f"v{trace.version}" if trace.version else trace.digest[:8]
        start = " ".join(as_text(trace.completion)[: 4 * _SNIPPET].split())[:_SNIPPET]
        reward, flags = f"{trace.reward:.3f}", ", ".join(trace.flags)
        rows.append((trace.trace_id, trace.run, trace.step, reward, rubric, flags, start))
    print_table(("trace", "run", "step", "reward", "rubric", "flags", "completion"), rows)
    if page.older:
        print_text(f"next page: --before {page.older}")


@app.command()
def show(
    task: TaskArgument,
    trace_id: Annotated[str, typer.Argument(help="Id of the trace, from `traces list`, `alarms` or `/score`.")],
    as_json: JsonOption = False,
    meta_url: MetaUrlOption = DEFAULT_META_URL,
    key: KeyOption = "",
) -> None:
    """Show one trace: prompt, completion, the score of each criterion, flags, and what the judge was billed.

    Example: regrade traces show essay_writing ID
    """
    with connect(meta_url, key) as client:
        trace = client.call("GET", f"/traces/{task}/{trace_id}", Trace)
    if as_json:
        return print_json(trace)
    run = f"run {trace.run}, step {trace.step}" if trace.run else "no run"
    print_text(f"{local_time(trace.time)}, {run}, {trace.purpose.value}, by rubric {trace.digest[:8]}")
    print_text(f"reward {trace.reward:.3f} (raw {trace.raw:.3f})", style="bold")
    rows = [(each.id, _decimal(each.score), _decimal(each.confidence), each.rationale) for each in trace.criteria]
    print_table(("criterion", "score", "confidence", "rationale"), rows)
    if trace.flags:
        print_text(f"flags: {', '.join(trace.flags)}", style="yellow")
    if trace.metadata:
        print_text(f"metadata: {', '.join(f'{name}={value}' for name, value in trace.metadata.items())}")
    usage = trace.usage
    print_text(f"{usage.judge_calls} judge calls, {usage.prompt_tokens} prompt tokens ({usage.cached_tokens} cached)")
    for title, text in (("prompt", trace.prompt), ("completion", trace.completion)):
        print_text(title, style="bold")
        print_text(as_text(text))


def _decimal(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"
