"""Trainers that are on no package index: what their rule, quoted from the source, makes of a missing reward."""

import asyncio
import math
from collections.abc import Sequence

import numpy as np
import pytest

from regrade.adapters import nemo_gym, open_instruct, slime
from regrade.adapters.core import UnscoredError
from regrade.contracts import ErrorCode, ItemError, ItemResult, RubricRef

REWARDS = (0.4, 0.8, 0.4)


def _unscored() -> ItemResult:
    rubric = RubricRef(lineage="main", scope=None, version=1, digest="")
    error = ItemError(code=ErrorCode.JUDGE_MALFORMED, message="no answer", retryable=True)
    parts = {"criteria": (), "flags": (), "trace_id": "", "cached": False}
    return ItemResult(id="a", reward=None, raw=None, rubric=rubric, error=error, **parts)


@pytest.mark.parametrize("least", [1e-6, 1e-8], ids=["slime 624b824", "miles 31f1ca9"])
def test_slimes_and_miles_filter_leaves_out_a_group_with_nan(least: float) -> None:
    """`filter_hub/dynamic_sampling_filters.py::check_reward_nonzero_std`."""

    def keeps(rewards: Sequence[float]) -> bool:
        return bool(np.std(rewards, ddof=1) > least)

    missing = slime.to_float(_unscored())
    assert math.isnan(missing)
    assert keeps(REWARDS)
    assert not keeps([*REWARDS, missing])


def test_nemo_rl_masks_a_failed_row_but_counts_it_in_the_baseline() -> None:
    """NeMo-RL 7ea279a: `rollouts.py::_extract_mask_sample_flags`; `grpo.py` gives the baseline a mask of ones.

    So the trained samples' advantages are those of a group with a reward of 0 in it: docs/trainers.md says so, and
    `&unscored=error` ends the step instead.
    """
    request = nemo_gym.VerifyRequest.model_validate(
        {"responses_create_params": {"input": "Why?"}, "response": {}, "instance_config": {"kept": 1}}
    )
    row = nemo_gym.failure_row(request, "judge_malformed: no answer")
    assert (row.get("instance_config") or {}).get("mask_sample", False) is True
    assert row["instance_config"]["kept"] == 1
    assert (row["mask_sample"], row["failure_kind"], row["_ng_failure_class"]) == (True, "judge_failed", "judge_failed")
    rewards = np.array([*REWARDS, row["reward"]])
    loss_multiplier = np.array([1.0, 1.0, 1.0, 0.0])
    advantages = (rewards - rewards.mean()) * loss_multiplier
    assert advantages[3] == 0.0
    assert np.isfinite(advantages).all()
    assert advantages[:3] == pytest.approx([0.0, 0.4, 0.0])  # without the row: -0.133, 0.267, -0.133


async def test_open_instruct_ends_the_step() -> None:
    """open-instruct e6c3044: `ground_truth_utils.py::apply_verifiable_reward` gathers without catching.

    Its filter leaves out a group if `np.std(scores) == 0`, so a NaN would stay.
    """
    assert np.std([*REWARDS, math.nan]) != 0

    async def verify() -> open_instruct.Verification:
        verifier = object.__new__(open_instruct.RegradeVerifier)
        return verifier._verification(_unscored())

    with pytest.raises(UnscoredError, match="judge_malformed"):
        await asyncio.gather(verify())
