"""Equivalence of answers by math-verify. Symbolic algebra on policy text may never end: call it in a worker process."""

_MAX_ANSWER_CHARS = 2_000
_MATH_MARKS = ("$", r"\boxed", r"\(", r"\[")


def boxed(text: str) -> str:
    r"""The content of the last `\boxed{...}` with balanced braces, stripped; empty when there is none."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return ""
    depth = 0
    begin = start + len(r"\boxed{")
    for position in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position].strip()
    return ""


def math_equal(completion: str, reference: str) -> bool:
    """Whether the completion's final answer equals the reference."""
    from math_verify import parse, verify

    completion, reference = completion[-_MAX_ANSWER_CHARS:], reference[-_MAX_ANSWER_CHARS:]
    bare = "\\" in reference and not any(mark in reference for mark in _MATH_MARKS)
    # Of LaTeX without its delimiters, a plain parse reads only the first number: 25 of 25\\pi.
    written = (f"${reference}$", reference) if bare else (reference, f"${reference}$")
    gold = parse(written[0], parsing_timeout=None) or parse(written[1], parsing_timeout=None)
    return bool(verify(gold, parse(completion, parsing_timeout=None), timeout_seconds=None))
