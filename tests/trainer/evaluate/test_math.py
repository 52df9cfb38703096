"""Mathematics: the check agrees with the generators' own verifiers; a plan is made once per problem and rubric."""

import pytest
import reasoning_gym

from regrade import RewardClient
from regrade.contracts import Mode
from services.kit.store.keys import LineageKey
from services.kit.store.rubric_store import RubricStore
from services.kit.text.math_equal import math_equal
from tests.conftest import StartReward
from tests.support.builders import activate, llm, rubric
from tests.support.fake_engine import FakeEngine

GENERATORS = ("gsm_symbolic", "simple_equations", "fraction_simplification", "gcd", "basic_arithmetic")
EACH = 100


@pytest.mark.filterwarnings("ignore")
def test_math_equal_agrees_with_the_generators_verifier() -> None:
    """500 problems, each with its correct answer as a policy would write it, and with the next problem's."""
    agree = total = 0
    disagreements = []
    for name in GENERATORS:
        problems = reasoning_gym.create_dataset(name, size=EACH, seed=11)
        entries = [problems[n] for n in range(EACH)]
        for n, entry in enumerate(entries):
            for answer in (entry["answer"], entries[(n + 1) % EACH]["answer"]):
                is_correct = problems.score_answer(answer, entry) == 1.0
                bare = answer.replace("$", "")
                equal = math_equal(f"We work it out step by step.\nThe answer is \\boxed{{{bare}}}.", entry["answer"])
                total += 1
                agree += equal == is_correct
                if equal != is_correct:
                    disagreements.append((name, answer, entry["answer"], is_correct))
    assert total == 2 * EACH * len(GENERATORS)
    assert agree / total >= 0.99, disagreements[:10]


async def test_a_plan_is_made_once_for_a_problem_and_a_rubric(
    start_reward: StartReward, fake_engine: FakeEngine, store: RubricStore
) -> None:
    """Two problems, four solutions each: two plans; none for further solutions; again under another rubric."""
    async with RewardClient(start_reward(bootstrap_tasks=["math_reasoning"]).url) as client:

        async def calls(step: int, suffix: str) -> int:
            items = [
                {
                    "prompt": f"What is {problem} + 1?", "reference": f"{problem + 1}",
                    "completion": f"Solution {n} of problem {problem}, {suffix}, is {problem + 1}.",
                }
                for problem in (1, 2)
                for n in range(4)
            ]  # fmt: skip
            answer = await client.score("math_reasoning", items, run="r", step=step)
            assert all(result.reward is not None for result in answer.results)
            return answer.usage.judge_calls

        carried_out = 2 * 8  # an execution and a level for each solution
        assert await calls(0, "first") == carried_out + 2
        assert await calls(1, "later") == carried_out
        await activate(store, rubric(llm("other")), lineage=LineageKey("math_reasoning", "main"))
        assert await calls(2, "under another rubric") == carried_out + 2
        assert await calls(3, "and later") == carried_out
    assert Mode.PLANNED.value == "planned"
