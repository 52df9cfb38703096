"""The reward functions, each called with the arguments of its trainer, against a real service."""

import asyncio
import math
import pickle
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from regrade import RegradeError, RewardClient, ServiceUnavailableError
from regrade.adapters import areal, art, ms_swift, open_instruct, skyrl, verifiers, verl
from regrade.adapters.core import Scorer, ScoringConfig, UnscoredError, close_client_threads
from regrade.adapters.results import METRIC_NAMES
from regrade.adapters.trl import RegradeReward
from regrade.contracts import ItemResult, ScoreItem
from services.kit.store.trace_log import TraceLog
from tests.support.builders import ESSAY, PROMPT, TASK
from tests.support.fake_engine import FakeEngine, Messages, Reply, certain

BAD = "Trees are nice."
USER = [{"role": "user", "content": PROMPT}]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, reward_url: str, fake_engine: FakeEngine) -> Iterator[None]:
    """The environment of a training process; the judge gives everything a 4, and garbage to `BAD`."""
    variables = {"TASK": TASK, "RUN": "run-1", "URL": reward_url, "PATIENCE_S": "2"}
    for name, value in variables.items():
        monkeypatch.setenv(f"REGRADE_{name}", value)

    def judge(messages: Messages) -> Reply:
        return Reply(b"garbage") if BAD in messages[1]["content"] else certain(4)

    fake_engine.script = judge
    yield
    close_client_threads()


async def test_verl_gets_one_set_of_names(trace_log: TraceLog) -> None:
    extra_info = {"prompt": USER, "split": "test"}
    good = await verl.compute_score("essays", ESSAY, "a reference", extra_info)
    assert good == {"score": 0.8, "regrade_scored": 1.0, "regrade_rubric_version": 1.0, "regrade_flags": 0.0}
    (trace,) = (await trace_log.recent(TASK, 10)).traces
    assert (trace.purpose, trace.reference, trace.run) == ("eval", "a reference", "run-1")
    assert await asyncio.to_thread(verl.compute_score_sync, "essays", ESSAY, "a reference", extra_info) == good
    with pytest.raises(ValueError, match="extra_info"):
        await verl.compute_score("essays", ESSAY, None, {})


@pytest.mark.parametrize("away", [False, True], ids=["one item fails", "judge away"])
async def test_verls_rollout_without_a_reward_ends_with_an_error(
    fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    """Where verl's manager would make a 0 of an exception, the score is no number."""
    if away:
        fake_engine.stop()
    expected = "judge_unavailable|unreachable" if away else "judge_malformed"
    with pytest.raises(RegradeError, match=expected):
        await verl.compute_score("essays", BAD, None, {"question": PROMPT})
    with pytest.raises(RegradeError, match=expected):
        await asyncio.to_thread(verl.compute_score_sync, "essays", BAD, None, {"question": PROMPT})
    module, name = verl._RATE_LIMITED
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{name: SimpleNamespace(_class_initialized=True)}))
    output = await verl.compute_score("essays", BAD, None, {"question": PROMPT})
    assert list(output) == ["score", *METRIC_NAMES]
    assert re.match(f"no reward: ({expected})", output["score"])


def test_samples_of_many_threads_and_loops_are_batches(trace_log: TraceLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share the process's one client."""
    batch_sizes: list[int] = []
    scorer = Scorer(wait_s=0.5)
    _count_batches(monkeypatch, batch_sizes)

    async def scored(item: ScoreItem) -> ItemResult:
        return await scorer.score_one(item)

    def one(number: int) -> float | None:
        item = ScoreItem(prompt=PROMPT, completion=f"{ESSAY} {number}")
        return asyncio.run(scored(item)).reward if number % 2 else scorer.score_one(item).result().reward

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(one, range(32))) == [0.8] * 32
    assert sum(batch_sizes) == 32
    assert len(batch_sizes) <= 4


def _count_batches(monkeypatch: pytest.MonkeyPatch, batch_sizes: list[int]) -> None:
    """Record the number of items of each of the client's calls."""
    original = RewardClient.score

    async def counted(self: RewardClient, task: str, items: Any, **options: Any) -> Any:
        batch_sizes.append(len(items))
        return await original(self, task, items, **options)

    monkeypatch.setattr(RewardClient, "score", counted)


async def test_i5_a_function_called_again_bills_and_traces_once(fake_engine: FakeEngine, trace_log: TraceLog) -> None:
    reward = areal.AsyncRegradeReward()
    rewards = [reward(USER, f"{ESSAY}<|im_end|>", [1], [2], query_id=7) for _ in range(3)]
    assert await asyncio.gather(*rewards) == [0.8] * 3
    assert await reward(USER, ESSAY) == 0.8
    assert len(fake_engine.calls) == 1
    assert len((await trace_log.recent(TASK, 10)).traces) == 1


def test_areal_raises_before_its_timeout_would_make_a_zero(fake_engine: FakeEngine) -> None:
    reward = pickle.loads(pickle.dumps(areal.RegradeReward(limit_s=0.5)))  # noqa: S301 - as its pool does
    fake_engine.hold()
    with pytest.raises(ServiceUnavailableError, match="timeout"):
        reward(PROMPT, ESSAY, [1], [2])
    fake_engine.release()
    assert areal.RegradeReward()(PROMPT, ESSAY, [1], [2]) == 0.8
    assert len(fake_engine.calls) == 1
    with pytest.raises(UnscoredError):
        areal.RegradeReward()(PROMPT, BAD)


def test_trls_function_goes_to_another_process() -> None:
    reward = pickle.loads(pickle.dumps(RegradeReward(max_tokens=2)))  # noqa: S301 - as AsyncGRPO does
    assert reward([USER, USER], [[{"role": "assistant", "content": text}] for text in (ESSAY, BAD)]) == [0.8, None]


def test_a_batch_may_be_larger_than_a_request() -> None:
    """Guards stop all but one of them, which is in the second request and needs the judge."""
    rewards = RegradeReward()([PROMPT] * 520, [""] * 519 + [ESSAY], trainer_state=SimpleNamespace(global_step=1))
    assert rewards == [0.0] * 519 + [0.8]


async def test_trls_ranks_have_ids_of_their_own(monkeypatch: pytest.MonkeyPatch, trace_log: TraceLog) -> None:
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        RegradeReward()([USER], [ESSAY], trainer_state=SimpleNamespace(global_step=1))
    assert {trace.item_id for trace in (await trace_log.recent(TASK, 10)).traces} == {"0.0", "1.0"}


class Orm:
    """Takes its arguments as ms-swift's base class does."""

    def __init__(self, args: Any = None) -> None:
        self.args = args


class Rewards(ms_swift.RegradeORM, Orm):
    pass


class Versions(ms_swift.RubricVersionORM, Orm):
    pass


def _columns(*completions: str, prompts: str = "") -> dict[str, Any]:
    """What ms-swift passes for completions of one prompt, or of the prompts `prompts`, a letter each."""
    letters = prompts or "a" * len(completions)
    return {
        "messages": [[*USER, {"role": "assistant", "content": text}] for text in completions],
        "trainer_state": SimpleNamespace(global_step=3),
        "prompt_id": list(letters),
    }


async def test_ms_swift_leaves_out_the_whole_group(fake_engine: FakeEngine, trace_log: TraceLog) -> None:
    """A single None would count as 0.0. Both functions together send each completion once."""
    arguments = SimpleNamespace(num_generations=2)
    completions = [ESSAY, BAD, ESSAY, f"{ESSAY} Four."]
    columns = _columns(*completions, prompts="aabb")
    rewards, versions = await asyncio.gather(*(make(arguments)(completions, **columns) for make in (Rewards, Versions)))
    assert (rewards, versions) == ([None, None, 0.8, 0.8], [1.0] * 4)
    assert {(trace.item_id, trace.step) for trace in (await trace_log.recent(TASK, 10)).traces} == {
        ("0.0", 3), ("0.2", 3), ("0.3", 3),
    }  # fmt: skip


async def test_ms_swift_raises_where_it_cannot_leave_out_a_group() -> None:
    for arguments in (SimpleNamespace(num_generations=4), None):
        with pytest.raises(UnscoredError, match="multiple of num_generations"):
            await Rewards(arguments)([ESSAY, BAD], **_columns(ESSAY, BAD))
    strict = Rewards(SimpleNamespace(num_generations=2))
    strict.unscored = "error"
    with pytest.raises(UnscoredError, match="judge_malformed"):
        await strict([ESSAY, BAD], **_columns(ESSAY, BAD))
    assert await strict([ESSAY], **_columns(ESSAY)) == [0.8]


class Rubric:
    """Computes rewards and advantages as the rubric of verifiers 0.1 does."""

    def __init__(self, funcs: list[Any], weights: list[float], parser: Any) -> None:
        self.funcs, self.weights = funcs, weights

    async def score_group(self, states: list[Any]) -> None:
        for state in states:
            pairs = zip(self.funcs, self.weights, strict=True)
            state["reward"] = sum([await func(state) * weight for func, weight in pairs])
        mean = sum(state["reward"] for state in states) / len(states)
        for state in states:
            state["advantage"] = state["reward"] - mean

    async def score_rollout(self, state: Any) -> None:
        await self.score_group([state])


class GroupRubric(verifiers.RegradeRubric, Rubric):
    pass


def _states(*completions: str) -> list[dict[str, Any]]:
    return [
        {"prompt": USER, "completion": [{"role": "assistant", "content": text}], "answer": "", "trajectory": [{}]}
        for text in completions
    ]


async def test_verifiers_scores_a_group_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    batch_sizes: list[int] = []
    _count_batches(monkeypatch, batch_sizes)

    async def length(state: dict[str, Any]) -> float:
        return float(len(state["completion"][0]["content"]) > len(ESSAY))

    rubric = GroupRubric(funcs=[length], weights=[0.1])
    good, bad, longer = _states(ESSAY, BAD, f"{ESSAY} Two.")
    await rubric.score_group([good, bad, longer])
    assert batch_sizes == [3]
    assert [good["reward"], longer["reward"]] == pytest.approx([0.8, 0.9])
    assert [good["advantage"], bad["advantage"], longer["advantage"]] == pytest.approx([-0.05, 0.0, 0.05])
    assert isinstance(bad["error"], UnscoredError)
    assert bad["trajectory"] == [{"reward": 0.0, "advantage": 0.0}]
    assert "error" not in good
    assert all(set(METRIC_NAMES) <= set(state["regrade"]) for state in (good, bad, longer))


async def test_verifiers_scores_a_single_rollout() -> None:
    good, bad = _states(ESSAY, BAD)
    for state in (good, bad):
        await GroupRubric().score_rollout(state)
    assert (good["reward"], "error" in good, str(bad["error"])[:15]) == (0.8, False, "judge_malformed")


async def test_verifiers_v1_leaves_a_trace_out_that_raises() -> None:
    metrics: dict[str, float] = {}
    task = SimpleNamespace(prompt_text=PROMPT)
    traces = [SimpleNamespace(id=text[:5], last_reply=text, record_metrics=metrics.update) for text in (ESSAY, BAD)]
    judge = verifiers.RegradeJudge()
    assert await judge.score(task, traces[0]) == 0.8
    assert metrics["regrade_rubric_version"] == 1.0
    with pytest.raises(UnscoredError):
        await judge.score(task, traces[1])


def test_skyrl_steps_with_metadata() -> None:
    environment = skyrl.RegradeEnv({"unscored": "nan"}, {"reward_spec": {"ground_truth": "x"}})
    assert environment.init(USER) == (USER, {})
    output = environment.step(ESSAY)
    assert (output["reward"], output["done"], output["observations"]) == (0.8, True, [])
    assert environment.get_metrics() == output["metadata"]
    assert math.isnan(environment.step(BAD)["reward"])
    strict = skyrl.RegradeEnv()
    strict.init(USER)
    with pytest.raises(UnscoredError):
        strict.step(BAD)


class Verifier:
    """Takes its arguments as open-instruct's base class does."""

    def __init__(self, name: str, weight: float = 1.0, verifier_config: Any = None) -> None:
        self.name = name


class Regrade(open_instruct.RegradeVerifier, Verifier):
    pass


async def test_open_instruct_verifies() -> None:
    verifier = Regrade()
    verification = await verifier.async_call([1], ESSAY, "label", PROMPT, None)
    assert (verifier.name, verification.score, verification.cost, verification.reasoning) == (
        "regrade",
        0.8,
        0.0,
        "rubric version 1",
    )
    assert verifier([1], ESSAY, "label", PROMPT) == verification
    with pytest.raises(UnscoredError):
        await verifier.async_call([1], BAD, None, PROMPT)


class Trajectory(BaseModel):
    """The part of ART's class that is used."""

    turns: list[dict[str, Any]]
    reward: float | None = None
    metrics: dict[str, float] = {}

    def messages(self) -> list[dict[str, Any]]:
        return self.turns


class Group(BaseModel):
    """The part of ART's class that is used."""

    trajectories: list[Trajectory]


def _group(*completions: str) -> Group:
    turns = [[*USER, {"role": "assistant", "content": text}] for text in completions]
    return Group(trajectories=[Trajectory(turns=trajectory, reward=0.25) for trajectory in turns])


async def test_art_keeps_a_group_without_what_could_not_be_scored() -> None:
    scored = await art.score_group(_group(ESSAY, BAD, f"{ESSAY} Two."))
    assert [trajectory.reward for trajectory in scored.trajectories] == [0.8, 0.8]
    assert scored.trajectories[0].metrics["independent_reward"] == 0.25
    assert await art.score_group(_group()) == _group()
    with pytest.raises(RegradeError, match="judge_malformed"):
        await art.score_group(_group(ESSAY, BAD))
    assert await art.score_group(_group(ESSAY, BAD), swallow_exceptions=True) is None


def test_settings_come_from_arguments_then_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRADE_MODE", "reasoned")
    monkeypatch.setenv("REGRADE_BATCH", "7")
    config = ScoringConfig.resolve(mode="planned", run="mine")
    assert (config.task, config.run, config.mode) == (TASK, "mine", "planned")
    monkeypatch.setenv("REGRADE_KEY", "secret")
    config = ScoringConfig.resolve(run="", mode="", key="")
    assert (config.run, config.key, ScoringConfig.resolve().key) == ("run-1", "", "secret")
    assert (config.mode, config.batch, config.patience_s, config.limit_s) == ("reasoned", 7, 2.0, None)
    assert "secret" not in repr(Scorer(key="secret").config)
    with pytest.raises(ValueError, match="colour"):
        Scorer(colour="red")
    monkeypatch.delenv("REGRADE_TASK")
    with pytest.raises(ValueError, match="REGRADE_TASK"):
        Scorer()
