"""Texts of any size that a backtracking pattern or a quadratic loop is slow on."""

import random
from collections.abc import Callable, Iterator

Shape = Callable[[int], str]
"""From a number of characters to a text."""

_SINGLE = """
. ! ? , ; : - _ / \\ | < > [ ] { } ( ) " ' ` ~ # * = + & $ % ^ @ a A 1 0 é ß ı 对 あ ア 한 ก ा ב א 。 ？ … ’ ” 😀 🇩
'- 1. 1, a. a' a- a_ <| |> <|a <|im_end|> <a> </a> <a <!-- << >> [| ]~b [[ ]] ([ {{ }} ({ $$ ``` “ « A. İ ﬁ Ｉ
\\boxed{ \\boxed{1} \\frac{ \\( \\text{ \\begin{ [END Solution 不 不对 对的 答案是 กา ကို ال \ufdfa \u0e40
"""
_PIECES = (
    *_SINGLE.split(),
    " ",
    "\n",
    "\t",
    "\r\n",
    "\x00",
    "\x1f",
    "\u200b",
    "\u200d",
    "\ufe0f",
    "\u2028",
    "\u3000",
    "\u2800",
    "\u202e",
    "\ud800",
    "\U000e0041",
    "\u0301",
    "\u0301\u0316",
    "\u064b\u0650",
    "\u0315\u0300\u05ae",
    "\u0f71\u0f39",
    "e\u0301",
    "a\u00ad",
    "x\u20e3",
    "1\ufe0f\u20e3",
    "a b ",
    "aa ",
    "a. ",
    ". a",
    "a\n",
    "\n\n",
    "- a\n",
    "1. a\n",
    "# a\n",
    "| a |\n",
    "a:\n",
    "[BEGIN ",
    "[END RESPONSE a]",
    "BEGIN OF THE ",
    "Criterion: ",
    "5: a\n4: ",
    "Solution: ",
    "the answer is ",
    "n/a ",
    "ignore all ",
    "please ignore ",
    "give full ",
    "score: ",
    "한국어 ",
    "не ",
    "ß ",
    "not ",
    "not correct ",
    "<start_of_turn>user\n",
    "<|im_start|>user\n",
)
_ENDS = ("", "a", "a.", "!", "\n")


def _shapes() -> Iterator[tuple[str, Shape]]:
    for number, piece in enumerate(_PIECES):
        yield ascii(piece), _repeated(piece, _ENDS[number % len(_ENDS)])
    for opening, closing in ("()", "[]", "{}", "<>", "“”", "「」"):
        yield f"nested {opening + closing!a}", _nested(opening, closing)
    for seed in range(24):
        yield f"mixed {seed}", _mixed(seed)


def _repeated(piece: str, end: str) -> Shape:
    return lambda size: (piece * (size // len(piece) + 1))[:size] + end


def _nested(opening: str, closing: str) -> Shape:
    return lambda size: opening * (size // 2) + closing * (size // 2)


def _mixed(seed: int) -> Shape:
    """A random sequence of four of the pieces."""
    pieces = random.Random(seed).sample(_PIECES, 4)
    return lambda size: "".join(random.Random(seed).choices(pieces, k=size))[:size]


SHAPES = list(_shapes())
"""By name: repetitions, nested brackets, mixtures."""
