"""What scoring costs: the reward service, its limit, and judges of other projects, measured side by side in one run.

Each row of the table is a contender under one load. All are warmed up, then measured in turn, round after round, so
that a machine that slows down slows all of them. Measured are

  POST /score         the whole service: validation, pins, guards, outcome store and judgement cache, traces in a
                      real Valkey, metrics. Its CPU is that of all reward processes until the last trace is stored.
  raw batch fan-out   the same conversations that the service sends, by the engine's batch route, from a bare
                      aiohttp client that does nothing else: the limit
  bare aiohttp        the same, one call per item: the least that a hand-written judge costs
  the peers           their own judge on the same texts, each in an environment of its own (created in the first
                      run under benchmarks/out/envs); one that cannot be installed is skipped, with the reason

against a stub engine that answers at once or after 50 ms. Ratios are taken within each round; their median is shown.
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

from benchmarks.common import stack
from benchmarks.common.load import BATCH
from benchmarks.common.output import OUT, write_json
from benchmarks.common.shutdown import run_and_exit
from benchmarks.score import peers, report
from benchmarks.score.contender import Contender, ContenderFailed
from benchmarks.score.report import LoadResult
from services.local.processes import StackError
from services.reward.settings import RewardSettings
from tests.support.virtual_environments import NotInstallable, interpreter

_IN_FLIGHT = 64
"""Concurrent items of a peer or the bare client."""
_MAX_ITEMS = 4_096
"""Of one measurement."""
_PEER_KINDS = ("grouped", "pointwise")


@dataclass(frozen=True, slots=True)
class Load:
    """One row of the table: the result to fill, the process that is measured, and the items per measurement."""

    result: LoadResult
    contender: Contender
    items: int = 0

    def measure(self, items: int, phase: str) -> dict[str, Any]:
        """One measurement, on texts that no other measurement uses. Raises `ContenderFailed`."""
        result = self.result
        return self.contender.measure(
            items=items,
            in_flight=result.in_flight,
            criteria=result.criteria,
            task=stack.task_of(result.criteria),
            seed=f"{result.name} {result.delay_ms} {result.criteria} {result.in_flight} {phase}",
        )


def main() -> int:
    """Measure, print the table, write the JSON; exit status 1 when the service could not be measured."""
    args = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        _run(args, console)
    except (ContenderFailed, StackError, httpx.HTTPError, RuntimeError) as error:
        console.print(f"not measured: {error}", style="red", markup=False)
        return 1
    return 0


def _run(args: argparse.Namespace, console: Console) -> None:
    logs = args.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for old in logs.glob("*.log"):
        old.unlink()
    with ExitStack() as exits:
        settings = dict(pair.split("=", 1) for pair in args.setting)
        running = exits.enter_context(stack.running_stack(logs, dialect=args.dialect, settings=settings))
        recorded = {criteria: stack.record_engine_bodies(running, criteria) for criteria in stack.CRITERIA}
        console.print(f"the service calls the engine by {recorded[1].route}")
        benchmark = Benchmark(args, running, logs, exits, console)
        loads = [*benchmark.own_loads(recorded), *benchmark.peer_loads()]
        began = time.monotonic()
        results = benchmark.measure(loads)
    conditions = {
        "quick": args.quick,
        "rounds": args.rounds,
        "seconds": round(time.monotonic() - began),
        "route": recorded[1].route,
        "settings": settings,
        "peers": {peer: peers.version(peer) for peer in peers.peers() if peer not in benchmark.skipped},
    }
    report.show(console, results, benchmark.skipped)
    path = write_json(args.out / "score.json", report.document(results, benchmark.skipped, conditions))
    console.print(f"written: {path}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under two minutes: fewer loads, shorter and fewer rounds")
    parser.add_argument("--rounds", type=int, help="rounds; 7 by default, 3 with --quick")
    parser.add_argument("--seconds", type=float, help="approximate length of a measurement; 1.0, or 0.5 with --quick")
    parser.add_argument("--peers", default="all", help="comma-separated names, 'all' or 'none'")
    parser.add_argument("--dialect", default="auto", help="the service's judge_dialect; auto: ask the engine")
    parser.add_argument(
        "--setting", action="append", default=[], metavar="NAME=VALUE", help="a setting of the reward service"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder of score.json, logs and environments")
    args = parser.parse_args()
    args.rounds = args.rounds or (3 if args.quick else 7)
    args.seconds = args.seconds or (0.5 if args.quick else 1.0)
    if args.peers in ("all", "none"):
        args.peers = peers.peers() if args.peers == "all" else []
    else:
        args.peers = [name.strip() for name in args.peers.split(",")]
    if unknown := set(args.peers) - set(peers.peers()):
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}; known are {', '.join(peers.peers())}")
    for pair in args.setting:
        name, equals, _ = pair.partition("=")
        if not equals or name not in RewardSettings.model_fields:
            parser.error(f"--setting needs NAME=VALUE, NAME a setting of the reward service; not {pair!r}")
    return args


class Benchmark:
    """Builds the loads and measures them. `skipped` holds the reason for each peer that is left out."""

    def __init__(
        self, args: argparse.Namespace, running: stack.ScoreStack, logs: Path, exits: ExitStack, console: Console
    ) -> None:
        self._args, self._stack, self._logs, self._exits, self._console = args, running, logs, exits, console
        self.skipped: dict[str, str] = {}

    def own_loads(self, recorded: dict[int, stack.EngineBodies]) -> list[Load]:
        """The service and the bare clients, each against an engine of 0 and of 50 ms."""
        service = self._client(
            "score", "--url", self._stack.reward_url, "--service-pid", str(self._stack.reward_pid),
            "--redis-url", self._stack.redis_url, "--engine-url", self._stack.engine_url,
        )  # fmt: skip
        bare = {}
        for what in ("calls", "batches"):
            path = self._logs / f"{what}.json"
            bodies = {stack.task_of(criteria): getattr(sent, what) for criteria, sent in recorded.items()}
            path.write_text(json.dumps(bodies), encoding="utf-8")
            bare[what] = self._client(what, "--url", self._stack.engine_url, "--bodies", str(path))
        loads = []
        for delay_ms, criteria, batches in _batch_loads(quick=self._args.quick):
            in_flight = batches * BATCH
            loads.append(Load(LoadResult(report.SERVICE, "service", delay_ms, criteria, in_flight), service))
            loads.append(Load(LoadResult(report.FAN_OUT, "limit", delay_ms, criteria, in_flight), bare["batches"]))
        for delay_ms in (0, 50):
            loads.append(Load(LoadResult(report.CALLS, "client", delay_ms, 1, _IN_FLIGHT), bare["calls"]))
        return loads

    def peer_loads(self) -> list[Load]:
        """The peers that can be installed."""
        loads = []
        for peer in self._args.peers:
            self._console.print(f"preparing {peers.version(peer)}")
            try:
                python = interpreter(peer, self._args.out / "envs", peers.PINS)
            except NotInstallable as error:
                self.skipped[peer] = str(error)
                continue
            command = [str(python), "-m", f"benchmarks.score.peers.{peer}", "--url", self._stack.engine_url]
            contender = self._exits.enter_context(Contender(command, self._logs / f"{peer}.log"))
            kind = "grouped" if peer == "ruler" else "pointwise"
            for delay_ms in (0,) if self._args.quick else (0, 50):
                loads.append(Load(LoadResult(peer, kind, delay_ms, 1, _IN_FLIGHT), contender))
        return loads

    def measure(self, loads: Sequence[Load]) -> list[LoadResult]:
        """All results. A peer that fails is skipped; a failure of the service or a bare client is raised."""
        self._console.print("warming up")
        sized = [load for load in map(self._warmed_up, loads) if load is not None]
        for n in range(self._args.rounds):
            self._console.print(f"round {n + 1} of {self._args.rounds}")
            for load in sized:
                measured = self._measured(load, load.items, f"round {n}")
                if measured is not None:
                    load.result.samples.append(report.RoundResult.of(measured))
        return [load.result for load in sized if load.result.name not in self.skipped]

    def _client(self, what: str, *options: str) -> Contender:
        command = [sys.executable, "-m", "benchmarks.common.load", "--what", what, *options]
        return self._exits.enter_context(Contender(command, self._logs / f"{what}.log"))

    def _warmed_up(self, load: Load) -> Load | None:
        """The load after a first measurement, which opens its connections, sized to `seconds` in whole waves."""
        wave = load.result.in_flight
        if self._measured(load, wave, "warm up") is None:
            return None
        measured = self._measured(load, wave, "size")
        if measured is None:
            return None
        waves = max(1, round(min(self._args.seconds / measured["wall_s"], _MAX_ITEMS / wave)))
        return Load(load.result, load.contender, waves * wave)

    def _measured(self, load: Load, items: int, phase: str) -> dict[str, Any] | None:
        """A measurement; None for a peer that is skipped."""
        result = load.result
        if result.name in self.skipped:
            return None
        self._stack.set_engine_delay(result.delay_ms)
        try:
            return load.measure(items, phase)
        except ContenderFailed as error:
            if result.kind not in _PEER_KINDS:
                raise
            self.skipped[result.name] = str(error)
            return None


def _batch_loads(*, quick: bool) -> Iterator[tuple[int, int, int]]:
    """Engine delay in ms, criteria, concurrent batches."""
    for delay_ms in (0, 50):
        for criteria in stack.CRITERIA:
            for batches in (1, 8):
                if not quick or criteria == 1 or (delay_ms == 0 and batches == 8):
                    yield delay_ms, criteria, batches


if __name__ == "__main__":
    run_and_exit(main)
