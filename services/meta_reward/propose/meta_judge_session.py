"""Shared parts of the proposers that use a meta-judge: schemas of its answers, prompt sections, the merge step."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from regrade.contracts import LlmCriterion, Role, Rubric, unbroken
from services.kit.http.errors import UpstreamError
from services.kit.text.fence import fence
from services.meta_reward.clients.meta_judge import MetaJudge
from services.meta_reward.propose.base import Progress, ProposalContext, build_candidate
from services.meta_reward.types import Candidate, Proposal

S = TypeVar("S")
T = TypeVar("T")

_UNBROKEN = BeforeValidator(lambda text: unbroken(text) if isinstance(text, str) else text)
"""A line end in a meta-judge's text is no reason to lose the answer."""
Sentence = Annotated[str, _UNBROKEN, StringConstraints(strip_whitespace=True, min_length=3, max_length=200)]
LevelText = Annotated[str, _UNBROKEN, StringConstraints(strip_whitespace=True, min_length=2, max_length=100)]
Levels = Annotated[list[LevelText], Field(min_length=6, max_length=6)]
_MAX_FENCED_CHARS = 4_000
"""About 1,000 tokens, so that a prompt with a few texts fits a small context."""
_MAX_ERROR_CHARS = 160


class Reply(BaseModel):
    """A meta-judge's answer: exactly these fields."""

    model_config = ConfigDict(extra="forbid")


class NewCriterion(Reply):
    """One criterion, with a text for each level, worst first."""

    name: Annotated[str, _UNBROKEN, StringConstraints(strip_whitespace=True, min_length=2, max_length=60)]
    fault: bool
    description: Sentence
    levels: Levels


class Refinement(Reply):
    """Criteria to add."""

    criteria: Annotated[list[NewCriterion], Field(min_length=1, max_length=3)]


R = TypeVar("R", bound=Reply)


class MetaJudgeProposer(ABC):
    """A proposer that uses a meta-judge. A last step that fails (merge, rewrite) costs its candidate, nothing else."""

    name: str

    def __init__(self, meta_judge: MetaJudge) -> None:
        self._meta_judge = meta_judge

    async def propose(self, context: ProposalContext, progress: Progress) -> Proposal:
        """Candidates for this context, or a failed proposal."""
        session = MetaJudgeSession(self._meta_judge, context, self.name, await self._meta_judge.fence_key())
        try:
            return await self._propose(session, progress)
        except (UpstreamError, ValidationError) as error:
            return session.failed(f"dropped ({first_line_of(error)})")

    @abstractmethod
    async def _propose(self, session: "MetaJudgeSession", progress: Progress) -> Proposal: ...


class MetaJudgeSession:
    """One proposer's questions in one cycle, and notes on those that failed."""

    def __init__(self, meta_judge: MetaJudge, context: ProposalContext, name: str, fence_key: bytes) -> None:
        self._meta_judge = meta_judge
        self._name = name
        self._fence_key = fence_key
        self.context = context
        self.notes: list[str] = []

    def ask(self, template: str, schema: type[R], **sections: str) -> Awaitable[R]:
        """Ask one question in the task's role. Raises `UpstreamError`."""
        context = self.context
        return self._meta_judge.ask(template, schema, cycle=context.cycle, role=context.meta_role, **sections)

    async def ask_each(self, name: str, inputs: Iterable[S], ask: Callable[[S], Awaitable[T]]) -> list[T | None]:
        """Ask one question per input, concurrently; None and a note for each that failed."""

        async def ask_one(value: S) -> T | None:
            try:
                return await ask(value)
            except UpstreamError as error:
                self.notes.append(f"{self._name}: {name} dropped ({first_line_of(error)})")
                return None

        return list(await asyncio.gather(*(ask_one(value) for value in inputs)))

    async def merge(self, refinements: Sequence[Refinement], rationale: str) -> Proposal:
        """One candidate: the active rubric plus the criteria into which the meta-judge merges the refinements."""
        if not refinements:
            return self.failed("no refinement came through")
        active = self.context.active
        listed = [f"{c.name}: {c.description}" for refinement in refinements for c in refinement.criteria]
        proposals = self.fence("PROPOSALS", "\n".join(dict.fromkeys(listed)))
        merged = await self.ask("merge", Refinement, rubric=outline(active), proposals=proposals)
        added = to_criteria(merged, active)
        return self.proposal(build_candidate(self.context, added, by=self._name, rationale=rationale))

    def proposal(self, rubric: Rubric) -> Proposal:
        """A proposal with one candidate and the notes so far."""
        return Proposal((Candidate(rubric, self._name),), tuple(self.notes))

    def failed(self, why: str) -> Proposal:
        """A proposal without a candidate. The reason includes the first failed question."""
        first = f"; {self.notes[0].removeprefix(f'{self._name}: ')}" if self.notes else ""
        return Proposal(notes=(*self.notes, f"{self._name}: {why}"), failed=f"{why}{first}")

    def fence(self, label: str, text: str) -> str:
        """Untrusted text inside its fence."""
        return fence(label, text[:_MAX_FENCED_CHARS], self._fence_key)

    def case(self, prompt: str, *responses: str) -> str:
        """A prompt section: the active rubric, a task, and responses to it."""
        fenced = [self.fence("RESPONSE", response) for response in responses]
        rubric = f"Rubric:\n{outline(self.context.active)}"
        return "\n\n".join((rubric, self.fence("TASK", prompt), *fenced))


def outline(rubric: Rubric) -> str:
    """The names of a rubric's criteria, as a list."""
    return "\n".join(f"- {criterion.name}" for criterion in rubric.criteria)


def to_criteria(refinement: Refinement, active: Rubric) -> list[LlmCriterion]:
    """A refinement's criteria as a rubric holds them; their weights add up to half of the active award weight."""
    taken = {criterion.id for criterion in active.criteria}
    ids = (f"llm-{n}" for n in range(1, 1_000) if f"llm-{n}" not in taken)
    weight = active.total_weight(Role.AWARD) / (2 * len(refinement.criteria))
    return [
        LlmCriterion.model_validate(
            {
                "kind": "llm",
                "id": criterion_id,
                "name": new.name,
                "role": Role.DEDUCT if new.fault else Role.AWARD,
                "weight": weight,
                "description": new.description,
                "levels": new.levels,
            }
        )
        for criterion_id, new in zip(ids, refinement.criteria, strict=False)
    ]


def first_line_of(error: Exception) -> str:
    """The first line of an error, short enough for a note."""
    return str(error).splitlines()[0][:_MAX_ERROR_CHARS]
