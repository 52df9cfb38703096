"""The TRL reward function over several batches: traces, repeats, faults."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from regrade import BlockingRewardClient, RegradeError
from regrade.adapters.trl import RegradeReward, batch_metrics
from services.kit.store.trace_log import TraceLog
from tests.support.builders import ESSAY, PROMPT, TASK, result
from tests.support.fake_engine import FakeEngine, Messages, Reply, certain

SHORT = "Trees are nice."


@dataclass
class State:
    """The part of TRL's trainer state that is used."""

    global_step: int


class Trainer:
    """Calls a reward function as a trainer does, and keeps what it logs."""

    def __init__(self, reward: RegradeReward) -> None:
        self.reward = reward
        self.logged: dict[str, float] = {}

    def score(self, completions: list[Any], *, step: int = 1, **columns: Any) -> list[float | None]:
        prompts = [[{"role": "user", "content": PROMPT}]] * len(completions)
        return self.reward(
            prompts=prompts,
            completions=completions,
            trainer_state=State(step),
            log_metric=self.logged.__setitem__,
            **columns,
        )


@pytest.fixture
def trainer(reward_url: str) -> Iterator[Trainer]:
    with BlockingRewardClient(reward_url, patience_s=2.0) as client:
        yield Trainer(RegradeReward(TASK, run="run-1", client=client, max_tokens=4))


def _turn(text: str | None) -> list[dict[str, str | None]]:
    return [{"role": "assistant", "content": text}]


async def test_one_reward_a_completion_and_a_trace_of_each(trainer: Trainer, trace_log: TraceLog) -> None:
    columns = {"completion_ids": [[1, 2], [1, 2, 3, 4]], "reference": [None, "42"], "topic": ["a", "b"]}
    rewards = trainer.score([_turn(ESSAY), _turn(SHORT)], step=3, **columns)
    assert all(reward is not None and 0.0 <= reward <= 1.0 for reward in rewards)
    traces = sorted((await trace_log.recent(TASK, 10)).traces, key=lambda trace: trace.item_id)
    assert [trace.item_id for trace in traces] == ["0.0", "0.1"]
    assert {(trace.run, trace.step) for trace in traces} == {("run-1", 3)}
    assert [trace.flags for trace in traces] == [(), ("truncated",)]
    assert [trace.reference for trace in traces] == [None, "42"]
    assert {trace.group for trace in traces} == {traces[0].group}


def test_text_is_as_good_as_turns(trainer: Trainer) -> None:
    turns = trainer.score([_turn(ESSAY)])
    plain = trainer.reward([PROMPT], [ESSAY], trainer_state=State(1), completion_ids=[[1]])
    assert turns == plain
    assert trainer.score([_turn(None)]) == [0.0]


def test_equal_batches_of_a_step_are_scored_once(trainer: Trainer, fake_engine: FakeEngine) -> None:
    first = trainer.score([_turn(ESSAY), _turn(SHORT)])
    fake_engine.forget()
    assert trainer.score([_turn(ESSAY), _turn(SHORT)]) == first
    assert fake_engine.calls == []


def test_i3_what_could_not_be_scored_is_none(trainer: Trainer, fake_engine: FakeEngine) -> None:
    def judge(messages: Messages) -> Reply:
        return Reply(b"garbage") if SHORT in messages[1]["content"] else certain(4)

    fake_engine.script = judge
    assert trainer.score([_turn(ESSAY), _turn(SHORT), _turn("")]) == [0.8, None, 0.0]
    assert trainer.logged == {
        "regrade/rubric_version": 1.0,
        "regrade/criterion/quality": 0.8,
        "regrade/flag/empty": pytest.approx(1 / 3),
        "regrade/unscored_share": pytest.approx(1 / 3),
    }


def test_a_service_that_stays_away_is_an_error(trainer: Trainer, fake_engine: FakeEngine) -> None:
    fake_engine.stop()
    with pytest.raises(RegradeError, match="judge_unavailable"):
        trainer.score([_turn(ESSAY)])


def test_metrics_of_a_batch_without_versions() -> None:
    unversioned = result("0" * 64)
    unversioned = unversioned.model_copy(update={"rubric": unversioned.rubric.model_copy(update={"version": None})})
    assert batch_metrics([unversioned]) == {"regrade/unscored_share": 0.0}


@pytest.mark.parametrize(("training", "options", "purpose"), [
    (True, {}, "train"), (False, {}, "eval"), (None, {}, "train"), (None, {"purpose": "eval"}, "eval"),
    (False, {"purpose": "train"}, "train"),
])  # fmt: skip
async def test_the_purpose_of_a_batch(
    reward_url: str, trace_log: TraceLog, training: bool | None, options: dict[str, Any], purpose: str
) -> None:
    """The mode of the model of `log_metric`'s trainer decides, unless the option `purpose` is given."""

    class Owner:
        model = SimpleNamespace(training=training)

        def log_metric(self, name: str, value: float) -> None: ...

    with BlockingRewardClient(reward_url) as client:
        reward = RegradeReward(TASK, run="run-1", client=client, **options)
        log_metric = None if training is None else Owner().log_metric
        reward([PROMPT], [ESSAY], trainer_state=State(1), log_metric=log_metric)
    assert [trace.purpose for trace in (await trace_log.recent(TASK, 10)).traces] == [purpose]
