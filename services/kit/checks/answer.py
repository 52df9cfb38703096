"""Checks of a final answer. None is proposed from texts: what is right comes from the task's author."""

from regrade.contracts.checks import BoxedAnswer, MathEqual, VerdictEqual
from services.kit.checks.base import CheckEntry, CheckError, CheckInput
from services.kit.checks.workers import WorkerShare
from services.kit.text.final_answer import final_box
from services.kit.text.label_match import last_label, normalise
from services.kit.text.math_equal import Undecided, Unreadable, math_equal
from services.kit.text.reasoning import part_reasoning


async def equal_answer(workers: WorkerShare, completion: str, reference: str) -> float:
    """1 where the completion's final answer equals the reference, else 0. Raises `CheckError`."""
    try:
        return float(await workers.run(math_equal, completion, reference))
    except (Unreadable, Undecided) as error:
        raise CheckError(str(error)) from error


def _boxed_answer(_: BoxedAnswer, texts: CheckInput) -> float:
    return float(bool(final_box(part_reasoning(texts.completion).answer)))


async def _math_equal(_: MathEqual, texts: CheckInput, workers: WorkerShare) -> float:
    return await equal_answer(workers, texts.completion, texts.reference or "")


def _verdict_equal(check: VerdictEqual, texts: CheckInput) -> float:
    label = last_label(part_reasoning(texts.completion).answer, check.verdicts)
    return float(label is not None and label == normalise(texts.reference or ""))


BOXED_ANSWER = CheckEntry(evaluate=_boxed_answer)
MATH_EQUAL = CheckEntry(evaluate_in_worker=_math_equal)
VERDICT_EQUAL = CheckEntry(evaluate=_verdict_equal)
