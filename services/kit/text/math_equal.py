"""Equality of a completion's final answer and a reference.

Algebra on policy text may never end: call it in a worker process.
"""

from services.kit.text.final_answer import final_answer
from services.kit.text.math_answer.comparison import equal_answers
from services.kit.text.math_answer.errors import Undecided, Unreadable
from services.kit.text.math_answer.reader import read_answer, read_otherwise
from services.kit.text.reasoning import part_reasoning

__all__ = ["Undecided", "Unreadable", "math_equal"]

_MAX_SHOWN = 80
_SOLUTION_MARKS = (r"\boxed", r"\fbox", "####")


def math_equal(completion: str, reference: str) -> bool:
    """Whether the completion's final answer equals the reference; both are read whole or not at all.

    A completion whose answer cannot be read is not equal. Raises `Unreadable` for a reference that cannot be read, and
    `Undecided` where both are read and the comparison is too large.
    """
    is_solution = any(mark in reference for mark in _SOLUTION_MARKS)
    try:
        gold_text = final_answer(part_reasoning(reference).answer) if is_solution else reference
        gold = read_answer(gold_text)
    except (Unreadable, RecursionError) as error:
        raise Unreadable(
            f"the reference {reference[:_MAX_SHOWN]!r} cannot be read as one answer; docs/rubrics.md lists what can"
        ) from error
    try:
        answer_text = final_answer(part_reasoning(completion).answer)
        answer = read_answer(answer_text)
    except (Unreadable, RecursionError):
        return False
    try:
        return (
            equal_answers(gold, answer)
            or any(equal_answers(other, answer) for other in read_otherwise(gold_text, answer))
            or any(equal_answers(gold, other) for other in read_otherwise(answer_text, gold))
        )
    except (Undecided, MemoryError):
        raise
    except Exception as error:  # sympy raises many kinds
        raise Undecided(f"the comparison failed: {type(error).__name__}") from error
