"""A depth task's scopes: each has a line, a cycle and guidelines of its own; an unknown one falls back."""

import json
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from regrade.contracts import Rubric, Stage
from regrade.tasks import load_pack
from services.kit.http.client import open_session
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricStore
from services.meta_reward import lineages
from services.meta_reward.clients.meta_judge import MetaJudge
from services.meta_reward.lineages import evolving_lineages
from services.meta_reward.propose.base import Progress, ProposalContext
from services.meta_reward.propose.paper import PaperProposer
from services.meta_reward.settings import MetaRewardSettings
from services.meta_reward.types import Proposal
from services.meta_reward.worker import worker
from services.reward.api.publishing import starting_rubrics
from services.reward.metrics import RewardMetrics
from services.reward.persistence.restoration import LineageRestorer
from tests.meta_reward.propose.test_propose import context_of
from tests.support.builders import ESSAY, LINEAGE, TASK, activate, checks_only, item, llm, rubric, trace
from tests.support.fake_engine import FakeEngine, certain, chat
from tests.support.meta import meta_judge, meta_script, running_meta, train

SCOPED = LINEAGE._replace(scope="algebra/3")
WISE = ["Each step follows from the one before.", "Signs are easily lost when a term changes sides."]


def settings(**more: object) -> MetaRewardSettings:
    return MetaRewardSettings.model_validate({"tasks": [TASK]} | more)


async def no_progress(stage: Stage, detail: str) -> None:
    """Nobody looks."""


@pytest.fixture
async def judge(redis: Redis, fake_engine: FakeEngine) -> AsyncIterator[MetaJudge]:
    """A meta-judge that knows guidelines."""
    fake_engine.script = meta_script(
        lambda _: certain(3), lambda text: chat(json.dumps({"guidelines": WISE})) if "guidelines" in text else None
    )
    async with open_session(connections=2, timeout_s=60.0) as session:
        yield await meta_judge(session, fake_engine, redis)


async def test_a_scope_is_served_once_it_has_a_rubric(store: RubricStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await evolving_lineages(store, settings()) == (LINEAGE,)
    await activate(store, checks_only(1))
    await activate(store, checks_only(2), lineage=SCOPED)
    await activate(store, checks_only(2), lineage=LINEAGE._replace(scope="algebra"))
    await activate(store, checks_only(3), lineage=LineageKey(TASK, "branch", "x"))
    assert await evolving_lineages(store, settings()) == (LINEAGE, LINEAGE._replace(scope="algebra"), SCOPED)
    monkeypatch.setattr(lineages, "MAX_SCOPES", 1)
    assert await evolving_lineages(store, settings()) == (LINEAGE, LINEAGE._replace(scope="algebra"))


async def test_a_depth_pack_starts_a_line_for_each_scope(store: RubricStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = load_pack(TASK)
    for kind, count in (("breadth", 1), ("depth", 3)):
        scoped = pack.model_copy(update={"kind": kind, "scopes": ("algebra/3", "geometry")})
        monkeypatch.setattr("services.reward.api.publishing.load_pack", lambda _, scoped=scoped: scoped)
        restorer = LineageRestorer(store, starting_rubrics([TASK]), RewardMetrics(CollectorRegistry()))
        for lineage in restorer.starting:
            await restorer.restore(lineage, None)
        assert len(await store.lineages(TASK)) == count
    pointer = await store.active(SCOPED)
    assert pointer is not None
    assert pointer.digest == pack.starting_rubric.digest


async def test_guidelines_are_rewritten_for_a_scope_and_criteria_stay(
    judge: MetaJudge, fake_engine: FakeEngine
) -> None:
    active = Rubric(scope="algebra/3", preamble="- Look at the <|im_end|> result.", criteria=(llm(),))
    context = context_of(active, sample=[trace("a"), trace("b", completion=f"{ESSAY} Other.")], guided=True)
    (candidate,) = (await PaperProposer(judge).propose(context, no_progress)).candidates
    assert candidate.rubric.criteria == active.criteria
    assert candidate.rubric.preamble == "\n".join(f"- {lineage}" for lineage in WISE)
    assert candidate.rubric.scope == "algebra/3"
    prompt = fake_engine.calls[-1][0]["content"]
    assert "Look at the" in prompt
    assert "<|im_end|>" not in prompt
    assert prompt.count("Missing: ") == 2
    breadth = (await PaperProposer(judge).propose(context._replace(guided=False), no_progress)).candidates
    assert [len(c.rubric.criteria) for c in breadth] == [2]


async def test_each_scope_has_cycles_of_its_own_and_an_unknown_one_falls_back(
    redis: Redis, reward_url: str, fake_engine: FakeEngine
) -> None:
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine) as meta:
        await activate(meta.deps.store, rubric(llm("scoped")), lineage=SCOPED)
        prompts = load_pack(TASK).prompts
        items = [
            {"id": f"{scope}{n}", "scope": scope, "prompt": prompts[n].prompt, "completion": "Trees are nice and"}
            for scope in ("algebra/3", "algebra/3/hard", "geometry")
            for n in range(6)
        ]
        await meta.client.score(TASK, items, run="r", step=1)
        for lineage in await evolving_lineages(meta.deps.store, meta.deps.settings):
            await meta.worker.run_due_cycle(lineage)
        (scoped,) = await meta.deps.status_store.reports(SCOPED)
        assert scoped.evidence.traces == 12, "a narrower scope without a rubric falls back to it"
        assert await meta.deps.status_store.reports(LINEAGE) == [], "six are too few"
        await train(meta.client, step=2)
        await meta.worker.run_due_cycle(LINEAGE)
        (whole,) = await meta.deps.status_store.reports(LINEAGE)
        assert whole.evidence.traces == 14
        pointer = await meta.deps.store.active(SCOPED)
        assert pointer is not None
        assert pointer.scope == "algebra/3"


@pytest.mark.parametrize(
    ("kind", "lineage", "guided"), [("depth", SCOPED, True), ("depth", LINEAGE, False), ("breadth", SCOPED, False)]
)
async def test_guidelines_are_for_the_scopes_of_depth_tasks(
    redis: Redis,
    reward_url: str,
    fake_engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    lineage: LineageKey,
    guided: bool,
) -> None:
    contexts: list[ProposalContext] = []

    class Looks:
        """Proposes nothing."""

        name = "looks"

        async def propose(self, context: ProposalContext, progress: Progress) -> Proposal:
            """Nothing."""
            contexts.append(context)
            return Proposal((), ())

    pack = load_pack(TASK).model_copy(update={"kind": kind, "scopes": ("algebra/3",)})
    monkeypatch.setattr(worker, "load_pack", lambda _: pack)
    fake_engine.script = meta_script(lambda _: certain(3))
    async with running_meta(redis, reward_url, fake_engine) as meta:
        meta.worker._deps = meta.deps._replace(proposers=[Looks()])
        await activate(meta.deps.store, rubric(llm("scoped")), lineage=SCOPED)
        items = [item(n, id=f"i{n}", scope=lineage.scope) for n in range(8)]
        await meta.client.score(TASK, items, run="r", step=1)
        await meta.worker.run_due_cycle(lineage)
    assert [context.guided for context in contexts] == [guided]
