"""Surface features of completions, which a policy changes first when it exploits a judge. Pure."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from regrade.contracts import Conversation, Flag, Trace, as_text
from services.kit.text import features, segments
from services.kit.text.language import UNKNOWN_LANGUAGE, language_of

_EDGE_WORDS = 4
"""Stock openings and endings are recognised by so many words; fewer occur in independent texts."""
MAX_CHARS = 20_000
"""Of a longer text only the beginning and the end are read, half of it each, so that a window takes bounded time."""


class TextFeatures(NamedTuple):
    """Features of one completion."""

    values: dict[str, float]
    """By name. Shares are in [0, 1], `words` is a count."""
    language: str
    """ISO 639-1, or `UNKNOWN_LANGUAGE`."""
    ending: str
    """How it ends; see `segments.ending_kind`."""


def extract_features(traces: Sequence[Trace]) -> list[TextFeatures]:
    """Features of each trace's completion.

    `stock_opening` and `stock_ending` are the share of the *other* prompts with a completion that has the same first
    (last) four words; 0 where all traces have the same prompt.
    """
    texts = [read_text(trace.completion) for trace in traces]
    tokens = [segments.words(text) for text in texts]
    prompts = [read_text(trace.prompt) for trace in traces]
    openings = _share_of_other_prompts([words[:_EDGE_WORDS] for words in tokens], prompts)
    endings = _share_of_other_prompts([words[-_EDGE_WORDS:] for words in tokens], prompts)
    result = []
    for n, trace in enumerate(traces):
        prompt_words = segments.words(prompts[n])
        language, expected = language_of(texts[n]), _language_of_prompt(prompts[n])
        values = {
            "words": float(len(tokens[n])),
            "distinct_2": features.distinct_share(tokens[n], 2),
            "distinct_4": features.distinct_share(tokens[n], 4),
            "compression": features.compression_ratio(texts[n]),
            "topic_overlap": features.topic_overlap(tokens[n], prompt_words),
            "prompt_copied": features.copied_share(tokens[n], prompt_words),
            "ends_properly": float(segments.ends_properly(texts[n])),
            "truncated": float(Flag.TRUNCATED in trace.flags),
            "other_language": float(UNKNOWN_LANGUAGE not in (language, expected) and language != expected),
            "stock_opening": openings[n],
            "stock_ending": endings[n],
        }
        result.append(TextFeatures(values, language, segments.ending_kind(texts[n])))
    return result


def read_text(content: str | Conversation) -> str:
    """What evidence reads of a prompt or a completion: at most `MAX_CHARS` characters."""
    text, half = as_text(content), MAX_CHARS // 2
    return text if len(text) <= MAX_CHARS else f"{text[:half]}\n{text[-half:]}"


@lru_cache(maxsize=1_024)
def _language_of_prompt(prompt: str) -> str:
    # Cached, because a group shares its prompt.
    return language_of(prompt)


def shares(kinds: Sequence[str]) -> dict[str, float]:
    """The share of each kind, most frequent first."""
    return {kind: count / len(kinds) for kind, count in Counter(kinds).most_common()}


def _share_of_other_prompts(edges: Sequence[Sequence[str]], prompts: Sequence[str]) -> list[float]:
    """For each completion, the share of the other prompts whose completions have the same edge."""
    others = len(set(prompts)) - 1
    if others == 0:
        return [0.0] * len(edges)
    prompts_by_edge: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for edge, prompt in zip(edges, prompts, strict=True):
        prompts_by_edge[tuple(edge)].add(prompt)
    return [(len(prompts_by_edge[tuple(edge)]) - 1) / others if edge else 0.0 for edge in edges]
