"""Guards: what announces an answer and gives none earns nothing; a short answer is for the judge."""

import pytest

from regrade import RewardClient
from regrade.contracts import Flag
from regrade.tasks import load_pack
from services.reward.items.text import prepare_text
from services.reward.screening.guards import guard
from tests.support.builders import PROMPT, TASK
from tests.support.fake_engine import FakeEngine

LIMIT = 60_000


@pytest.mark.parametrize(
    "text",
    [
        "42", "Yes.", "B", "(C)", "no", "True", "x = 3", "-1/2", "0", "是", "対", "예", "Да.", "Sí", "It is wrong.",
        "The answer is 42.", "Answer: B", "Solution: x = 3", "Final answer: yes",
        "Let's think step by step: 6 times 7 is 42.",
        "Of course.", "Never", r"\boxed{4}", "答案：B", "解：x=3", "Thought", "Step 2",
    ],
)  # fmt: skip
def test_a_short_answer_is_never_guarded(text: str) -> None:
    assert guard(prepare_text(text), max_chars=LIMIT) is None


@pytest.mark.parametrize(
    "text",
    [
        "Solution", "SOLUTION:", "**Solution**\n\n", "# Answer\n", "Thought process:",
        "Thought process:\n\nFinal answer:",
        "Let's solve this problem step by step.", "Let\u2019s think step by step...", "| Step |", r"\begin{enumerate}",
        "The final answer is", "Here is the essay:", "Solución:", "solucion", "Réponse :", "解答", "かいせつ", "풀이:",
        "उत्तर:",
        "الإجابة:", "Ｓｏｌｕｔｉｏｎ：", "Sol\u200bution:", "<|im_start|>Solution<|im_end|>",
        "I'm ready when you are. Please provide the instructions.",
    ],
)  # fmt: skip
def test_an_opener_alone_has_no_content(text: str) -> None:
    assert guard(prepare_text(text), max_chars=LIMIT) is Flag.NO_CONTENT


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("", Flag.EMPTY),
        (" \n\t\u3000", Flag.EMPTY),
        (":", Flag.PUNCTUATION_ONLY),
        ("\u2800\u2800", Flag.PUNCTUATION_ONLY),
        ("<|im_end|></s>", Flag.CONTROL_TOKENS_ONLY),
        ("\u3164\uffa0", Flag.CONTROL_TOKENS_ONLY),
        ("a" * (LIMIT + 1), Flag.TOO_LONG),
    ],
)
def test_what_is_nothing_at_all(text: str, flag: Flag) -> None:
    assert guard(prepare_text(text), max_chars=LIMIT) is flag


def test_no_trusted_text_is_guarded() -> None:
    originals = load_pack(TASK).originals
    assert {guard(prepare_text(original.completion), max_chars=LIMIT) for original in originals} == {None}


async def test_an_opener_costs_no_judge_call(client: RewardClient, fake_engine: FakeEngine) -> None:
    """A reward of 0 and a flag; the short answer beside it is judged."""
    items = [{"prompt": PROMPT, "completion": text} for text in ("Thought process:", "42")]
    opener, answer = (await client.score(TASK, items, run="r", step=1)).results
    assert (opener.reward, opener.flags, opener.error) == (0.0, ("no_content",), None)
    assert answer.flags == ()
    assert answer.reward is not None
    assert len(fake_engine.calls) == 1
