"""`regrade doctor`: checks the services, measures the judge, and prints a remedy for each problem."""

import time
from typing import NamedTuple

from rich.progress import Progress
from rich.text import Text

from regrade.cli.output import console, counted, print_notice
from regrade.client import BlockingRewardClient
from regrade.contracts import CycleStatus, Purpose, Rubric, ScoreItem
from regrade.errors import AccessError, RegradeError
from regrade.tasks import BrokenTaskError, UnknownTaskError, load_pack
from regrade.tasks.anchors import AnchorCase, AnchorSet, build_anchors

GOOD_AUC = 0.7
"""Below it a judge orders fewer than 7 of 10 pairs correctly, and the gate can hardly tell candidates apart."""
_BATCH = 4
"""The small judge needs some seconds for more, and the limit of time is looked at between batches."""
_PATIENCE_S = 3.0
_ANY_TASK = "essay_writing"
"""Its starting rubric is scored to see whether the judge answers; any would do."""

_REMEDIES = {
    "redis": "start Redis or Valkey, and check REGRADE_REWARD_REDIS_URL",
    "judge": "check the judge engine, and REGRADE_REWARD_JUDGE_URL, JUDGE_KEY and JUDGE_MODEL (docs/judges.md)",
}
_WRONG_KEY = "give a key this service knows: --key or REGRADE_KEY"
_WEAK_JUDGE = (
    f"below {GOOD_AUC}: this judge hardly separates good text from damaged text; "
    "point REGRADE_REWARD_JUDGE_URL at a stronger model"
)
_WEAK_RUBRIC = f"below {GOOD_AUC}: run a cycle (regrade evolve), or put a more specific rubric"


def examine(task: str, originals: int, seconds: float, url: str, meta_url: str, key: str) -> bool:
    """Run and print every check; False if something is broken (a weak judge is only a warning)."""
    with (
        BlockingRewardClient(url, key=key, patience_s=_PATIENCE_S) as reward,
        BlockingRewardClient(meta_url, key=key, patience_s=_PATIENCE_S) as meta,
    ):
        return _check_services(reward, meta, task, url, meta_url) and _check_judge(reward, task, originals, seconds)


def _check_services(
    reward: BlockingRewardClient, meta: BlockingRewardClient, task: str, url: str, meta_url: str
) -> bool:
    if not _reachable(reward, "reward service", url, "start it: make serve, or python -m services.reward"):
        return False
    dependencies = reward.readiness()
    for name, available in dependencies.items():
        problem = f"{_judge_problem(reward, task)}; " if name == "judge" and not available else ""
        _report(available, f"{name} behind the reward service", problem + _REMEDIES[name])
    meta_reachable = _reachable(
        meta, "meta-reward service", meta_url, "start it: make serve, or python -m services.meta_reward"
    )
    return all(dependencies.values()) and _check_rubric(reward, task) and meta_reachable and _check_cycles(meta, task)


def _judge_problem(reward: BlockingRewardClient, task: str) -> str:
    """Why the judge gives no score, in the reward service's words."""
    item = ScoreItem(id="doctor", prompt="What is two and two?", completion="Two and two make four.")
    try:
        response = reward.score(task, [item], rubric=load_pack(_ANY_TASK).starting_rubric, purpose=Purpose.SHADOW)
    except RegradeError as refused:
        return refused.detail
    error = response.results[0].error
    return "it gave a score when tried" if error is None else error.message


def _check_rubric(reward: BlockingRewardClient, task: str) -> bool:
    try:
        rubric = reward.rubric(task)
    except RegradeError as error:
        remedy = _WRONG_KEY if isinstance(error, AccessError) else f"regrade rubric put {task} FILE --reason '...'"
        return _report(False, f"active rubric of {task}", f"{error}; {remedy}")
    return _report(True, f"active rubric of {task}: version {rubric.version}, {len(rubric.criteria)} criteria")


def _check_cycles(meta: BlockingRewardClient, task: str) -> bool:
    try:
        status = meta.call("GET", f"/status/{task}", CycleStatus)
    except RegradeError as error:
        remedy = _WRONG_KEY if isinstance(error, AccessError) else "check REGRADE_META_REDIS_URL, look at its log"
        return _report(False, f"evolution of {task}", f"{error}; {remedy}")
    done, waiting = f"{counted(status.completed, 'cycle')} done", f"{counted(status.lag, 'trace')} waiting"
    _report(True, f"evolution: {done}, now {status.stage.value}, {waiting}")
    if status.error:
        _report(False, "the last cycle failed", f"{status.error}; look at the meta-reward service's log")
    return not status.error


def _check_judge(reward: BlockingRewardClient, task: str, originals: int, seconds: float) -> bool:
    try:
        pack = load_pack(task)
    except (UnknownTaskError, BrokenTaskError) as error:
        return _report(True, f"judge not measured: {error}")
    anchors, started = build_anchors(pack, originals), time.monotonic()
    try:
        active = reward.rubric(task)
        same = active.digest == pack.starting_rubric.digest
        share = seconds if same else seconds / 2
        alone = _measure(reward, task, pack.starting_rubric, anchors, "the judge alone", started + share)
        current = alone if same else _measure(reward, task, active, anchors, "the active rubric", started + seconds)
    except RegradeError as error:
        return _report(False, "judge measured", f"{error}; look at the reward service's log")
    if not alone.pairs or not current.pairs:
        return _report(False, "judge measured", f"it gave no usable score: {_judge_problem(reward, task)}")
    _report(
        alone.auc >= GOOD_AUC,
        f"anchor AUC of the judge alone, one-line rubric: {alone.text}",
        f"{_WEAK_JUDGE}{alone.advice}",
        warning=True,
    )
    if not same:
        is_good, text = current.auc >= GOOD_AUC, f"anchor AUC of the active rubric: {current.text}"
        _report(is_good, text, f"{_WEAK_RUBRIC}{current.advice}", warning=True)
    return True


class _Measured(NamedTuple):
    """Share of (original, damaged) pairs in the right order, ties counting half; of how many pairs, of how many."""

    auc: float
    pairs: int
    all_pairs: int

    @property
    def text(self) -> str:
        return f"{self.auc:.2f} ({self.pairs} of {self.all_pairs} pairs)"

    @property
    def advice(self) -> str:
        return "" if self.pairs == self.all_pairs else ". More pairs: --seconds 120"


def _measure(
    reward: BlockingRewardClient, task: str, rubric: Rubric, anchors: AnchorSet, what: str, deadline: float
) -> _Measured:
    """Score an original, then its damaged copies, then the next original, until the deadline."""
    cases = sorted((*anchors.originals, *anchors.damaged), key=lambda case: case.original)
    rewards: list[tuple[AnchorCase, float]] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        if not console.is_terminal:
            print_notice(f"measuring {what}: {len(cases)} texts, {max(0.0, deadline - time.monotonic()):.0f} s at most")
        bar = progress.add_task(f"measuring {what}", total=len(cases))
        for start in range(0, len(cases), _BATCH):
            if start and time.monotonic() >= deadline:
                break
            batch = cases[start : start + _BATCH]
            items = [case.item(start + index) for index, case in enumerate(batch)]
            answer = reward.score(task, items, rubric=rubric, purpose=Purpose.SHADOW)
            results = zip(batch, answer.results, strict=True)
            rewards += [(case, result.reward) for case, result in results if result.reward is not None]
            progress.advance(bar, len(batch))
    originals = {case.original: value for case, value in rewards if case.kind == "original"}
    wins = [
        1.0 if originals[case.original] > value else 0.5 if originals[case.original] == value else 0.0
        for case, value in rewards
        if case.kind != "original" and case.original in originals
    ]
    return _Measured(sum(wins) / len(wins) if wins else 0.0, len(wins), len(anchors.damaged))


def _reachable(client: BlockingRewardClient, name: str, url: str, remedy: str) -> bool:
    try:
        client.call("GET", "/healthz", dict[str, str])
    except RegradeError as error:
        return _report(False, f"{name} at {url}", f"{error.detail}. {remedy}")
    return _report(True, f"{name} at {url}")


def _report(good: bool, what: str, remedy: str = "", *, warning: bool = False) -> bool:
    """Print the result of one check, with the remedy unless it is good; returns `good`."""
    mark, colour = ("ok", "green") if good else ("warning", "yellow") if warning else ("broken", "red")
    text = Text.assemble((f"{mark:<7}", colour), f" {what}", "" if good else f"\n        {remedy}")
    console.print(text, soft_wrap=True)
    return good
