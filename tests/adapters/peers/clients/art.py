"""ART: groups are gathered and scored as its scripts do, and tokenized with advantages as its trainer does."""

import asyncio
from collections.abc import Sequence

import art
from art.preprocessing.tokenize import tokenize_trajectory_groups
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from regrade.adapters.art import score_group
from tests.adapters.peers.clients.worker import Sample, Values, answer_orders

VOCABULARY = ["\u0120", "\u010a", *map(chr, range(33, 127))]
"""The byte-level names of blank and line feed, and ASCII."""
LETTERS = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(VOCABULARY)}, merges=[]))
LETTERS.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
TEMPLATE = "{% for turn in messages %}{{ turn['role'] }}:{{ turn['content'] }};{% endfor %}"


def _group(samples: Sequence[Sample]) -> art.TrajectoryGroup:
    async def gathered() -> list[art.TrajectoryGroup]:
        groups = (art.TrajectoryGroup([_rollout(sample) for sample in samples]) for _ in range(1))
        return list(await art.gather_trajectory_groups(groups, after_each=score_group))

    (group,) = asyncio.run(gathered())
    return group


async def _rollout(sample: Sample) -> art.Trajectory:
    turns = [
        {"role": "user", "content": sample["prompt"]},
        {"role": "assistant", "content": sample["completion"]},
    ]
    return art.Trajectory(messages_and_choices=turns, reward=0.0)


def score(samples: Sequence[Sample], step: int) -> Values:
    """One group."""
    rewards = {each.messages()[-1]["content"]: each.reward for each in _group(samples)}
    return [rewards.get(sample["completion"]) for sample in samples]


def advantages(samples: Sequence[Sample], step: int) -> Values:
    """Those that its trainer gets with the tokens."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=LETTERS, chat_template=TEMPLATE, eos_token="!")
    group = _group(samples)
    results = tokenize_trajectory_groups(
        tokenizer, [group], True, True, shuffle_group_trajectories=False, drop_zero_advantage_trajectories=False
    )
    values = {each.messages()[-1]["content"]: r.advantage for each, r in zip(group, results, strict=True)}
    return [values.get(sample["completion"]) for sample in samples]


answer_orders("openpipe-art", score, advantages)
