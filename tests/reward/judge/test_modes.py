"""The judge's modes: what is asked in which order, what is shared, and what a failure on the way costs."""

from collections import Counter

import pytest

from regrade import RewardClient
from regrade.contracts import Mode
from services.kit.store.rubric_store import RubricStore
from tests.conftest import StartReward
from tests.support.builders import TASK, activate, item, llm, min_words, rubric
from tests.support.fake_engine import FakeEngine, Messages, Reply, certain, chat, distribution

TWO = rubric(llm("style"), llm("depth"), min_words(5))


def kind(messages: Messages) -> str:
    """What a conversation asks for."""
    last = messages[-1]["content"]
    for text, name in (
        ("Write a plan", "plan"),
        ("Carry out the plan", "execution"),
        ("speaks for and against", "rationale"),
    ):
        if text in last:
            return name
    return "level"


def scripted(messages: Messages) -> Reply:
    """Writes what it is asked to write; a level is 4 after a rationale that praises, else 1."""
    requested = kind(messages)
    if requested != "level":
        return chat(f"Some {requested} text: praise.")
    return certain(4 if "praise" in str(messages) else 1)


def asked_for(engine: FakeEngine) -> Counter[str]:
    """How often each kind of thing was asked for."""
    return Counter(kind(messages) for messages in engine.calls)


async def test_reasoned_asks_for_a_rationale_then_a_level(
    start_reward: StartReward, store: RubricStore, fake_engine: FakeEngine
) -> None:
    await activate(store, TWO)
    fake_engine.script = scripted
    async with RewardClient(start_reward().url) as client:
        response = await client.score(TASK, [item(0, id="a")], run="r", step=1, mode=Mode.REASONED, explain=True)
        again = await client.score(TASK, [item(0, id="a")], run="r", step=1, mode=Mode.REASONED)
    (result,) = response.results
    assert {c.id: c.score for c in result.criteria} == {"style": 0.8, "depth": 0.8, "min_words": 1.0}
    assert {c.id: c.rationale for c in result.criteria if c.id != "min_words"} == {
        "style": "Some rationale text: praise.",
        "depth": "Some rationale text: praise.",
    }
    assert asked_for(fake_engine) == {"rationale": 2, "level": 2}
    assert response.usage.judge_calls == 4
    assert again.results[0].cached


async def test_rationales_are_kept_to_those_who_ask(
    start_reward: StartReward, store: RubricStore, fake_engine: FakeEngine
) -> None:
    await activate(store, TWO)
    fake_engine.script = scripted
    async with RewardClient(start_reward(task_modes={TASK: "reasoned"}).url) as client:
        (result,) = (await client.score(TASK, [item(0)])).results
    assert asked_for(fake_engine)["rationale"] == 2, "the task's mode holds where the request names none"
    assert all(criterion.rationale is None for criterion in result.criteria)


async def test_a_plan_is_made_once_for_a_group_and_all_replicas(
    start_reward: StartReward, store: RubricStore, fake_engine: FakeEngine
) -> None:
    await activate(store, TWO)
    fake_engine.script = scripted
    one, other = start_reward(), start_reward()
    items = [item(n, id=str(n), reference="42") for n in range(4)]
    async with RewardClient(one.url) as client:
        response = await client.score(TASK, items, run="r", step=1, mode=Mode.PLANNED, explain=True)
    async with RewardClient(other.url) as client:
        await client.score(TASK, [item(9, id="9", reference="42")], run="r", step=1, mode=Mode.PLANNED)
        assert asked_for(fake_engine) == {"plan": 1, "execution": 5, "level": 10}
        await client.score(TASK, [item(9, id="9", reference="43")], run="r", step=1, mode=Mode.PLANNED)
    assert asked_for(fake_engine)["plan"] == 2, "another reference wants another plan"
    assert all(result.reward is not None for result in response.results)
    assert response.results[0].criteria[0].rationale == "Some execution text: praise."
    executed = next(messages for messages in fake_engine.calls if kind(messages) == "execution")
    assert "Some plan text" in executed[-1]["content"]
    assert "[BEGIN REFERENCE " in executed[-1]["content"]


@pytest.mark.parametrize("llm_criteria", [0, 1, 3])
@pytest.mark.parametrize("mode", list(Mode))
async def test_a_mode_makes_as_many_calls_as_it_declares(
    start_reward: StartReward, store: RubricStore, fake_engine: FakeEngine, mode: Mode, llm_criteria: int
) -> None:
    """`Mode.judge_calls` is what the meta-reward service's gate budgets with."""
    await activate(store, rubric(*(llm(f"c{n}") for n in range(llm_criteria)), min_words(5)))
    fake_engine.script = scripted
    async with RewardClient(start_reward().url) as client:
        response = await client.score(TASK, [item(0)], mode=mode)
    assert response.results[0].reward is not None
    assert len(fake_engine.calls) == response.usage.judge_calls == mode.judge_calls(llm_criteria)


@pytest.mark.parametrize(
    ("mode", "step"), [(Mode.REASONED, "rationale"), (Mode.PLANNED, "plan"), (Mode.PLANNED, "execution")]
)
@pytest.mark.parametrize("reply", [Reply({}, 400), chat("   "), Reply(b"no JSON")], ids=["refused", "blank", "bytes"])
async def test_i3_what_fails_on_the_way_is_null(
    start_reward: StartReward, store: RubricStore, fake_engine: FakeEngine, mode: Mode, step: str, reply: Reply
) -> None:
    """Only the item that it befell; the check's score stays; no level is asked for without its rationale."""
    await activate(store, TWO)

    def script(messages: Messages) -> Reply:
        hit = "version 1" in str(messages) or (step == "plan" and "Other prompt" in str(messages))
        return reply if kind(messages) == step and hit else scripted(messages)

    fake_engine.script = script
    items = [item(0, id="0"), item(1, id="1", prompt="Other prompt.")]
    async with RewardClient(start_reward().url) as client:
        fine, failed = (await client.score(TASK, items, run="r", step=1, mode=mode)).results
    assert fine.reward is not None
    assert failed.reward is None
    assert failed.error is not None
    assert {c.id: c.score for c in failed.criteria} == {"style": None, "depth": None, "min_words": 1.0}


async def test_samples_are_averaged(start_reward: StartReward, store: RubricStore, fake_engine: FakeEngine) -> None:
    """Each of three rationales is drawn with a seed of its own; the distributions' mean is what counts."""
    await activate(store, rubric(llm()))
    seeds: list[int] = []

    def script(messages: Messages) -> Reply:
        if kind(messages) == "level":
            return certain(int(messages[2]["content"].removeprefix("draw ")))
        payload = fake_engine.payloads[-1]
        seeds.append(payload["seed"])
        return chat(f"draw {payload['seed'] + 1}")

    fake_engine.script = script
    async with RewardClient(start_reward(judge_samples=3, judge_in_flight=1).url) as client:
        (result,) = (await client.score(TASK, [item(0)], mode=Mode.REASONED)).results
    assert sorted(seeds) == [0, 1, 2]
    assert result.criteria[0].score == pytest.approx((1 + 2 + 3) / 3 / 5)
    assert result.criteria[0].confidence is not None
    assert result.criteria[0].confidence < 1.0


@pytest.mark.parametrize(("criteria_per_call", "calls"), [(1, 5), (2, 3), (5, 1)])
async def test_several_criteria_are_asked_in_one_call(
    start_reward: StartReward, store: RubricStore, fake_engine: FakeEngine, criteria_per_call: int, calls: int
) -> None:
    """Each criterion gets the level of its own line, whatever the number of criteria a call."""
    names = ["one", "two", "three", "four", "five"]
    await activate(store, rubric(*(llm(name) for name in names)))

    def script(messages: Messages) -> Reply:
        question = messages[-1]["content"].rpartition("[END RESPONSE")[2]
        levels = [n for n, name in enumerate(names) if name.capitalize() in question]
        return certain(*levels)

    fake_engine.script = script
    async with RewardClient(start_reward(judge_criteria_per_call=criteria_per_call).url) as client:
        (result,) = (await client.score(TASK, [item(0)])).results
    assert len(fake_engine.calls) == calls
    assert [c.score for c in result.criteria] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])


async def test_i3_a_call_that_answers_too_few_lines_is_null(
    start_reward: StartReward, store: RubricStore, fake_engine: FakeEngine
) -> None:
    await activate(store, TWO)
    fake_engine.script = lambda _: distribution([0, 0, 0, 0, 0, 1.0])
    async with RewardClient(start_reward(judge_criteria_per_call=2).url) as client:
        (result,) = (await client.score(TASK, [item(0)])).results
    assert result.reward is None
    assert result.error is not None
    assert result.error.code == "judge_malformed"
