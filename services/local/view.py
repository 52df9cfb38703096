"""The live view: a panel on a terminal, plain lines where there is none."""

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from regrade.contracts import CycleStatus, EventKind, LineageEvent, Stage
from services.local.observer import Snapshot

_BARS = "▁▂▃▄▅▆▇█"
_SHOWN_EVENTS = 7
_STYLES = {
    EventKind.ACTIVATED: "bold green",
    EventKind.ROLLED_BACK: "bold yellow",
    EventKind.GATED: "green",
    EventKind.REJECTED: "red",
    EventKind.FAILED: "dim",
    EventKind.PROPOSED: "dim",
}


class View:
    """Shows snapshots as they come; `with View(...) as view: view.show(snapshot)`."""

    def __init__(self, console: Console, total_steps: int, every_traces: int) -> None:
        self._console = console
        self._total = total_steps
        self._every = every_traces
        self._live = Live(console=console, refresh_per_second=4, transient=False) if console.is_terminal else None
        self._told_steps = 0
        self._told_events = 0
        self._told_stage: tuple[str | None, Stage] = (None, Stage.IDLE)

    def __enter__(self) -> "View":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Draw the panel anew, or print what is new."""
        if self._live is not None:
            self._live.update(self._panel(snapshot))
            return
        for row in snapshot.steps[self._told_steps :]:
            self._print(step_line(row, self._total))
        for event in snapshot.lineage[self._told_events :]:
            self._print(event_line(event), _STYLES[event.kind])
        stage = (snapshot.status.cycle, snapshot.status.stage)
        if stage != self._told_stage and stage[1] is not Stage.IDLE:
            self._print(self._cycle_line(snapshot.status))
        self._told_steps, self._told_events, self._told_stage = len(snapshot.steps), len(snapshot.lineage), stage

    def _print(self, line: str, style: str = "") -> None:
        """Reasons and details quote what models wrote; none of it is markup."""
        self._console.print(Text(line, style), soft_wrap=True)

    def _panel(self, snapshot: Snapshot) -> Panel:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        last = snapshot.steps[-1] if snapshot.steps else None
        table.add_row("policy", step_line(last, self._total) if last else f"loading, {self._total} steps to come")
        table.add_row("reward", f"{_spark([row['reward'] for row in snapshot.steps])}  mean of each step")
        active = snapshot.active
        if active is not None:
            since = f"version {active.version}  {active.digest[:12]}  since {_clock(active.time)}, {active.by}"
            table.add_row("rubric", Text(since))
        table.add_row("cycle", Text(self._cycle_line(snapshot.status)))
        events = [
            Text(event_line(e), style=_STYLES[e.kind], overflow="ellipsis", no_wrap=True) for e in snapshot.lineage
        ]
        body = Group(table, Text(), *events[-_SHOWN_EVENTS:])
        return Panel(body, title="Regrade", subtitle="Ctrl-C ends everything cleanly", border_style="blue")

    def _cycle_line(self, status: CycleStatus) -> str:
        if status.stage is Stage.IDLE:
            return f"{status.completed} done; the next begins at {self._every} new traces ({status.lag} so far)"
        seconds = time.time() - (status.started or time.time())
        return (
            f"number {status.completed + 1}: {status.stage.value}, {status.detail} ({seconds:.0f} s); training goes on"
        )


def step_line(row: dict[str, float], total: int) -> str:
    """One step in words."""
    version = row.get("regrade/rubric_version", 0)
    return (
        f"step {row['step']:.0f}/{total}  reward {row['reward']:.3f} ± {row.get('reward_std', 0.0):.3f}  "
        f"rubric v{version:g}  {row['completion_tokens']:.0f} tokens  {row['ended'] - row['started']:.0f} s"
    )


def event_line(event: LineageEvent) -> str:
    """One lineage event in words."""
    what = f"{_clock(event.time)} {event.kind.value:<11} {event.digest[:8]} by {event.by}"
    if event.version is not None:
        what += f" as version {event.version}"
    if event.gate is not None:
        gate = event.gate
        what += f": order {gate.active.order:.2f} → {gate.candidate.order:.2f}"
        what += f", attacks resisted {gate.active.attacks_resisted:.2f} → {gate.candidate.attacks_resisted:.2f}"
    return f"{what}: {event.reason}" if event.reason else what


def _spark(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    width = (high - low) or 1.0
    return "".join(_BARS[round((value - low) / width * (len(_BARS) - 1))] for value in values)


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))
