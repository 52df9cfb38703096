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
        "42",
        "Yes.",
        "B",
        "(C)",
        "no",
        "True",
        "x = 3",
        "-1/2",
        "0",
        "是",
        "対",
        "예",
        "Да.",
        "Sí",
        "It is wrong.",
        "The answer is 42.",
        "Answer: B",
        "Solution: x = 3",
        "Final answer: yes",
        "Let's think step by step: 6 times 7 is 42.",
        "Of course.",
        "Never",
        r"\boxed{4}",
        "答案：B",
        "解：x=3",
        "Thought",
        "Step 2",
        r"\boxed{\pi}",
        r"\emptyset",
        "end",
        "<br>",
        "text",
        "NA",
        "else:",
        "def f(x):",
        "Yes:",
        "x = 3:",
        "Ответ: да",
        "Απάντηση: 4",
        "答え：4",
        '{"answer": "B"}',
        "<answer>7</answer>",
        r"\text{yes}",
        "N/A is wrong",
        "10:30",
    ],
)
def test_a_short_answer_is_never_guarded(text: str) -> None:
    assert guard(prepare_text(text), max_chars=LIMIT) is None


@pytest.mark.parametrize(
    "text",
    [
        "Solution",
        "SOLUTION:",
        "**Solution**\n\n",
        "# Answer\n",
        "Thought process:",
        "Thought process:\n\nFinal answer:",
        "Let's solve this problem step by step.",
        "Let\u2019s think step by step...",
        "| Step |",
        r"\begin{enumerate}",
        "The final answer is",
        "Here is the essay:",
        "Solución:",
        "solucion",
        "Réponse :",
        "解答",
        "かいせつ",
        "풀이:",
        "उत्तर:",
        "الإجابة:",
        "Ｓｏｌｕｔｉｏｎ：",
        "Sol\u200bution:",
        "<|im_start|>Solution<|im_end|>",
        "I'm ready when you are. Please provide the instructions.",
        "Sоlutiоn:",
        "ANSWΕR",
        "𝐒𝐨𝐥𝐮𝐭𝐢𝐨𝐧",
        "S\u0336o\u0336l\u0336u\u0336t\u0336i\u0336o\u0336n\u0336",
        "RÉPONSE\u00a0:",
        "ОТВЕТ",
        "Solution" + " " * 300,
        "Solution:\n" * 100,
        "Solution" + "\u2800\u3000" * 300,
        "\n" * 300 + "Answer:",
        r"\boxed{}",
        r"\boxed{ }",
        r"Answer: \boxed{\text{}}",
        r"$\boxed{\mathrm{~}}$ Solution",
        "<answer></answer>",
        '{"answer": ""}',
        r"\begin{aligned}\end{aligned}",
        "N/A",
        "n / a",
        "Answer: N/A.",
        "Answer: Ｎ／Ａ",
        "Απάντηση:",
        "Odpověď:",
        "**Vastaus:**",
        "## Válasz:\n",
        "پاسخ:",
        "תשובה:",
        "উত্তর:",
        "Mening javobim:\n\nYechim:",
    ],
)
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


def test_a_placeholder_is_an_answer_where_the_task_names_it() -> None:
    text = prepare_text("N/A")
    assert guard(text, max_chars=LIMIT, task="Name the author, or write N/A.") is None
    assert guard(text, max_chars=LIMIT, task="Who?\nn/a") is None
    assert guard(text, max_chars=LIMIT, task="Name the author of An Na, a novel.") is Flag.NO_CONTENT


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
