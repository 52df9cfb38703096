"""The judge's modes: a class for each member of `Mode`, in a file of its own.

A new mode is a member of `regrade.contracts.Mode` with its cost in `Mode.judge_calls`, a class here, and a case in
`judge_mode`. mypy reports a member without a case.
"""

from typing import Protocol, assert_never

from regrade.contracts import Mode
from services.reward.judge.batch import JudgeBatch
from services.reward.judge.modes.expected import Expected
from services.reward.judge.modes.planned import Planned
from services.reward.judge.modes.reasoned import Reasoned


class JudgeMode(Protocol):
    """How the scores of a batch are reached."""

    async def score(self, batch: JudgeBatch) -> None:
        """Make the engine calls, so that the batch has a distribution or an error for each criterion of each item.

        One item takes at most `Mode.judge_calls` calls.
        """
        ...


def judge_mode(mode: Mode) -> JudgeMode:
    """The implementation of a mode."""
    match mode:
        case Mode.EXPECTED:
            return Expected()
        case Mode.REASONED:
            return Reasoned()
        case Mode.PLANNED:
            return Planned()
        case _:
            assert_never(mode)
