"""A small data set for verl, with the prompt where the reward function finds it."""

from datasets import Dataset

TOPICS = ("why towns need trees", "what makes a good teacher", "how to learn a language")


def row(topic: str) -> dict[str, object]:
    """One prompt; `extra_info` has it for Regrade."""
    prompt = [{"role": "user", "content": f"Write a short essay on {topic}."}]
    return {
        "data_source": "essays",
        "prompt": prompt,
        "reward_model": {"style": "model", "ground_truth": ""},
        "extra_info": {"prompt": prompt, "split": "train"},
    }


if __name__ == "__main__":
    Dataset.from_list([row(topic) for topic in TOPICS * 32]).to_parquet("essays.parquet")
