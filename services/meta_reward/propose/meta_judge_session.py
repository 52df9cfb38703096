"""What proposers share that ask a meta-judge: the schemas of its replies, what it is shown, and what is made of it."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from regrade.contracts import LlmCriterion, Role, Rubric
from services.kit.http.client import UpstreamError
from services.kit.text.fence import fence
from services.meta_reward.clients.meta_judge import MetaJudge
from services.meta_reward.propose.base import Progress, ProposalContext, build_candidate
from services.meta_reward.types import Candidate, Proposal

S = TypeVar("S")
T = TypeVar("T")

Sentence = Annotated[str, StringConstraints(strip_whitespace=True, min_length=3, max_length=200)]
LevelText = Annotated[str, StringConstraints(strip_whitespace=True, min_length=2, max_length=100)]
Levels = Annotated[list[LevelText], Field(min_length=6, max_length=6)]
_MAX_FENCED_CHARS = 4_000


class Reply(BaseModel):
    """A meta-judge's reply: exactly these fields."""

    model_config = ConfigDict(extra="forbid")


class NewCriterion(Reply):
    """One criterion, with a text for each level, worst first."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=2, max_length=60)]
    fault: bool
    description: Sentence
    levels: Levels


class Refinement(Reply):
    """Criteria to add."""

    criteria: Annotated[list[NewCriterion], Field(min_length=1, max_length=3)]


R = TypeVar("R", bound=Reply)


class MetaJudgeProposer(ABC):
    """A proposer that asks a meta-judge: its questions of one cycle share what they are about, and the notes."""

    name: str

    def __init__(self, meta_judge: MetaJudge) -> None:
        self._meta_judge = meta_judge

    async def propose(self, context: ProposalContext, progress: Progress) -> Proposal:
        """Candidates for this brief; a failure costs them, nothing else."""
        return await self._propose(MetaJudgeSession(self._meta_judge, context, self.name), context, progress)

    @abstractmethod
    async def _propose(self, session: "MetaJudgeSession", context: ProposalContext, progress: Progress) -> Proposal:
        """Ask, and make candidates of what is answered."""


class MetaJudgeSession:
    """One proposer's questions in one cycle. A question that fails costs its own answer and leaves a note."""

    def __init__(self, meta_judge: MetaJudge, context: ProposalContext, name: str) -> None:
        self._meta_judge = meta_judge
        self._context = context
        self._name = name
        self.notes: list[str] = []

    def ask(self, question: str, answer: type[R], **shown: str) -> Awaitable[R]:
        """One question of this cycle, in the task's role."""
        return self._meta_judge.ask(question, answer, cycle=self._context.cycle, role=self._context.meta_role, **shown)

    async def gather(self, question: str, inputs: Iterable[S], step: Callable[[S], Awaitable[T]]) -> list[T | None]:
        """One step for each input, concurrently; None for each that failed."""

        async def one(value: S) -> T | None:
            try:
                return await step(value)
            except UpstreamError as error:
                self.notes.append(f"{self._name}: {question} dropped ({first_line_of(error)})")
                return None

        return list(await asyncio.gather(*(one(value) for value in inputs)))

    async def merge(self, refinements: Sequence[Refinement], rationale: str) -> Proposal:
        """One candidate: the active rubric, and what is left of the refinements when they are merged."""
        if not refinements:
            return self.failed("no refinement came through")
        listed = [f"{c.name}: {c.description}" for refinement in refinements for c in refinement.criteria]
        proposals = self.fence("PROPOSALS", "\n".join(dict.fromkeys(listed)))
        try:
            found = await self.ask("merge", Refinement, rubric=outline(self._context.active), proposals=proposals)
            added = to_criteria(found, self._context.active)
            rubric = build_candidate(self._context, added, by=self._name, rationale=rationale)
        except (UpstreamError, ValidationError) as error:
            return self.failed(f"merge dropped ({first_line_of(error)})")
        return Proposal((Candidate(rubric, self._name),), tuple(self.notes))

    def failed(self, why: str) -> Proposal:
        """No candidate. What first stood in the way is told with the reason."""
        first = f"; {self.notes[0].removeprefix(f'{self._name}: ')}" if self.notes else ""
        return Proposal((), (*self.notes, f"{self._name}: {why}"), failed=f"{why}{first}")

    def fence(self, label: str, text: str) -> str:
        """A text that nobody vouches for, as it is shown."""
        return fence(label, text[:_MAX_FENCED_CHARS], self._meta_judge.fence_key)

    def case(self, prompt: str, *responses: str) -> str:
        """The rubric in use, a task, and responses to it."""
        shown = [self.fence("RESPONSE", response) for response in responses]
        rubric = f"Rubric:\n{outline(self._context.active)}"
        return "\n\n".join((rubric, self.fence("TASK", prompt), *shown))


def outline(rubric: Rubric) -> str:
    """The names of a rubric's criteria."""
    return "\n".join(f"- {criterion.name}" for criterion in rubric.criteria)


def to_criteria(found: Refinement, active: Rubric) -> list[LlmCriterion]:
    """A refinement's criteria as a rubric holds them: together half as heavy as what the active one awards."""
    taken = {criterion.id for criterion in active.criteria}
    ids = (f"llm-{n}" for n in range(1, 1_000) if f"llm-{n}" not in taken)
    room = active.total_weight(Role.AWARD)
    return [
        LlmCriterion.model_validate(
            {
                "kind": "llm",
                "id": name,
                "name": new.name,
                "role": Role.DEDUCT if new.fault else Role.AWARD,
                "weight": room / (2 * len(found.criteria)),
                "description": new.description,
                "levels": new.levels,
            }
        )
        for name, new in zip(ids, found.criteria, strict=False)
    ]


def first_line_of(error: Exception) -> str:
    """Enough of an error for a note."""
    return str(error).splitlines()[0][:160]
