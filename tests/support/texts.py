"""Unique prompts of about 300 and completions of about 400 tokens. Standard library only: peers import it."""

import random
from collections.abc import Iterator
from typing import NamedTuple

GROUP = 8
"""Completions per prompt."""

_VOCABULARY = (
    "tree street rain shade summer river market school garden stone bridge morning neighbour council budget "
    "harvest window road season cellar bench teacher letter harbour winter orchard ladder kitchen museum café "
    "green quiet narrow early public common patient careful local honest steady plain useful costly naïve "
    "grows keeps holds carries gives needs shows brings turns leaves makes finds builds costs saves feeds "
    "and but while because although until where which that when so for with under over between beside"
)
_WORDS = _VOCABULARY.split()
_PROMPT_WORDS, _COMPLETION_WORDS = 180, 240  # 1,300 and 1,750 characters; 50 KB per batch of 16
_SENTENCE_WORDS = 14


class Group(NamedTuple):
    """A prompt and its completions."""

    prompt: str
    completions: tuple[str, ...]


def _prose(rng: random.Random, words: int) -> str:
    """Paragraphs of sentences, each with a quotation and a dash."""
    sentences = []
    for start in range(0, words, _SENTENCE_WORDS):
        chosen = rng.choices(_WORDS, k=min(_SENTENCE_WORDS, words - start))
        sentences.append(" ".join(chosen).capitalize() + ".")
        if start // _SENTENCE_WORDS % 5 == 4:
            sentences.append(f'They say: "{rng.choice(_WORDS)} first" \N{EM DASH} not everybody agrees.\n\n')
    return " ".join(sentences).strip()


def groups(seed: str) -> Iterator[Group]:
    """An endless supply of groups, determined by the seed."""
    rng = random.Random(seed)
    while True:
        prompt = f"Write an essay, number {rng.getrandbits(40):010x}. {_prose(rng, _PROMPT_WORDS)}"
        completions = tuple(
            f"Version {rng.getrandbits(40):010x}. {_prose(rng, _COMPLETION_WORDS)}" for _ in range(GROUP)
        )
        yield Group(prompt, completions)
