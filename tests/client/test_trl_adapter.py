"""The TRL adapter, called as TRL calls it."""

from types import SimpleNamespace

from regrade import BlockingRewardClient
from regrade.adapters.trl import RegradeReward
from tests.support.builders import ESSAY, PROMPT, TASK
from tests.support.fake_engine import FakeEngine, Reply, by_text

TURNS = [{"role": "user", "content": PROMPT}]


def test_conversational_batch_with_a_null(reward_url: str, fake_engine: FakeEngine) -> None:
    """One reward a completion, None where there is none; pinned by step; version, criteria and flags in the log."""
    fake_engine.script = lambda m: Reply({}, 400) if "unscorable" in m[1]["content"] else by_text(m)
    logged: dict[str, float] = {}
    reward = RegradeReward(TASK, run="r", max_tokens=4, client=BlockingRewardClient(reward_url))
    completions = [[{"role": "assistant", "content": text}] for text in (ESSAY, "This is unscorable.", "")]
    rewards = reward(
        prompts=[TURNS] * 3,
        completions=completions,
        completion_ids=[[1, 2, 3, 4], [1], [1]],
        trainer_state=SimpleNamespace(global_step=7),
        log_metric=logged.__setitem__,
        log_extra=None,
        some_column=[1, 2, 3],
    )
    assert rewards[0] is not None
    assert rewards[1:] == [None, 0.0]
    assert logged["regrade/rubric_version"] == 1.0
    assert 0.0 <= logged["regrade/criterion/quality"] <= 1.0
    assert logged["regrade/flag/truncated"] == logged["regrade/flag/empty"] == logged["regrade/unscored_share"] == 1 / 3
    again = reward([TURNS] * 3, completions, [[1, 2, 3, 4], [1], [1]], trainer_state=SimpleNamespace(global_step=7))
    assert again == rewards
    reward.close()


def test_text_batch_without_a_step(reward_url: str) -> None:
    """Equal completions of a group are items of their own, and a later call scores anew."""
    reward = RegradeReward(TASK, run="r", url=reward_url)
    rewards = reward([PROMPT] * 2, [ESSAY] * 2, reference=[None, "a"], scope=[None, None])
    assert len(rewards) == 2
    assert all(value is not None for value in rewards)
    assert reward.__name__ == "regrade"
    reward.close()
