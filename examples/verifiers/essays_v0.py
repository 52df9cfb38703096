"""A verifiers 0.1 environment with rewards from Regrade, one call a group."""

import verifiers as vf
from datasets import Dataset

from regrade.adapters.verifiers import RegradeRubric


class Essays(RegradeRubric, vf.Rubric):
    """A rubric, since verifiers makes 0.0 of what a reward function raises."""


def load_environment(run: str = "verifiers-1") -> vf.Environment:
    """The function that verifiers and prime-rl call."""
    topics = ("why towns need trees", "what makes a good teacher")
    rows = [{"question": f"Write a short essay on {topic}.", "answer": ""} for topic in topics]
    return vf.SingleTurnEnv(dataset=Dataset.from_list(rows), rubric=Essays("essay_writing", run=run))
