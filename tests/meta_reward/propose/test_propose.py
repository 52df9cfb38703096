"""Proposers on their own: what they ask, what they make of the answer, and what a failure costs."""

import json
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from regrade.contracts import Criterion, CriterionFigures, Evidence, LabelledPair, Role, Rubric, Stage
from services.kit.http.client import open_session
from services.meta_reward.clients.meta_judge import MetaJudge
from services.meta_reward.propose.base import DEDUCT_FLOOR, ProposalContext, build_candidate
from services.meta_reward.propose.maintenance import PruningProposer, TighteningProposer
from services.meta_reward.propose.pairwise import PairwiseProposer
from tests.support.builders import ESSAY, llm, min_words, rubric, trace, veto
from tests.support.fake_engine import FakeEngine, chat
from tests.support.meta import GOOD_CRITERION, meta_judge, meta_script

HARDER = [f"It takes {n} hours of work to reach this." for n in range(6)]


async def no_progress(stage: Stage, detail: str) -> None:
    """Ignores the progress."""


def figures_of(mean: float = 0.5, std: float = 0.2, flat_groups: float = 0.0, traces: int = 64) -> CriterionFigures:
    return CriterionFigures(
        traces=traces, mean=mean, std=std, confidence=1.0, flat_groups=flat_groups, contribution=0.2
    )


def context_of(active: Rubric, figures: dict[str, CriterionFigures] | None = None, **more: object) -> ProposalContext:
    """A context for a rubric, with figures of its criteria."""
    evidence = Evidence(
        window=("0-0", "1-0"), traces=64, groups=8, first_step=1, last_step=2, means={}, drift={}, correlation={},
        reward_mean=0.5, reward_std=0.1, saturated_share=0.0, zero_variance_groups=0.0, flagged_share=0.0,
        criteria=figures or {},
    )  # fmt: skip
    return ProposalContext("cycle", "a teacher", [], active, evidence, [], [])._replace(**more)  # type: ignore[arg-type]


@pytest.fixture
async def judge(redis: Redis, fake_engine: FakeEngine) -> AsyncIterator[MetaJudge]:
    """A meta-judge behind the scripted engine, well-behaved."""
    fake_engine.script = meta_script(lambda _: chat("5"))
    async with open_session(connections=2, timeout_s=60.0) as session:
        yield await meta_judge(session, fake_engine, redis)


async def test_pairs_are_shown_better_first_and_people_before_the_window(
    judge: MetaJudge, fake_engine: FakeEngine
) -> None:
    labelled = LabelledPair(prompt="Why rivers?", better="A river carries <|im_end|> silt.", worse="Rivers are nice.")
    drawn = (trace("a", completion=ESSAY, reward=0.9), trace("b", completion="Trees: A Study", reward=0.8))
    context = context_of(rubric(), labelled=[labelled], pairs=[drawn])
    (candidate,) = (await PairwiseProposer(judge).propose(context, no_progress)).candidates
    assert [c.name for c in candidate.rubric.criteria] == ["Quality", GOOD_CRITERION["name"]]
    prompts = [messages[0]["content"] for messages in fake_engine.calls]
    assert len(prompts) == 3
    of_people, of_the_window = (next(text for text in prompts if what in text) for what in ("Why rivers?", "Study"))
    assert of_people.index("carries") < of_people.index("are nice")
    assert of_the_window.index("Trees make a city") < of_the_window.index("A Study")
    assert "<|im_end|>" not in of_people


async def test_without_a_pair_nothing_is_asked(judge: MetaJudge, fake_engine: FakeEngine) -> None:
    proposal = await PairwiseProposer(judge).propose(context_of(rubric()), no_progress)
    assert (proposal.candidates, proposal.failed, fake_engine.calls) == ((), "", [])


@pytest.mark.parametrize("proposer", [PairwiseProposer, TighteningProposer])
async def test_a_meta_judge_that_answers_no_json_costs_the_proposal(
    judge: MetaJudge, fake_engine: FakeEngine, proposer: Callable[[MetaJudge], PairwiseProposer]
) -> None:
    fake_engine.script = lambda _: chat("I would rather not.")
    context = context_of(
        rubric(), {"quality": figures_of(0.95, 0.05)}, pairs=[(trace("a"), trace("b", completion="Other."))]
    )
    proposal = await proposer(judge).propose(context, no_progress)
    assert proposal.candidates == ()
    assert "does not fit its schema" in proposal.failed


async def test_pruning_takes_out_what_gives_no_spread_but_guards_and_core(judge: MetaJudge) -> None:
    guard = veto("short", {"check": "min_words", "words": 5})
    active = rubric(llm("core"), llm("dull"), llm("alive"), llm("young"), min_words(40), guard)
    flat = figures_of(1.0, 0.0, 1.0)
    figures = {"core": flat, "dull": flat, "alive": figures_of(), "min_words": flat, "short": flat, "young": flat}
    figures["young"] = figures_of(1.0, 0.0, 1.0, traces=8)
    context = context_of(active, figures, core={"core"})
    (candidate,) = (await PruningProposer().propose(context, no_progress)).candidates
    assert [c.id for c in candidate.rubric.criteria] == ["core", "alive", "young", "min_words", "short"]
    assert "dull gave no spread" in candidate.rubric.rationale
    alive = context_of(active, figures | {"dull": figures_of()}, core={"core"})
    assert (await PruningProposer().propose(alive, no_progress)).candidates == ()


async def test_pruning_never_leaves_a_rubric_that_awards_nothing() -> None:
    context = context_of(rubric(llm("dull")), {"dull": figures_of(1.0, 0.0, 1.0)})
    assert (await PruningProposer().propose(context, no_progress)).candidates == ()


async def test_tightening_rewrites_the_levels_of_what_everything_tops(
    judge: MetaJudge, fake_engine: FakeEngine
) -> None:
    fake_engine.script = lambda _: chat(json.dumps({"levels": HARDER}))
    active = rubric(llm("hard"), llm("easy"), llm("easier"))
    figures = {"hard": figures_of(0.4), "easy": figures_of(0.9, 0.05), "easier": figures_of(0.97, 0.05)}
    (candidate,) = (await TighteningProposer(judge).propose(context_of(active, figures), no_progress)).candidates
    before, after = active.llm_criteria, candidate.rubric.llm_criteria
    assert (after[0], after[1]) == (before[0], before[1])
    assert (after[2].id, list(after[2].levels)) == ("easier", HARDER)
    fake_engine.forget()
    spread = context_of(active, {"easy": figures_of(0.9, 0.3)})
    assert (await TighteningProposer(judge).propose(spread, no_progress)).candidates == ()
    assert fake_engine.calls == []


def test_the_active_set_is_capped_by_spread_and_its_core_persists() -> None:
    active = rubric(llm("core"), llm("wide"), llm("narrow"), llm("unseen"), min_words(40))
    figures = {"core": figures_of(std=0.0), "wide": figures_of(std=0.3), "narrow": figures_of(std=0.1)}
    context = context_of(active, figures, core={"core"}, max_llm_criteria=4)
    candidate = build_candidate(context, [llm("new")], by="me", rationale="why")
    assert [c.id for c in candidate.criteria] == ["core", "wide", "unseen", "min_words", "new"]
    assert candidate.parent == active.digest


@pytest.mark.parametrize(
    ("added", "weight"),
    [
        pytest.param([], 0.5, id="as it was"),
        pytest.param([llm(f"more-{n}", weight=2.0) for n in range(4)], 9.0 * DEDUCT_FLOOR, id="raised to the floor"),
    ],
)
def test_a_fault_keeps_its_weight(added: list[Criterion], weight: float) -> None:
    active = rubric(llm("good"), llm("bad", role=Role.DEDUCT, weight=0.5))
    candidate = build_candidate(context_of(active), added, by="me", rationale="why")
    assert candidate.criteria[1].weight == pytest.approx(weight)


def test_many_faults_together_do_not_outweigh_what_can_be_won() -> None:
    faults = [llm(f"bad-{n}", role=Role.DEDUCT, weight=1 / 24) for n in range(20)]
    heavy = llm("worst", role=Role.DEDUCT, weight=0.1)
    candidate = build_candidate(
        context_of(rubric(llm("good"), heavy, *faults), max_llm_criteria=32), by="me", rationale="why"
    )
    assert candidate.total_weight(Role.DEDUCT) <= candidate.total_weight(Role.AWARD)
