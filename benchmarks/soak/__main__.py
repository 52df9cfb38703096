"""`make soak`: load, kills, and the assessment; exit status 1 when a rule was violated."""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from benchmarks.common.output import OUT, write_json
from benchmarks.common.shutdown import run_and_exit
from benchmarks.soak import plot, report
from benchmarks.soak.answer_log import AnswerLog, Violations
from benchmarks.soak.assessment import assess, check_memory, memory_trend
from benchmarks.soak.clients import Clients
from benchmarks.soak.faults import Faults
from benchmarks.soak.monitor import SAMPLE_S, Monitor, TraceReader, wait_until_drained
from benchmarks.soak.processes import ProcessFailed, SoakStack, running_stack
from benchmarks.soak.traffic import MAX_BODY_BYTES, Traffic
from services.kit.asyncio_utils import cancel_and_wait

_QUICK_MINUTES = 1.5
_JUDGE_IN_FLIGHT, _REDIS_CONNECTIONS, _OTHER_DESCRIPTORS = 64, 64, 32
_SAMPLES_PER_LINE = 5


def main() -> int:
    """Run the soak, print the table, write report and plot."""
    args = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 180)
    args.out.mkdir(parents=True, exist_ok=True)
    settings = {
        "JUDGE_IN_FLIGHT": str(_JUDGE_IN_FLIGHT), "JUDGE_QUEUE": "512", "MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        "JUDGEMENT_TTL_S": "60", "REDIS_TIMEOUT_S": "1.0",
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="soak-", dir=args.out) as folder:
        try:
            with running_stack(Path(folder), delay_ms=args.delay_ms, settings=settings) as stack:
                result = uvloop.run(_soak(stack, args, settings, console))
        except ProcessFailed as error:
            console.print(str(error), style="red", markup=False)
            _move_logs(Path(folder), args.out)
            return 1
        _move_logs(Path(folder), args.out)
    report.show(console, result)
    write_json(args.out / "soak.json", report.document(result))
    plot.draw(args.out / "soak.png", result.samples, result.outages, list(result.memory))
    console.print(f"written: {args.out / 'soak.json'}, {args.out / 'soak.png'}")
    return 0 if result.passed else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the load")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_MINUTES:g} minutes")
    parser.add_argument("--lanes", type=int, default=48, help="concurrent callers, each with one request in flight")
    parser.add_argument("--delay-ms", type=float, default=20.0, help="delay of the stub engine")
    parser.add_argument("--seed", default="soak", help="seed of the requests")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of soak.json, soak.png and the logs")
    args = parser.parse_args()
    args.minutes = _QUICK_MINUTES if args.quick else args.minutes
    return args


async def _soak(
    stack: SoakStack, args: argparse.Namespace, settings: dict[str, str], console: Console
) -> report.SoakResult:
    for process in (stack.engine, *stack.replicas):
        await process.until_ready()
    answers = AnswerLog()
    clients = Clients(stack, answers, Traffic(args.seed), lanes=args.lanes)
    reader = TraceReader(stack.redis.url)
    faults = Faults(stack, clients, reader)
    monitor = Monitor(stack, answers, lambda: faults.outage)
    seconds, began = 60.0 * args.minutes, time.monotonic()
    background = [
        asyncio.create_task(work) for work in (monitor.run(began), _print_progress(monitor, answers, seconds, console))
    ]
    reading = asyncio.create_task(reader.run())
    callers, killing = asyncio.create_task(clients.run()), asyncio.create_task(faults.run(began, seconds))
    try:
        await _until_over((*background, reading, callers, killing), began + seconds)
        clients.stop()
        await asyncio.gather(callers, killing)
        seconds_run = time.monotonic() - began
        for task in (*background, reading):
            await cancel_and_wait(task)
        console.print("the load has ended; waiting for the spools")
        if not await wait_until_drained(stack, reader):
            answers.violations.add("the spools are replayed", "not within the time limit")
        assessment = assess(answers, reader.traces, await reader.outcomes())
    finally:
        for task in (*background, reading, callers, killing):
            await cancel_and_wait(task)
        await reader.aclose()
    memory = {replica.name: memory_trend(monitor.samples, n) for n, replica in enumerate(stack.replicas)}
    pools = _JUDGE_IN_FLIGHT + _REDIS_CONNECTIONS + _OTHER_DESCRIPTORS
    max_descriptors = pools + 2 * args.lanes  # each caller may have one connection of its own and one of RewardClient
    check_memory(memory, assessment.violations, max_descriptors=max_descriptors)
    return report.SoakResult(
        seconds=seconds_run,
        answers=answers,
        assessment=assessment,
        violations=_merge(assessment.violations, answers.violations),
        memory=memory,
        outages=faults.outages,
        samples=monitor.samples,
        activations=clients.activations,
        max_descriptors=max_descriptors,
        settings=settings | {"lanes": args.lanes, "delay_ms": args.delay_ms, "seed": args.seed},
    )


async def _until_over(tasks: tuple[asyncio.Task[Any], ...], end: float) -> None:
    """Wait until `end`; raises the exception of a task that fails."""
    pending = set(tasks)
    while pending and (remaining_s := end - time.monotonic()) > 0.0:
        done, pending = await asyncio.wait(pending, timeout=remaining_s, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


async def _print_progress(monitor: Monitor, answers: AnswerLog, seconds: float, console: Console) -> None:
    """Print a progress line every few samples."""
    printed = 0
    while True:
        await asyncio.sleep(SAMPLE_S)
        if len(monitor.samples) >= printed + _SAMPLES_PER_LINE:
            printed = len(monitor.samples)
            console.print(report.progress(monitor.samples[-1], seconds, answers), markup=False, highlight=False)


def _merge(*several: Violations) -> Violations:
    merged = Violations()
    for violations in several:
        merged.counts.update(violations.counts)
        for rule, examples in violations.examples.items():
            merged.examples[rule] += examples
    return merged


def _move_logs(folder: Path, out: Path) -> None:
    logs = out / "logs"
    logs.mkdir(exist_ok=True)
    for log in folder.glob("*.log"):
        log.replace(logs / f"soak {log.name}")


if __name__ == "__main__":
    run_and_exit(main)
