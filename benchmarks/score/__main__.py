"""What scoring costs: the reward service, its limit, and what people use instead, side by side in one run.

Each line of the table is a contender under one load. All are warmed up, then measured in turn, round after
round, so that a machine that slows down slows all of them. Measured are

  POST /score         the whole service: validation, pins, guards, outcome and judgement cache, traces in a
                      real Valkey, metrics. Its CPU is that of all reward processes until the last trace is in.
  raw batch fan-out   the very conversations that the service sends, by the engine's batch route, from a bare
                      aiohttp client that does nothing else: the limit
  bare aiohttp        the same, one call an item: what a hand-written judge costs at the least
  the peers           their own judge on the same texts, each in an environment of its own (made at the first
                      run under benchmarks/out/envs); one that can't be had is skipped, with the reason

against a stub engine that answers at once or after 50 ms. Ratios are taken round by round; their median is shown.
The figures go to benchmarks/out/score.json, the headline figures at the top level.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from benchmarks.common import parts, report
from benchmarks.common.ending import run_to_its_end
from benchmarks.common.load import BATCH
from benchmarks.score import environments
from benchmarks.score.contender import Contender, ContenderFailed
from services.local.processes import StackError
from services.reward.settings import RewardSettings

OUT = Path(__file__).parents[1] / "out"
_SLOTS = 64
"""Items a peer or the bare client has in flight."""
_ENOUGH_ITEMS = 4_096


@dataclass(frozen=True, slots=True)
class Load:
    """A row to fill: who is measured, by which process, how many items at a time."""

    row: report.Row
    contender: Contender
    items: int = 0

    def measured(self, items: int, when: str) -> dict[str, Any]:
        """What the process measured, on texts that nobody else sees at no other time. Raises `ContenderFailed`."""
        row = self.row
        return self.contender.measure(
            items=items,
            in_flight=row.in_flight,
            criteria=row.criteria,
            task=parts.task_of(row.criteria),
            seed=f"{row.name} {row.delay_ms} {row.criteria} {row.in_flight} {when}",
        )


def main() -> int:
    """Measure, print the table, write the JSON; the exit status is 1 when the service could not be measured."""
    args = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        _run(args, console)
    except (ContenderFailed, StackError, httpx.HTTPError, RuntimeError) as error:
        console.print(f"not measured: {error}", style="red", markup=False)
        return 1
    return 0


def _run(args: argparse.Namespace, console: Console) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    logs = args.out / "logs"
    logs.mkdir(exist_ok=True)
    for old in logs.glob("*.log"):
        old.unlink()
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        settings = dict(pair.split("=", 1) for pair in args.setting)
        running = stack.enter_context(parts.running(logs, dialect=args.dialect, settings=settings))
        recorded = {criteria: parts.record(running, criteria) for criteria in parts.CRITERIA}
        console.print(f"the service asks the engine by {recorded[1].route}")
        loads = _own_loads(args, running, recorded, logs, stack)
        loads += _peer_loads(args, running, logs, stack, skipped, console)
        began = time.monotonic()
        rows = _measure(args, running, loads, skipped, console)
    about = {
        "quick": args.quick,
        "rounds": args.rounds,
        "seconds": round(time.monotonic() - began),
        "route": recorded[1].route,
        "settings": settings,
        "peers": {peer: environments.version(peer) for peer in environments.peers() if peer not in skipped},
    }
    report.show(console, rows, skipped)
    report.write(args.out / "score.json", report.document(rows, skipped, about))
    console.print(f"written: {args.out / 'score.json'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under two minutes: fewer loads, shorter and fewer rounds")
    parser.add_argument("--rounds", type=int, help="rounds; 7 by default, 3 with --quick")
    parser.add_argument("--seconds", type=float, help="about how long one measurement takes; 1.0, or 0.5 with --quick")
    parser.add_argument("--peers", default="all", help="comma-separated names, 'all' or 'none'")
    parser.add_argument(
        "--dialect", default="auto", help="the service's judge_dialect; auto has it ask the engine what it is"
    )
    parser.add_argument(
        "--setting", action="append", default=[], metavar="NAME=VALUE", help="any setting of the reward service"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder of score.json, logs and environments")
    args = parser.parse_args()
    args.rounds = args.rounds or (3 if args.quick else 7)
    args.seconds = args.seconds or (0.5 if args.quick else 1.0)
    unknown = set(_wanted_peers(args)) - set(environments.peers())
    if unknown:
        parser.error(f"no such peers: {', '.join(sorted(unknown))}; there are {', '.join(environments.peers())}")
    for pair in args.setting:
        name, equals, _ = pair.partition("=")
        if not equals or name not in RewardSettings.model_fields:
            parser.error(f"--setting wants NAME=VALUE, NAME a setting of the reward service; got {pair!r}")
    return args


def _wanted_peers(args: argparse.Namespace) -> list[str]:
    if args.peers in ("all", "none"):
        return environments.peers() if args.peers == "all" else []
    return [name.strip() for name in args.peers.split(",")]


def _own_loads(
    args: argparse.Namespace, running: parts.Parts, recorded: dict[int, parts.Recorded], logs: Path, stack: ExitStack
) -> list[Load]:
    """The service and the bare clients, each against an engine of 0 and of 50 ms."""

    def worker(what: str, *options: str) -> Contender:
        command = [sys.executable, "-m", "benchmarks.common.load", "--what", what, *options]
        return stack.enter_context(Contender(command, logs / f"{what}.log"))

    bodies = {}
    for what in ("calls", "batches"):
        bodies[what] = logs / f"{what}.json"
        sent = {parts.task_of(criteria): getattr(found, what) for criteria, found in recorded.items()}
        bodies[what].write_text(json.dumps(sent), encoding="utf-8")
    behind = ("--redis-url", running.redis_url, "--engine-url", running.engine_url)
    service = worker("score", "--url", running.reward_url, "--service-pid", str(running.reward_pid), *behind)
    limit = worker("batches", "--url", running.engine_url, "--bodies", str(bodies["batches"]))
    calls = worker("calls", "--url", running.engine_url, "--bodies", str(bodies["calls"]))
    loads = []
    for delay_ms, criteria, batches in _batch_loads(quick=args.quick):
        for name, kind, contender in ((report.SERVICE, "service", service), (report.FAN_OUT, "limit", limit)):
            loads.append(Load(report.Row(name, kind, delay_ms, criteria, batches * BATCH), contender))
    for delay_ms in (0, 50):
        loads.append(Load(report.Row(report.CALLS, "client", delay_ms, 1, _SLOTS), calls))
    return loads


def _batch_loads(*, quick: bool) -> Iterator[tuple[int, int, int]]:
    """Engine delay in ms, criteria, batches at once."""
    for delay_ms in (0, 50):
        for criteria in parts.CRITERIA:
            for batches in (1, 8):
                if not quick or criteria == 1 or (delay_ms == 0 and batches == 8):
                    yield delay_ms, criteria, batches


def _peer_loads(
    args: argparse.Namespace,
    running: parts.Parts,
    logs: Path,
    stack: ExitStack,
    skipped: dict[str, str],
    console: Console,
) -> list[Load]:
    loads = []
    for peer in _wanted_peers(args):
        console.print(f"preparing {environments.version(peer)}")
        try:
            python = environments.interpreter(peer, args.out / "envs")
        except environments.NotInstallable as error:
            skipped[peer] = str(error)
            continue
        command = [str(python), "-m", f"benchmarks.score.peers.{peer}", "--url", running.engine_url]
        contender = stack.enter_context(Contender(command, logs / f"{peer}.log"))
        kind = "grouped" if peer == "ruler" else "pointwise"
        for delay_ms in (0,) if args.quick else (0, 50):
            loads.append(Load(report.Row(peer, kind, delay_ms, 1, _SLOTS), contender))
    return loads


def _measure(
    args: argparse.Namespace, running: parts.Parts, loads: Sequence[Load], skipped: dict[str, str], console: Console
) -> list[report.Row]:
    """All the rows. A peer that fails is left out, with the reason; a failure of ours is raised."""
    console.print("warming up")
    sized = [_sized(load, running, args.seconds) for load in loads if _tried(load, running, skipped)]
    for n in range(args.rounds):
        console.print(f"round {n + 1} of {args.rounds}")
        for load in sized:
            if load.row.name in skipped:
                continue
            running.delay(load.row.delay_ms)
            try:
                measured = load.measured(load.items, f"round {n}")
            except ContenderFailed as error:
                _leave_out(load, error, skipped)
                continue
            load.row.samples.append(report.Sample.of(measured))
    return [load.row for load in sized if load.row.name not in skipped]


def _tried(load: Load, running: parts.Parts, skipped: dict[str, str]) -> bool:
    """Whether it works at all; this opens its connections, too."""
    if load.row.name in skipped:
        return False
    running.delay(load.row.delay_ms)
    try:
        load.measured(load.row.in_flight, "warm up")
    except ContenderFailed as error:
        _leave_out(load, error, skipped)
        return False
    return True


def _sized(load: Load, running: parts.Parts, seconds: float) -> Load:
    """The load with as many items as it gets through in about `seconds`, in whole waves."""
    running.delay(load.row.delay_ms)
    wave = load.row.in_flight
    wall_s = load.measured(wave, "size")["wall_s"]
    waves = max(1, round(min(seconds / wall_s, _ENOUGH_ITEMS / wave)))
    return Load(load.row, load.contender, waves * wave)


def _leave_out(load: Load, error: ContenderFailed, skipped: dict[str, str]) -> None:
    if load.row.kind not in ("grouped", "pointwise"):
        raise error
    skipped[load.row.name] = str(error)


if __name__ == "__main__":
    run_to_its_end(main)
