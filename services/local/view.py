"""The live view of a run: a panel on a terminal, otherwise one line per event."""

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
_MAX_EVENTS = 7
_STYLES = {
    EventKind.ACTIVATED: "bold green",
    EventKind.ROLLED_BACK: "bold yellow",
    EventKind.GATED: "green",
    EventKind.REJECTED: "red",
    EventKind.FAILED: "dim",
    EventKind.PROPOSED: "dim",
}


class View:
    """A context that shows snapshots: `with View(...) as view: view.update(snapshot)`."""

    def __init__(self, console: Console, total_steps: int, every_traces: int) -> None:
        self._console = console
        self._total_steps = total_steps
        self._every_traces = every_traces
        self._live = Live(console=console, refresh_per_second=4, transient=False) if console.is_terminal else None
        self._printed_steps = 0
        self._printed_events = 0
        self._printed_stage: tuple[str | None, Stage] = (None, Stage.IDLE)

    def __enter__(self) -> "View":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, snapshot: Snapshot) -> None:
        """Redraw the panel, or print what is new since the last snapshot."""
        if self._live is not None:
            self._live.update(self._panel(snapshot))
            return
        for step in snapshot.steps[self._printed_steps :]:
            self._print(_step_line(step, self._total_steps))
        for event in snapshot.lineage[self._printed_events :]:
            self._print(_event_line(event), _STYLES[event.kind])
        stage = (snapshot.status.cycle, snapshot.status.stage)
        if stage != self._printed_stage and snapshot.status.stage is not Stage.IDLE:
            self._print(self._cycle_line(snapshot.status))
        self._printed_steps, self._printed_events = len(snapshot.steps), len(snapshot.lineage)
        self._printed_stage = stage

    def _print(self, line: str, style: str = "") -> None:
        self._console.print(Text(line, style), soft_wrap=True)  # Text: quoted model output must not become markup

    def _panel(self, snapshot: Snapshot) -> Panel:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        steps, active = snapshot.steps, snapshot.active
        progress = _step_line(steps[-1], self._total_steps) if steps else f"loading; {self._total_steps} steps to do"
        table.add_row("policy", progress)
        table.add_row("reward", f"{_sparkline([step['reward'] for step in steps])}  mean of each step")
        if active is not None:
            since = f"version {active.version}  {active.digest[:12]}  since {_clock(active.time)}, {active.by}"
            table.add_row("rubric", Text(since))
        table.add_row("cycle", Text(self._cycle_line(snapshot.status)))
        events = [
            Text(_event_line(event), style=_STYLES[event.kind], overflow="ellipsis", no_wrap=True)
            for event in snapshot.lineage[-_MAX_EVENTS:]
        ]
        body = Group(table, Text(), *events)
        return Panel(body, title="Regrade", subtitle="Ctrl-C ends everything cleanly", border_style="blue")

    def _cycle_line(self, status: CycleStatus) -> str:
        if status.stage is Stage.IDLE:
            every = self._every_traces
            return f"{status.completed} done; the next begins at {every} new traces ({status.lag} so far)"
        seconds = time.time() - (status.started or time.time())
        return f"number {status.completed + 1}: {status.stage.value}, {status.detail} ({seconds:.0f} s)"


def _step_line(step: dict[str, float], total: int) -> str:
    return (
        f"step {step['step']:.0f}/{total}  reward {step['reward']:.3f} ± {step.get('reward_std', 0.0):.3f}  "
        f"rubric v{step.get('regrade/rubric_version', 0):g}  {step['completion_tokens']:.0f} tokens  "
        f"{step['ended'] - step['started']:.0f} s"
    )


def _event_line(event: LineageEvent) -> str:
    line = f"{_clock(event.time)} {event.kind.value:<11} {event.digest[:8]} by {event.by}"
    if event.version is not None:
        line += f" as version {event.version}"
    if event.gate is not None:
        active, candidate = event.gate.active, event.gate.candidate
        line += f": order {active.order:.2f} → {candidate.order:.2f}"
        line += f", attacks resisted {active.attacks_resisted:.2f} → {candidate.attacks_resisted:.2f}"
    return f"{line}: {event.reason}" if event.reason else line


def _sparkline(values: Sequence[float]) -> str:
    low, high = min(values, default=0.0), max(values, default=0.0)
    width = (high - low) or 1.0
    return "".join(_BARS[round((value - low) / width * (len(_BARS) - 1))] for value in values)


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))
