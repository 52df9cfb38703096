"""`regrade doctor`: every part asked, the judge measured, and a remedy for what is wrong."""

from collections.abc import Sequence

from rich.progress import track
from rich.text import Text

from regrade.cli.connection import console
from regrade.client import BlockingRewardClient
from regrade.contracts import CycleStatus, Purpose, Rubric, ScoreItem
from regrade.errors import AccessError, RegradeError
from regrade.tasks import UnknownTaskError, load_pack
from regrade.tasks.anchors import AnchorSet, build_anchors

GOOD_AUC = 0.7
_BATCH = 8


def examine(task: str, originals: int, url: str, meta_url: str, key: str) -> bool:
    """Run every check and print what was found; True when nothing is broken (a weak judge is a warning)."""
    reward = BlockingRewardClient(url, key=key, patience_s=3.0)
    meta = BlockingRewardClient(meta_url, key=key, patience_s=3.0)
    try:
        return _services(reward, meta, task, url, meta_url) and _judge(reward, task, originals)
    finally:
        reward.close()
        meta.close()


def _services(reward: BlockingRewardClient, meta: BlockingRewardClient, task: str, url: str, meta_url: str) -> bool:
    remedies = {
        "redis": "start Redis or Valkey, and check REGRADE_REWARD_REDIS_URL",
        "judge": "start the judge engine, and check REGRADE_REWARD_JUDGE_URL (curl its /v1/models)",
    }
    if not _reachable(reward, "reward service", url, "start it: python -m services.reward"):
        return False
    parts = reward.readiness()
    for name, answers in parts.items():
        _tell(answers, f"{name} behind the reward service", remedies[name])
    meta_there = _reachable(meta, "meta-reward service", meta_url, "start it: python -m services.meta_reward")
    if not all(parts.values()):
        return False
    try:
        rubric = reward.rubric(task)
    except RegradeError as error:
        remedy = _WRONG_KEY if isinstance(error, AccessError) else f"regrade rubric put {task} FILE --reason '...'"
        _tell(False, f"active rubric of {task}", f"{error}; {remedy}")
        return False
    _tell(True, f"active rubric of {task}: version {rubric.version}, {len(rubric.criteria)} criteria")
    return meta_there and _evolution(meta, task)


def _evolution(meta: BlockingRewardClient, task: str) -> bool:
    try:
        status = meta.call("GET", f"/status/{task}", CycleStatus)
    except RegradeError as error:
        remedy = _WRONG_KEY if isinstance(error, AccessError) else "check REGRADE_META_REDIS_URL, look at its log"
        _tell(False, f"evolution of {task}", f"{error}; {remedy}")
        return False
    _tell(True, f"evolution: {status.completed} cycles done, now {status.stage.value}, {status.lag} traces wait")
    if status.error:
        _tell(False, "the last cycle failed", f"{status.error}; look at the meta-reward service's log")
    return not status.error


def _judge(reward: BlockingRewardClient, task: str, count: int) -> bool:
    try:
        pack = load_pack(task)
    except UnknownTaskError as error:
        _tell(True, f"judge not measured: {error}")
        return True
    anchors = build_anchors(pack, count)
    try:
        own = _anchor_auc(reward, task, pack.starting_rubric, anchors, "the judge alone")
        active = _anchor_auc(reward, task, reward.rubric(task), anchors, "the active rubric")
    except RegradeError as error:
        _tell(False, "judge measured", f"{error}; look at the reward service's log")
        return False
    if own is None or active is None:
        _tell(False, "judge measured", "it gave no usable score; look at the reward service's log")
        return False
    _tell(own >= GOOD_AUC, f"anchor AUC of the judge alone, one-line rubric: {own:.2f}", _WEAK_JUDGE, warning=True)
    _tell(active >= GOOD_AUC, f"anchor AUC of the active rubric: {active:.2f}", _WEAK_RUBRIC, warning=True)
    return True


_WRONG_KEY = "give a key this service knows: --key or REGRADE_KEY"
_WEAK_JUDGE = (
    f"below {GOOD_AUC}: this judge hardly tells good text from damaged; "
    "point REGRADE_REWARD_JUDGE_URL at a stronger model"
)
_WEAK_RUBRIC = f"below {GOOD_AUC}: let a cycle run (regrade evolve), or put a rubric with more to hold on to"


def _anchor_auc(reward: BlockingRewardClient, task: str, rubric: Rubric, anchors: AnchorSet, what: str) -> float | None:
    """Share of (original, damaged twin) pairs in the right order, ties counting half; None without any pair."""
    cases = (*anchors.originals, *anchors.damaged)
    items = [case.item(index) for index, case in enumerate(cases)]
    rewards: list[float | None] = []
    for start in track(range(0, len(items), _BATCH), f"measuring {what}", console=console, transient=True):
        rewards.extend(_rewards(reward, task, rubric, items[start : start + _BATCH]))
    honest = rewards[: len(anchors.originals)]
    wins = []
    for case, twin in zip(anchors.damaged, rewards[len(anchors.originals) :], strict=True):
        own = honest[case.original]
        if own is not None and twin is not None:
            wins.append(1.0 if own > twin else 0.5 if own == twin else 0.0)
    return sum(wins) / len(wins) if wins else None


def _rewards(reward: BlockingRewardClient, task: str, rubric: Rubric, items: Sequence[ScoreItem]) -> list[float | None]:
    answer = reward.score(task, items, rubric=rubric, purpose=Purpose.SHADOW)
    return [result.reward for result in answer.results]


def _reachable(client: BlockingRewardClient, name: str, url: str, remedy: str) -> bool:
    try:
        client.call("GET", "/healthz", dict[str, str])
    except RegradeError as error:
        _tell(False, f"{name} at {url}", f"{error.detail}. {remedy}")
        return False
    _tell(True, f"{name} at {url}")
    return True


def _tell(good: bool, what: str, remedy: str = "", *, warning: bool = False) -> None:
    mark, colour = ("ok", "green") if good else ("warning", "yellow") if warning else ("broken", "red")
    line = Text.assemble((f"{mark:<7}", colour), f" {what}", "" if good else f"\n        {remedy}")
    console.print(line, soft_wrap=True)
