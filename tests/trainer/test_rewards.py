"""The mix of judge and answer check, the stop rule, and the Prometheus metrics."""

import math
from typing import Any

import httpx
import pytest
from transformers import TrainerControl, TrainerState

from regrade.adapters.trl import RegradeReward
from regrade.tasks import load_pack
from services.trainer.callbacks import Prometheus, StopWhenDiverged
from services.trainer.rewards import AnswerCheck, MixedReward, reward_source
from services.trainer.settings import RewardMix, StopRule


class _Judge(RegradeReward):
    """A judge with fixed rewards."""

    def __init__(self, rewards: list[float | None]) -> None:
        self._rewards = rewards

    def __call__(self, *_: Any, **__: Any) -> list[float | None]:
        return self._rewards

    def close(self) -> None:
        """Holds no connection."""


def _mixed(mix: RewardMix, judged: list[float | None], completions: list[str], references: list[str | None]) -> Any:
    reward = MixedReward(mix, _Judge(judged), AnswerCheck(load_pack("ethical_reasoning")), seed=0)
    return reward([""] * len(completions), completions, reference=references)


def test_a_reward_with_a_missing_part_is_missing() -> None:
    """TRL would sum the present parts: 1.0 for the answer of a completion whose judge call failed."""
    rewards = _mixed(
        RewardMix(judge=3.0, answer=1.0), [0.5, None, 0.5, 0.5],
        ["Verdict: right", "Verdict: right", "Verdict: wrong", "No verdict."], ["right", "right", "right", None],
    )  # fmt: skip
    assert rewards == [0.75 * 0.5 + 0.25, None, 0.75 * 0.5, None]
    alone = _mixed(RewardMix(judge=0.0, answer=2.0), [None], ["Verdict: right"], ["right"])
    assert alone == [1.0]


def test_an_answer_is_read_in_any_shape_and_undecided_where_it_cannot_be() -> None:
    """As in the service: a bad completion or label must neither end the step nor become a 0."""
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "Verdict: right"}, {"type": "image"}]}]
    completions: list[Any] = [parts, "Verdict: right", None, [], "half \ud83d", "Verdict: right"]
    labels: list[Any] = ["right", ["right"], "right", "right", "right", float("nan")]
    rewards = _mixed(RewardMix(judge=0.0, answer=1.0), [None] * 6, completions, labels)
    assert rewards == [1.0, None, None, None, None, None]


def test_the_coin_is_the_same_on_every_rank() -> None:
    mix = RewardMix(judge=1.0, answer=3.0, by="coin")
    sources = [reward_source(mix, 7, step) for step in range(400)]
    assert (
        sources
        == [reward_source(mix, 7, step) for step in range(400)]
        != [reward_source(mix, 8, step) for step in range(400)]
    )
    assert 0.2 < sources.count("judge") / 400 < 0.3
    mixed = MixedReward(mix, _Judge([0.25]), AnswerCheck(load_pack("ethical_reasoning")), seed=7)
    for step in range(12):
        state = TrainerState(global_step=step)
        rewards = mixed([""], ["Verdict: right"], reference=["right"], trainer_state=state)
        assert rewards == ([0.25] if sources[step] == "judge" else [1.0])


def test_math_answers_are_checked_and_tasks_without_answers_are_refused() -> None:
    check = AnswerCheck(load_pack("math_reasoning"))
    try:
        matches = check([r"It is \boxed{\frac{1}{2}}.", r"\boxed{3}", "5"], ["0.5", "2", None])
        assert matches == [1.0, 0.0, None]
    finally:
        check.close()
    with pytest.raises(ValueError, match="no exact answer"):
        AnswerCheck(load_pack("essay_writing"))


@pytest.mark.parametrize(
    ("rule", "logs", "ends_at"),
    [
        ({"max_grad_norm": 5.0}, {"grad_norm": 6.0}, 3),
        ({"max_grad_norm": 5.0}, {"grad_norm": 4.0}, None),
        ({"max_kl": 1.0}, {"kl": 1.5}, 3),
        ({"min_entropy": 0.2}, {"entropy": 0.1}, 3),
        ({"max_unscored": 0.5}, {"regrade/unscored_share": 0.6}, 3),
        ({}, {"loss": math.nan}, 1),
        ({}, {"grad_norm": math.inf}, 1),
        ({}, {"kl": 1e9, "entropy": 0.0, "grad_norm": 1e9}, None),
    ],
)
def test_a_diverged_run_ends(rule: dict[str, float], logs: dict[str, float], ends_at: int | None) -> None:
    stop = StopWhenDiverged(StopRule.model_validate(rule | {"patience": 3}))
    for step in range(1, 6):
        control = TrainerControl()
        stop.on_log(None, TrainerState(), control, {"reward": 0.5} | logs)
        if control.should_training_stop:
            assert step == ends_at
            assert stop.reason
            assert control.should_save == all(math.isfinite(value) for value in logs.values())
            return
    assert ends_at is None


def test_prometheus_exports_the_last_step() -> None:
    prometheus = Prometheus(0)
    state = TrainerState(global_step=7, is_world_process_zero=True)
    prometheus.on_train_begin(None, state, TrainerControl())
    try:
        logs = {"reward": 0.5, "kl": 0.25, "regrade/rubric_version": 3.0, "regrade/unscored_share": 0.125}
        prometheus.on_log(None, state, TrainerControl(), logs)
        exported = httpx.get(f"http://127.0.0.1:{prometheus.port}/metrics", timeout=60.0).text.splitlines()
    finally:
        prometheus.on_train_end(None, state, TrainerControl())
    assert {
        "regrade_trainer_step 7.0", "regrade_trainer_rubric_version 3.0", "regrade_trainer_unscored_share 0.125",
        'regrade_trainer_figure{name="kl"} 0.25',
    } <= set(exported)  # fmt: skip


def test_one_good_step_resets_the_count() -> None:
    stop = StopWhenDiverged(StopRule(max_grad_norm=5.0, patience=2))
    for norm in (9.0, 1.0, 9.0, 1.0):
        stop.on_log(None, TrainerState(), TrainerControl(), {"reward": 0.5, "grad_norm": norm})
    assert stop.reason is None
