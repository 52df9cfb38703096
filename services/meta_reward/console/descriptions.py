"""Alarms and text features in words: a title, what it measures, and what an operator can do. Pure."""

from typing import NamedTuple

from regrade.contracts import Alarm
from services.kit.store.redis import entry_position


class Description(NamedTuple):
    """A title for people, and what the figure measures."""

    title: str
    help: str


FEATURES = {
    "words": Description("Words", "mean words of a completion"),
    "distinct_2": Description("Word pairs not repeated", "share of pairs of words that are distinct (distinct-2)"),
    "distinct_4": Description("Phrases not repeated", "share of four-word phrases that are distinct (distinct-4)"),
    "compression": Description("Compressed size", "compressed size by plain size; falls when text repeats itself"),
    "topic_overlap": Description(
        "Prompt's words used", "share of the prompt's topic words that occur in the completion"
    ),
    "prompt_copied": Description("Copied from the prompt", "share of the completion that is copied from the prompt"),
    "ends_properly": Description("Ends with a sentence", "share of completions that end with a complete sentence"),
    "stock_opening": Description("Same opening", "share of other prompts whose completions have the same opening"),
    "stock_ending": Description("Same ending", "share of other prompts whose completions have the same ending"),
    "truncated": Description("Cut off", "share of completions cut at the token limit"),
    "other_language": Description("Other language", "share of completions in another language than their prompt"),
}
"""The text features, in the order of the console."""

_SHORTER = "Compare the examples with the first steps. If short text is paid, run a cycle: it proposes a limit."
_REPEATS = "The policy may repeat itself for length. Run a cycle, which proposes a check against repetition."
_STOCK = "Completions of different prompts have this text in common. Does it address the judge?"
_FOLLOWS = (
    "The reward can be had by this surface feature alone. Read the examples: if the text is not better, run a cycle, "
    "or add a criterion that does not pay for it."
)
_SPREAD = (
    "Such groups give no gradient. Check sampling temperature and group size, then the rubric: too easy, too hard?"
)
_ADVICE = {
    "words_fell": _SHORTER,
    "words_rose": "If length alone is paid, add a check of the maximum length.",
    "distinct_4_fell": _REPEATS,
    "compression_fell": _REPEATS,
    "topic_overlap_fell": "Completions leave their prompts' topic. Run a cycle, which proposes a check of the topic.",
    "ends_properly_fell": "Completions break off. Look at the token limit first, then run a cycle.",
    "prompt_copied_rose": "The policy repeats the prompt. Run a cycle, which proposes a check against copying.",
    "other_language_rose": "Completions leave their prompts' language. Run a cycle, or add a check of the language.",
    "stock_opening_rose": _STOCK,
    "stock_ending_rose": _STOCK,
    "truncated_rose": "Raise the trainer's token limit, or let a check pay for shorter text.",
    "reward_saturated": "The rubric hardly distinguishes completions. Run a cycle, or make the rubric stricter.",
    "reward_floored": "Nearly nothing is paid: little can be learned. Check the judge, then the rubric's vetoes.",
    "groups_without_spread": _SPREAD,
    "audit_contradicts": "The reward rises, the audit judge's falls: the judge may be exploited. Consider a rollback.",
}
_FLAG_ADVICE = "Read the examples for text that addresses the judge, and see whether they are paid more than others."
_OTHER_ADVICE = "Read the examples, and compare them with completions of the first steps."


def feature_title(name: str) -> str:
    """A text feature's title; an unknown one's name in words."""
    return FEATURES[name].title if name in FEATURES else name.replace("_", " ")


def alarm_title(name: str) -> str:
    """An alarm's name in words."""
    if name.startswith("reward_follows_"):
        return f"Reward follows: {feature_title(name.removeprefix('reward_follows_')).lower()}"
    for ending, verb in (("_fell", "fell"), ("_rose", "rose")):
        feature = name.removesuffix(ending)
        if name.endswith(ending) and feature in FEATURES:
            return f"{FEATURES[feature].title}: {verb}"
    return name.removeprefix("flag_").replace("_", " ").capitalize()


def alarm_state(alarm: Alarm) -> str:
    """Where the figure stands between the threshold that raised the alarm and the one that clears it."""
    if alarm.figure > alarm.threshold:
        return f"{alarm.figure:.2f}, above the threshold of {alarm.threshold:.2f}"
    return (
        f"{alarm.figure:.2f}, below the threshold of {alarm.threshold:.2f} that raised it; "
        f"clears below {alarm.lowered_at:.2f}"
    )


def alarm_advice(alarm: Alarm) -> str:
    """What an operator can do."""
    if alarm.name.startswith("reward_follows_"):
        return _FOLLOWS
    return _FLAG_ADVICE if alarm.name.startswith("flag_") else _ADVICE.get(alarm.name, _OTHER_ADVICE)


def raised_at(alarm: Alarm) -> float:
    """When the newest trace of the window that raised it was written, in Unix seconds: ids begin with milliseconds."""
    milliseconds, _ = entry_position(alarm.since)
    return milliseconds / 1_000.0
