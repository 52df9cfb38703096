"""A small dataset for verl, with the prompt in `extra_info` for the reward function."""

from datasets import Dataset

TOPICS = ("why towns need trees", "what makes a good teacher", "how to learn a language")


def row(topic: str) -> dict[str, object]:
    """One row of the dataset."""
    prompt = [{"role": "user", "content": f"Write a short essay on {topic}."}]
    return {
        "data_source": "essays",
        "prompt": prompt,
        "reward_model": {"style": "model", "ground_truth": ""},
        "extra_info": {"prompt": prompt, "split": "train"},
    }


if __name__ == "__main__":
    Dataset.from_list([row(topic) for topic in TOPICS * 32]).to_parquet("essays.parquet")
