r"""The final answer of a completion or of a worked solution. Pure, and linear in the text.

It is the last `\boxed{...}`; neighbouring boxes, with only a comma, a semicolon, "and" or "or" between them, are
several answers. Without a box it is what follows the last marker such as "####" or "the answer is", else the last
formula, else the last bold text, else of the last sentence the only number, or what follows its last "is".
"""

import re
from typing import NamedTuple

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,8}(?:\{|(?P<bare>[0-9A-Za-z]))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_MAX_NESTED_BOXES = 4
_ANSWER_TAG = re.compile(
    r"(?P<opening><answer>|<\|begin_of_solution\|>)|</answer>|<\|end_of_solution\|>", re.IGNORECASE
)
_BETWEEN_BOXES = re.compile(
    r"(?:\\[()\[\]])?(?:[,;&]|\\quad)?(?:\\text\{)?(?:and|or)?\}?(?:\\[()\[\]])?(?:\\?[a-zA-Z]\w{0,2}=)?"
)
_SEPARATOR = re.compile(r"[,;&]|and|or")
_MAX_BETWEEN = 48
_MARKER = re.compile(
    r"####|\b(?:final\s{1,8})?answer(?:\s{1,8}to\s[^.:\n]{1,80})?\s{0,8}(?:\*\*)?\s{0,8}(?:[:：=]|\bis\b\s{0,8}:?)|答案(?:[是为][:：]?|[:：])",
    re.IGNORECASE,
)
_ADVERBS = re.compile(
    r"(?:therefore|thus|hence|then|so|indeed|simply|just|exactly|clearly|equal to)\b[\s,]{0,8}", re.IGNORECASE
)
_DOLLAR = re.compile(r"(?<!\\)\$\$?")
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_COPULA = re.compile(r"\b(?:is|are|equals|be)\b|[=:：]", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?<![^\s*\"'(])[-−]?[$€£]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?(?=[.,;:?*\"')]{0,4}(?:\s|$))"
)
_FORMULA_CHARS = frozenset("\\=^<>{}_")
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s|\n")
_LONGEST_SENTENCE = 1_000
_LONGEST_BARE_ANSWER = 60


class Box(NamedTuple):
    r"""A `\boxed{...}`: its content, and where it starts and ends in the text."""

    content: str
    start: int
    end: int


def boxes(text: str) -> list[Box]:
    """The outermost boxes, in order; none where the last one is not closed, since the text breaks off in its answer."""
    outermost = []
    position = 0
    while (opening := _BOX.search(text, position)) is not None:
        position = opening.end() if opening["bare"] else _closing_brace(text, opening.end())
        if position < 0:
            return []
        content = opening["bare"] or text[opening.end() : position - 1]
        outermost.append(Box(_unnested(content), opening.start(), position))
    return outermost


def final_box(text: str) -> str:
    """The content of the last box that is not blank, or of the last neighbours, joined by commas; else empty."""
    filled = [box for box in boxes(text) if box.content]
    if not filled:
        return ""
    contents = [filled[-1].content]
    for box, following in zip(filled[-2::-1], filled[:0:-1], strict=False):
        if not _are_neighbours(text[box.end : following.start]):
            break
        contents.append(box.content)
    return ", ".join(dict.fromkeys(reversed(contents)))


def final_answer(text: str) -> str:
    """The final answer of a text without reasoning; empty where there is none."""
    text = _tagged_answer(text)
    if _BOX.search(text) is not None and (answer := final_box(text)):
        return answer
    if _BOX.search(text) is not None and not boxes(text):
        return ""
    return _marked(text) or _last_formula(text) or _last_bold(text) or _bare(text)


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return brace.end()
    return -1


def _unnested(content: str) -> str:
    for _ in range(_MAX_NESTED_BOXES):
        content = content.strip()
        inner = _BOX.match(content)
        if inner is None or inner["bare"] or _closing_brace(content, inner.end()) != len(content):
            break
        content = content[inner.end() : -1]
    return content.strip()


def _are_neighbours(between: str) -> bool:
    if len(between) > _MAX_BETWEEN:
        return False
    between = "".join(between.replace("$", " ").split())
    return _SEPARATOR.search(between) is not None and _BETWEEN_BOXES.fullmatch(between) is not None


def _tagged_answer(text: str) -> str:
    """The content of the last answer tag; the text where there is none."""
    end = len(text)
    for tag in reversed(list(_ANSWER_TAG.finditer(text))):
        if tag["opening"]:
            return text[tag.end() : end]
        end = tag.start()
    return text


def _marked(text: str) -> str:
    marker = None
    for marker in _MARKER.finditer(text):  # noqa: B007 - the last one counts
        pass
    if marker is None:
        return ""
    phrase = text[marker.end() :].lstrip().partition("\n")[0].strip(" \t*_`")
    phrase = re.split(r"(?<=[^.\s])\.(?:\s|$)", phrase, maxsplit=1)[0].strip(" \t*_`")
    return _ADVERBS.sub("", phrase, count=1) if _ADVERBS.match(phrase) else phrase


def _last_formula(text: str) -> str:
    """The content of the formula that ends last."""
    spans = []
    for opening, closing in ((r"\(", r"\)"), (r"\[", r"\]")):
        end = text.rfind(closing)
        start = text.rfind(opening, 0, max(end, 0))
        if start >= 0:
            spans.append((end, text[start + 2 : end]))
    dollars = [mark.start() for mark in _DOLLAR.finditer(text)]
    if dollars and len(dollars) % 2 == 0:
        spans.append((dollars[-1], text[dollars[-2] : dollars[-1]]))
    return max(spans)[1].strip(" $") if spans else ""


def _last_bold(text: str) -> str:
    bold = _BOLD.findall(text)
    return bold[-1].strip() if bold else ""


def _bare(text: str) -> str:
    """Of the last sentence: its only number, else what follows its last "is"; the whole of a short text."""
    tail = text.rstrip()[-_LONGEST_SENTENCE:]
    sentence = [part for part in _SENTENCE_END.split(tail) if part.strip()][-1:]
    if not sentence:
        return ""
    numbers = _NUMBER.findall(sentence[0])
    if len(numbers) == 1 and not _FORMULA_CHARS & set(sentence[0]):
        return str(numbers[0])
    phrase = _COPULA.split(sentence[0])[-1].strip()
    return phrase if len(phrase) <= _LONGEST_BARE_ANSWER else ""
