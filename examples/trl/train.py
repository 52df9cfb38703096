"""GRPO or RLOO on a small model, with rewards from Regrade."""

import sys

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from regrade.adapters.trl import RegradeReward

TOPICS = ("why towns need trees", "what makes a good teacher", "how to learn a language")
LENGTH = 256

if __name__ == "__main__":
    trainer, config = (RLOOTrainer, RLOOConfig) if sys.argv[1:] == ["rloo"] else (GRPOTrainer, GRPOConfig)
    prompts = [[{"role": "user", "content": f"Write a short essay on {topic}."}] for topic in TOPICS]
    trainer(
        model="Qwen/Qwen2.5-0.5B-Instruct",
        reward_funcs=RegradeReward("essay_writing", run="trl-1", max_tokens=LENGTH),
        args=config(output_dir="out", num_generations=4, max_completion_length=LENGTH, max_steps=10, logging_steps=1),
        train_dataset=Dataset.from_dict({"prompt": prompts * 8}),
    ).train()
