"""`make soak`: load, kills, and what is left of it; the exit status is 1 when a rule was broken."""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from benchmarks.common.shutdown import run_and_exit
from benchmarks.soak import plot, report
from benchmarks.soak.answer_log import Book, Violations
from benchmarks.soak.assessment import compare, flatness, judge_flatness
from benchmarks.soak.clients import Clients
from benchmarks.soak.faults import Faults
from benchmarks.soak.monitor import SAMPLE_S, TraceReader, Watch, drained
from benchmarks.soak.processes import PartFailed, Parts, running
from benchmarks.soak.traffic import MAX_BODY_BYTES, Traffic
from services.kit.asyncio_utils import cancel_and_wait

OUT = Path(__file__).parents[1] / "out"
_QUICK_MINUTES = 1.5
_JUDGE_IN_FLIGHT, _REDIS_CONNECTIONS, _OTHER_DESCRIPTORS = 64, 64, 32
_TELL_EVERY = 5
"""Samples."""


def main() -> int:
    """Run it, print the table, write report and picture."""
    args = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 180)
    args.out.mkdir(parents=True, exist_ok=True)
    settings = {
        "JUDGE_IN_FLIGHT": str(_JUDGE_IN_FLIGHT), "JUDGE_QUEUE": "512", "MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        "JUDGEMENT_TTL_S": "60", "REDIS_TIMEOUT_S": "1.0",
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="soak-", dir=args.out) as folder:
        try:
            with running(Path(folder), delay_ms=args.delay_ms, settings=settings) as parts:
                found = uvloop.run(_soak(parts, args, settings, console))
        except PartFailed as error:
            console.print(str(error), style="red", markup=False)
            _keep_logs(Path(folder), args.out)
            return 1
        _keep_logs(Path(folder), args.out)
    report.show(console, found)
    report.write(args.out / "soak.json", found)
    plot.draw(args.out / "soak.png", found.samples, found.outages, list(found.flatness))
    console.print(f"written: {args.out / 'soak.json'}, {args.out / 'soak.png'}")
    return 0 if found.passed else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long there is load")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_MINUTES:g} minutes")
    parser.add_argument("--lanes", type=int, default=48, help="callers at once, each with one request under way")
    parser.add_argument("--delay-ms", type=float, default=20.0, help="how long the stub engine takes")
    parser.add_argument("--seed", default="soak", help="another one is another course of requests")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of soak.json, soak.png and the logs")
    args = parser.parse_args()
    args.minutes = _QUICK_MINUTES if args.quick else args.minutes
    return args


async def _soak(parts: Parts, args: argparse.Namespace, settings: dict[str, str], console: Console) -> report.Findings:
    for part in (parts.engine, *parts.replicas):
        await part.until_ready()
    book = Book()
    clients = Clients(parts, book, Traffic(args.seed), lanes=args.lanes)
    faults = Faults(parts, clients)
    watch, reader = Watch(parts, book, faults), TraceReader(parts.redis.url)
    seconds, began = 60.0 * args.minutes, time.monotonic()
    behind = [asyncio.create_task(work) for work in (watch.run(began), _tell(watch, book, seconds, console))]
    reading = asyncio.create_task(reader.run())
    callers, killing = asyncio.create_task(clients.run()), asyncio.create_task(faults.run(began, seconds))
    try:
        await _until_over((*behind, reading, callers, killing), began + seconds)
        clients.stop()
        await asyncio.gather(callers, killing)
        took = time.monotonic() - began
        for task in (*behind, reading):
            await cancel_and_wait(task)
        console.print("the load is over; waiting for the spools")
        if not await drained(parts, reader):
            book.violations.note("the spools are replayed", "still not after the wait")
        kept = compare(book, reader.traces, await reader.outcomes())
    finally:
        for task in (*behind, reading, callers, killing):
            await cancel_and_wait(task)
        await reader.aclose()
    flat = {part.name: flatness(watch.samples, n) for n, part in enumerate(parts.replicas)}
    pools = _JUDGE_IN_FLIGHT + _REDIS_CONNECTIONS + _OTHER_DESCRIPTORS
    max_descriptors = pools + 2 * args.lanes  # every caller by hand and by the library
    judge_flatness(flat, kept.violations, max_descriptors=max_descriptors)
    return report.Findings(
        seconds=took,
        book=book,
        kept=kept,
        violations=_all_of(kept.violations, book.violations),
        flatness=flat,
        outages=faults.outages,
        samples=watch.samples,
        activations=clients.activations,
        max_descriptors=max_descriptors,
        settings=settings | {"lanes": args.lanes, "delay_ms": args.delay_ms, "seed": args.seed},
    )


async def _until_over(tasks: tuple[asyncio.Task[Any], ...], end: float) -> None:
    """Until the time is over; raises what any of the tasks fails with."""
    waiting = set(tasks)
    while waiting and (left := end - time.monotonic()) > 0.0:
        done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


async def _tell(watch: Watch, book: Book, seconds: float, console: Console) -> None:
    """A line every few samples."""
    told = 0
    while True:
        await asyncio.sleep(SAMPLE_S)
        if len(watch.samples) >= told + _TELL_EVERY:
            told = len(watch.samples)
            console.print(report.progress(watch.samples[-1], seconds, book), markup=False, highlight=False)


def _all_of(*several: Violations) -> Violations:
    together = Violations()
    for found in several:
        together.counts.update(found.counts)
        for rule, examples in found.examples.items():
            together.examples[rule] += examples
    return together


def _keep_logs(folder: Path, out: Path) -> None:
    kept = out / "logs"
    kept.mkdir(exist_ok=True)
    for log in folder.glob("*.log"):
        log.replace(kept / f"soak {log.name}")


if __name__ == "__main__":
    run_and_exit(main)
