"""The cost of judging on a real engine: Regrade's modes and the paper's procedure, on vLLM on this CPU, in one run.

Five LLM criteria, groups of eight essays of about 300 words, each text used once. A contender judges all groups at
once; all contenders are measured in turn, round after round, each with an empty prefix cache. Measured are

  expected, N a call  POST /score in front of the engine, N criteria per call: the whole service with a real Valkey
  reasoned            the same, after rationales of at most 60 tokens
  planned             the same, after a plan for each group that is carried out on each essay
  the paper's flow    response before rubric, a rationale and a score per criterion, in consecutive calls, all essays
                      concurrently; rationales of exactly 60 tokens, so that a small model's brevity does not count
  the limit           prompts without a common prefix, one token each: the engine's highest prefill rate

Tokens are vLLM's own counts. Prefill efficiency is the number of distinct tokens in the prefix tree of all prompts over
the number of computed tokens. The figures go to benchmarks/out/engine.json, the headline figures at the top level.
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

from benchmarks.common.output import OUT, write_json
from benchmarks.common.stack import prefixed, running_valkey
from benchmarks.engine import report
from benchmarks.engine.paper_flow import PaperFlow
from benchmarks.engine.report import ContenderResult, RoundResult
from regrade.contracts import Mode
from services.local.processes import Processes, StackError
from services.reward.settings import RewardSettings
from tests.support import vllm_server
from tests.support.essays import TASK, essay_groups, rubric
from tests.support.recording_proxy import Conversation, RecordingProxy
from tests.support.texts import Group

CRITERIA_PER_CALL = (1, 2, 3, 5)
DEFAULT_CRITERIA_PER_CALL: int = RewardSettings.model_fields["judge_criteria_per_call"].default
_PAPER = "the paper's flow"
_RATIONALE_TOKENS = 60
_RATIONALE_WORDS = 30
"""The service allows two tokens per word of a rationale."""
_TIMEOUT_S = 900.0
_LIMIT_PROMPTS, _LIMIT_TOKENS = 16, 500


class Judged(NamedTuple):
    """A judged batch: a reward per item, None where there is none, and every conversation sent to the engine."""

    rewards: Sequence[float | None]
    conversations: Sequence[Conversation]


Judge = Callable[[Sequence[Group], int], Judged]
"""Judges groups in round n."""


def main() -> int:
    """Measure, print the table, write the JSON; exit status 1 when something could not be measured."""
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
    parser.add_argument("--quick", action="store_true", help="one round of one group, the default criteria per call")
    parser.add_argument("--rounds", type=int, help="rounds; 3 by default, 1 with --quick")
    parser.add_argument("--groups", type=int, help="groups of eight per measurement; 2 by default, 1 with --quick")
    parser.add_argument("--engine-url", default="", help="your own vLLM, started with VLLM_SERVER_DEV_MODE=1")
    parser.add_argument("--engine-option", action="append", default=[], help="another option for vLLM")
    parser.add_argument(
        "--setting", action="append", default=[], metavar="NAME=VALUE", help="a setting of the reward service"
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
    began = time.monotonic()
    with ExitStack() as exits:
        processes = exits.enter_context(Processes(logs))
        console.print(f"using {args.engine_url}" if args.engine_url else "starting vLLM")
        vllm = exits.enter_context(
            vllm_server.Vllm(args.engine_url or vllm_server.start(processes, args.engine_option))
        )
        proxy = exits.enter_context(RecordingProxy(vllm.url))
        sizes = (DEFAULT_CRITERIA_PER_CALL,) if args.quick else CRITERIA_PER_CALL
        services = exits.enter_context(_services(processes, proxy.url, sizes, settings))
        results, limit = _measure(args, _judges(services, proxy, vllm), vllm, console)
    paper = results[_PAPER]
    figures = report.headlines(results[_expected(DEFAULT_CRITERIA_PER_CALL)], paper, limit)
    conditions = {
        "quick": args.quick,
        "rounds": args.rounds,
        "groups": args.groups,
        "default_criteria_per_call": DEFAULT_CRITERIA_PER_CALL,
        "seconds": round(time.monotonic() - began),
        "model": vllm.model,
        "settings": settings,
    }
    report.show(console, figures, list(results.values()), paper, limit)
    content = report.document(figures, list(results.values()), limit, conditions)
    console.print(f"written: {write_json(args.out / 'engine.json', content)}")


def _measure(
    args: argparse.Namespace, judges: Mapping[str, tuple[int | None, Judge]], vllm: vllm_server.Vllm, console: Console
) -> tuple[dict[str, ContenderResult], ContenderResult]:
    """The results of each contender, and those of the limit."""
    results = {name: ContenderResult(name, criteria_per_call) for name, (criteria_per_call, _) in judges.items()}
    limit = ContenderResult("the limit")
    for n in range(args.rounds):
        console.print(f"round {n + 1} of {args.rounds}")
        limit.samples.append(_limit(vllm, n))
        for name, (_, judge) in judges.items():
            sample = _judged(vllm, judge, essay_groups(f"{name} {n}", args.groups), n)
            console.print(f"  {name}: {sample.items_s:.2f} items/s", markup=False)
            results[name].samples.append(sample)
    return results, limit


@contextmanager
def _services(
    processes: Processes, engine_url: str, sizes: Sequence[int], settings: Mapping[str, str]
) -> Iterator[dict[int, str]]:
    """The URL of a reward service for each number of criteria per call, all with the rubric of five criteria."""
    with running_valkey() as valkey:
        urls = {}
        for criteria_per_call in sizes:
            env = {
                "REDIS_URL": f"redis://127.0.0.1:{valkey.port}/0",
                "JUDGE_URL": engine_url,
                "JUDGE_CRITERIA_PER_CALL": str(criteria_per_call),
                "JUDGE_TIMEOUT_S": str(_TIMEOUT_S),
                "RATIONALE_WORDS": str(_RATIONALE_WORDS),
                "LOG_LEVEL": "WARNING",
            } | {name.upper(): value for name, value in settings.items()}
            name, env = f"reward_{criteria_per_call}", prefixed("REGRADE_REWARD_", env)
            _, urls[criteria_per_call] = processes.start_server(
                name, ["services.reward", "--port", "0"], ready="/readyz", env=env
            )
        body = {"rubric": rubric().model_dump(mode="json"), "by": "benchmark", "reason": "benchmark"}
        httpx.put(f"{urls[sizes[0]]}/rubrics/{TASK}", json=body, timeout=10.0).raise_for_status()
        yield urls


def _expected(criteria_per_call: int) -> str:
    return f"expected, {criteria_per_call} a call"


def _judges(
    services: Mapping[int, str], proxy: RecordingProxy, vllm: vllm_server.Vllm
) -> dict[str, tuple[int | None, Judge]]:
    """Every contender by its name, with its criteria per call if it has that setting."""

    def through(criteria_per_call: int, mode: Mode) -> Judge:
        return lambda groups, n: _score(services[criteria_per_call], proxy, mode, groups, n)

    def paper(groups: Sequence[Group], _: int) -> Judged:
        flow = PaperFlow(vllm.url, vllm.model, rubric(), _RATIONALE_TOKENS)
        return Judged(asyncio.run(flow.judge(groups)), flow.conversations)

    return {
        _PAPER: (None, paper),
        **{_expected(size): (size, through(size, Mode.EXPECTED)) for size in services},
        "reasoned": (None, through(DEFAULT_CRITERIA_PER_CALL, Mode.REASONED)),
        "planned": (None, through(DEFAULT_CRITERIA_PER_CALL, Mode.PLANNED)),
    }


def _score(url: str, proxy: RecordingProxy, mode: Mode, groups: Sequence[Group], n: int) -> Judged:
    """All groups in one request, as a trainer sends its batch."""
    items = [
        {"id": f"{g}-{i}", "group": str(g), "prompt": group.prompt, "completion": completion}
        for g, group in enumerate(groups)
        for i, completion in enumerate(group.completions)
    ]
    request = {"task": TASK, "run": f"bench-{url.rpartition(':')[2]}-{mode}", "step": n, "mode": mode, "items": items}
    response = httpx.post(f"{url}/score", json=request, timeout=_TIMEOUT_S).raise_for_status().json()
    if any(result["cached"] for result in response["results"]):
        raise RuntimeError("an item was answered from the store")
    return Judged([result["reward"] for result in response["results"]], proxy.take())


def _judged(vllm: vllm_server.Vllm, judge: Judge, groups: Sequence[Group], n: int) -> RoundResult:
    vllm.reset_prefix_cache()
    before, began = vllm.counters(), time.perf_counter()
    rewards, conversations = judge(groups, n)
    wall_s = time.perf_counter() - began
    used = vllm.counters().since(before)
    scored = [reward for reward in rewards if reward is not None]
    if not scored or not all(0.0 <= reward <= 1.0 for reward in scored):
        raise RuntimeError(f"no rewards in [0, 1]: {list(rewards)[:4]}")
    distinct = vllm.distinct_tokens(conversations)
    return RoundResult(len(scored), len(rewards) - len(scored), wall_s, *used, distinct)


def _limit(vllm: vllm_server.Vllm, n: int) -> RoundResult:
    """The engine's rate for prompts without a common prefix, all sent concurrently."""
    rng = random.Random(f"limit {n}")
    prompts = [[rng.randrange(1_000, 40_000) for _ in range(_LIMIT_TOKENS)] for _ in range(_LIMIT_PROMPTS)]
    before, began = vllm.counters(), time.perf_counter()
    asyncio.run(_complete(vllm, prompts))
    wall_s = time.perf_counter() - began
    return RoundResult(len(prompts), 0, wall_s, *vllm.counters().since(before), sum(map(len, prompts)))


async def _complete(vllm: vllm_server.Vllm, prompts: Sequence[Sequence[int]]) -> None:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)
    ) as session:

        async def complete(prompt: Sequence[int]) -> None:
            body: dict[str, Any] = {"model": vllm.model, "prompt": list(prompt), "max_tokens": 1}
            async with session.post(f"{vllm.url}/v1/completions", json=body) as response:
                if response.status != 200:
                    raise RuntimeError(f"the engine answered {response.status}")
                await response.read()

        await asyncio.gather(*map(complete, prompts))


if __name__ == "__main__":
    sys.exit(main())
