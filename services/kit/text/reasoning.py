"""The parting of a model's reasoning from its answer. Pure, and linear in the text."""

import re
from typing import NamedTuple

_NAMES = "think|thinking|thought|thoughts|reasoning|reason|reflection|scratchpad|analysis|seed:think|longcat_think"
_OPENING = (
    rf"<(?:{_NAMES})>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>"
    r"|<\|channel\|>(?:analysis|commentary)[^<]{0,64}<\|message\|>|<\|channel>thought"
)
_CLOSING = (
    rf"</(?:{_NAMES})>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>"
    r"|<\|channel\|>final[^<]{0,64}<\|message\|>|<channel\|>"
)
_TAG = re.compile(rf"(?P<opening>{_OPENING})|(?P<closing>{_CLOSING})", re.IGNORECASE)


class PartedText(NamedTuple):
    """A completion's reasoning and its answer, without the tags between them."""

    reasoning: str
    answer: str


def part_reasoning(completion: str) -> PartedText:
    """What stands inside and outside of the reasoning tags of the models in use.

    Reasoning that is not closed reaches to the end. A closing tag without an opening one ends reasoning that the
    prompt's template opened, so everything before it is reasoning.
    """
    reasoning: list[str] = []
    answer: list[str] = []
    start, depth = 0, 0
    for tag in _TAG.finditer(completion):
        part = completion[start : tag.start()]
        start = tag.end()
        if depth:
            reasoning.append(part)
        elif tag["closing"]:
            reasoning += [*answer, part]
            answer.clear()
        else:
            answer.append(part)
        depth = depth + 1 if tag["opening"] else max(0, depth - 1)
    (reasoning if depth else answer).append(completion[start:])
    return PartedText("".join(reasoning), "".join(answer))
