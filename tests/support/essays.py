"""Essays of about 300 words, composed of paragraphs of the essay task's trusted originals.

A real engine's tokenizer and prefix cache need real prose; the essays need not be coherent.
"""

import random
from collections.abc import Sequence
from itertools import chain

from regrade.contracts import LlmCriterion, Rubric
from regrade.tasks import load_pack
from tests.support.texts import GROUP, Group

TASK = "essay_writing"
_WORDS = (220, 380)
_LEVELS = {
    "focus": (
        "The essay answers its prompt and stays with it from the first sentence to the last.",
        "Nothing in it has to do with the prompt.",
        "It names the subject of the prompt and turns to something else.",
        "Half of it is about something else.",
        "It stays with the prompt but for a paragraph.",
        "It stays with the prompt but for a sentence or two.",
        "Every sentence serves the answer to the prompt.",
    ),
    "reasons": (
        "Claims are supported by reasons and examples that a doubtful reader would accept.",
        "It claims and never supports.",
        "Its reasons only say again what was claimed.",
        "A few claims have a reason, and none has an example.",
        "Most claims have a reason; the examples are general.",
        "Claims have reasons, and the main ones a fitting example.",
        "Every claim is supported, and objections are met.",
    ),
    "order": (
        "The parts follow one another so that each prepares the next, with an opening and an end.",
        "Sentences stand in no order.",
        "Paragraphs could be exchanged at will.",
        "There is an opening or an end, and the middle is a list.",
        "The order can be followed, with a jump here and there.",
        "Each part follows from the one before; the end is a little sudden.",
        "Opening, parts and end make one line of thought.",
    ),
    "style": (
        "Sentences are clear, varied, and free of filler and stock phrases.",
        "It can hardly be understood.",
        "Nearly every sentence is clumsy or worn out.",
        "Plain in places, with much filler.",
        "Clear on the whole, and all in one rhythm.",
        "Clear and varied, with some filler.",
        "Clear, varied and exact throughout.",
    ),
    "language": (
        "Grammar, spelling and punctuation are those of a careful writer.",
        "Mistakes in every sentence hide the meaning.",
        "Mistakes in most sentences.",
        "Several mistakes in each paragraph.",
        "A mistake in each paragraph.",
        "One or two slips in all.",
        "No mistakes.",
    ),
}


def rubric(criteria: int = len(_LEVELS)) -> Rubric:
    """A rubric of the first `criteria` of five LLM criteria, each with a text per level."""
    chosen = list(_LEVELS.items())[:criteria]
    return Rubric(
        criteria=tuple(
            LlmCriterion(kind="llm", id=name, name=name.capitalize(), description=texts[0], levels=texts[1:])
            for name, texts in chosen
        ),
        created_by="benchmark",
    )


def essay_groups(seed: str, count: int) -> list[Group]:
    """Prompts with `GROUP` essays each, determined by the seed; the essays of a group have different openings."""
    rng = random.Random(seed)
    prompts = rng.sample([prompt.prompt for prompt in load_pack(TASK).prompts], count)
    return [Group(prompt, tuple(_essays(rng))) for prompt in prompts]


def _essays(rng: random.Random) -> list[str]:
    paragraphs = [original.completion.split("\n\n") for original in load_pack(TASK).originals]
    openings = rng.sample([first for first, *_ in paragraphs], GROUP)
    others = list(chain.from_iterable(rest for _, *rest in paragraphs))
    return [_essay(rng, opening, others) for opening in openings]


def _essay(rng: random.Random, opening: str, others: Sequence[str]) -> str:
    length = rng.randint(*_WORDS)
    parts = [opening]
    for paragraph in rng.sample(others, len(others)):
        if sum(len(part.split()) for part in parts) >= length:
            break
        parts.append(paragraph)
    return "\n\n".join(parts)
