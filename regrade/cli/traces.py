"""`regrade traces`: what was scored, and how it came by its reward."""

from typing import Annotated

import typer
from rich.table import Table

from regrade.cli.connection import (
    DEFAULT_META_URL,
    AsJson,
    Key,
    Lineage,
    MetaUrl,
    ScopeOption,
    Task,
    clock,
    connect,
    console,
    place,
    print_json,
    words,
)
from regrade.contracts import MAIN_LINEAGE, Flag, Trace, TracePage, as_text

_HELP = """Look at traces: one for each scored completion, as the meta-reward service reads them."""
_SNIPPET = 60

app = typer.Typer(help=_HELP, no_args_is_help=True)


@app.command("list")
def list_traces(
    task: Task,
    run: Annotated[str | None, typer.Option(help="Of this training run.")] = None,
    step: Annotated[int | None, typer.Option(min=0, help="Of this step.")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Scored by this version of the rubric.")] = None,
    flag: Annotated[Flag | None, typer.Option(help="With this flag.")] = None,
    lowest: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Lowest reward.")] = None,
    highest: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Highest reward.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=256, help="So many of the newest that fit.")] = 20,
    before: Annotated[str | None, typer.Option(help="Go on from here, as the last page told.")] = None,
    as_json: AsJson = False,
    lineage: Lineage = MAIN_LINEAGE,
    scope: ScopeOption = None,
    meta_url: MetaUrl = DEFAULT_META_URL,
    key: Key = "",
) -> None:
    """List the newest traces that fit, newest first.

    What pleases the judge most and looks odd is a good place to start: --lowest 0.9, or --flag instruction.
    """
    wanted = {"run": run, "step": step, "version": version, "flag": flag and flag.value, "lowest": lowest}
    wanted |= {"highest": highest, "limit": limit, "before": before}
    asked = place(lineage, scope) | {name: value for name, value in wanted.items() if value is not None}
    with connect(meta_url, key) as client:
        page = client.call("GET", f"/traces/{task}", TracePage, params=asked)
    if as_json:
        print_json(page)
        return
    table = Table("trace", "run", "step", "reward", "rubric", "flags", "completion")
    for trace in page.traces:
        place_of = (words(trace.run or ""), "" if trace.step is None else str(trace.step))
        label = f"v{trace.version}" if trace.version else trace.digest[:8]
        start = " ".join(as_text(trace.completion)[: 4 * _SNIPPET].split())[:_SNIPPET]
        table.add_row(trace.trace_id, *place_of, f"{trace.reward:.3f}", label, ", ".join(trace.flags), words(start))
    console.print(table)
    if page.older:
        console.print(f"older ones: --before {page.older}")


@app.command()
def show(
    task: Task,
    trace_id: Annotated[str, typer.Argument(help="A trace's id, as `list`, alarms and /score tell it.")],
    as_json: AsJson = False,
    meta_url: MetaUrl = DEFAULT_META_URL,
    key: Key = "",
) -> None:
    """Show one trace: prompt, completion, the score of each criterion, flags, and what judging cost."""
    with connect(meta_url, key) as client:
        trace = client.call("GET", f"/traces/{task}/{trace_id}", Trace)
    if as_json:
        print_json(trace)
        return
    where = f"run {trace.run}, step {trace.step}" if trace.run else "no run"
    console.print(words(f"{clock(trace.time)}, {where}, {trace.purpose.value}, by rubric {trace.digest[:8]}"))
    console.print(f"reward {trace.reward:.3f} (raw {trace.raw:.3f})", style="bold")
    table = Table("criterion", "score", "confidence", "rationale")
    for scored in trace.criteria:
        score = "" if scored.score is None else f"{scored.score:.2f}"
        confidence = "" if scored.confidence is None else f"{scored.confidence:.2f}"
        table.add_row(words(scored.id), score, confidence, words(scored.rationale or ""))
    console.print(table)
    if trace.flags:
        console.print(words(f"flags: {', '.join(trace.flags)}", style="yellow"))
    used = trace.usage
    console.print(f"{used.judge_calls} judge calls, {used.prompt_tokens} prompt tokens ({used.cached_tokens} cached)")
    for title, text in (("prompt", trace.prompt), ("completion", trace.completion)):
        console.print(words(title, style="bold"))
        console.print(words(as_text(text)), soft_wrap=True)
