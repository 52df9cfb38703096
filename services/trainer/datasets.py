"""Training prompts as a dataset TRL takes: one row a prompt, conversational."""

from datasets import Dataset

from regrade.tasks import TaskPack


def training_prompts(pack: TaskPack, seed: int) -> Dataset:
    """The pack's prompts in a seeded order: column `prompt`, a list of one user turn."""
    rows = [{"prompt": [{"role": "user", "content": prompt.prompt}]} for prompt in pack.prompts]
    return Dataset.from_list(rows).shuffle(seed=seed)
