"""An RLVRWorkflow of AReaL with rewards of Regrade."""

from typing import Any

from areal.workflow.rlvr import RLVRWorkflow

from regrade.adapters.areal import AsyncRegradeReward, RegradeReward


def make_workflow(gconfig: Any, tokenizer: Any, run: str = "areal-1") -> RLVRWorkflow:
    """For your training script, in place of its own RLVRWorkflow(...)."""
    workflow = RLVRWorkflow(RegradeReward("essay_writing", run=run), gconfig, tokenizer)
    workflow.async_reward_fn = AsyncRegradeReward("essay_writing", run=run)
    return workflow
