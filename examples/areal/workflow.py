"""An AReaL RLVRWorkflow with rewards from Regrade."""

from typing import Any

from areal.workflow.rlvr import RLVRWorkflow

from regrade.adapters.areal import AsyncRegradeReward, RegradeReward


def make_workflow(gconfig: Any, tokenizer: Any, run: str = "areal-1") -> RLVRWorkflow:
    """Use it in your training script instead of RLVRWorkflow(...)."""
    workflow = RLVRWorkflow(RegradeReward("essay_writing", run=run), gconfig, tokenizer)
    workflow.async_reward_fn = AsyncRegradeReward("essay_writing", run=run)
    return workflow
