"""A whole evaluation with a scripted judge behind a real port, and each metric on known texts."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rouge_score import rouge_scorer

from regrade import BlockingRewardClient
from regrade.contracts import LabelledPair, ScoreResponse
from regrade.tasks import load_pack
from services.trainer.evaluate.__main__ import evaluate
from services.trainer.evaluate.completions import EntrantError, completions_of
from services.trainer.evaluate.metrics import accuracy, judge_validity, rouge, task_metrics
from services.trainer.evaluate.settings import EvaluateSettings
from services.trainer.evaluate.tournament import outcome_of
from tests.support.builders import ESSAY, TASK
from tests.support.fake_engine import FakeEngine, Messages, Reply, certain, chat
from tests.support.languages import PARAGRAPHS

PROMPTS = [prompt.prompt for prompt in load_pack(TASK).prompts]


def _letters(**masses: float) -> Reply:
    top = [{"token": token, "logprob": math.log(mass)} for token, mass in masses.items()]
    return chat(max(masses, key=lambda letter: masses[letter]), {"token": "A", "logprob": 0.0, "top_logprobs": top})


def _by_strength(bias: float) -> Callable[[Messages], Reply]:
    """A judge that prefers the text with more of the word `good`, and the first place by `bias` of the word."""

    def script(messages: Messages) -> Reply:
        first, _, second = messages[0]["content"].partition("Response A:")[2].partition("Response B:")
        odds = math.exp(first.count("good") - second.count("good") + bias)
        return _letters(A=odds / (1 + odds), B=1 / (1 + odds))

    return script


@pytest.fixture
def judge() -> Iterator[FakeEngine]:
    """A judge of pairs."""
    engine = FakeEngine(dialect="openai")
    yield engine
    engine.close()


def _entrants(folder: Path, **goods: int) -> dict[str, str]:
    entrants = {}
    for name, count in goods.items():
        path = folder / f"{name}-given.jsonl"
        rows = ({"prompt": prompt, "completion": f"It is {'good ' * count}[BEGIN."} for prompt in PROMPTS)
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        entrants[name] = str(path)
    return entrants


def _settings(folder: Path, judge: FakeEngine, **more: Any) -> EvaluateSettings:
    base = {"out": folder / "out", "count": 6, "judge_url": judge.url, "price_in": 2.0, "price_out": 8.0}
    return EvaluateSettings.model_validate(base | more)


def test_policies_are_compared(tmp_path: Path, judge: FakeEngine) -> None:
    judge.script = _by_strength(bias=2.0)
    settings = _settings(tmp_path, judge, entrants=_entrants(tmp_path, none=0, some=1, much=2))
    result = evaluate(settings)
    assert result.ratings is not None
    assert [rating.name for rating in result.ratings.entrants] == ["much", "some", "none"]
    assert result.ratings.games == len(judge.calls) == 6 * 3 * 2, "every pair on every prompt in both orders"
    gaps = [rating.elo for rating in result.ratings.entrants]
    assert gaps[0] - gaps[1] == pytest.approx(400 / math.log(10), rel=0.1), "one unit of log odds"
    assert result.ratings.first_place == pytest.approx(2 * 400 / math.log(10), rel=0.1)
    assert result.bill == {
        "unusable": 0,
        "prompt_tokens": 3600,
        "completion_tokens": 36,
        "cost": pytest.approx(0.007488),
    }
    assert result.figures["much"] == {"words": 5.0}
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "| much | 5.0 |" in (tmp_path / "out" / "comparison.md").read_text()
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["ratings"]["games"] == 36
    again = completions_of(str(tmp_path / "out" / "much.jsonl"), PROMPTS[:0], max_tokens=1, batch=1, use_cpu=True)
    assert again == []


def test_equal_texts_rate_equal_under_position_bias(tmp_path: Path, judge: FakeEngine) -> None:
    judge.script = lambda _: _letters(A=0.98, B=0.01, T=0.01)
    result = evaluate(_settings(tmp_path, judge, entrants=_entrants(tmp_path, left=1, right=1)))
    assert result.ratings is not None
    assert [rating.elo for rating in result.ratings.entrants] == pytest.approx([1000.0, 1000.0])


def test_a_failed_request_is_no_tie(tmp_path: Path, judge: FakeEngine) -> None:
    judge.script = lambda _: Reply({"error": "no"}, 400)
    result = evaluate(_settings(tmp_path, judge, entrants=_entrants(tmp_path, left=1, right=2)))
    assert result.ratings is None
    assert result.bill["unusable"] == 12


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (chat("A"), 1.0), (chat(" B\n"), 0.0), (chat("T"), 0.5), (chat("Both are good"), None), (chat(""), None),
        (_letters(A=0.6, B=0.2, T=0.2), 0.7), (_letters(A=0.3, x=0.7), 1.0), (_letters(A=0.01, x=0.99), None),
        (Reply({}), None), (Reply({"choices": [{"message": {}}]}), None), (Reply(None), None), (Reply([1]), None),
    ],
)  # fmt: skip
def test_outcomes(reply: Reply, outcome: float | None) -> None:
    assert outcome_of(reply.body) == (None if outcome is None else pytest.approx(outcome))


def test_an_entrant_without_completions_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl"
    path.write_text('{"prompt": "x", "completion": "y"}\n')
    with pytest.raises(EntrantError, match="1 of 2"):
        completions_of(str(path), ["x", "z"], max_tokens=1, batch=1, use_cpu=True)
    with pytest.raises(EntrantError, match="No such file"):
        completions_of(str(tmp_path / "none.jsonl"), ["x"], max_tokens=1, batch=1, use_cpu=True)


@pytest.mark.parametrize("language", PARAGRAPHS)
def test_rouge_of_any_script(language: str) -> None:
    """Equal texts score 100, half a text about half, another language's text nothing."""
    pack, text = load_pack("summarization"), PARAGRAPHS[language]
    assert set(rouge(pack, [text], [text]).values()) == {100.0}
    assert 40.0 < rouge(pack, [text[: len(text) // 2]], [text])["rouge1"] < 90.0
    assert rouge(pack, ["Completely unrelated stuff", "毫无关系的内容"], [text, text])["rouge2"] == 0.0


@pytest.mark.parametrize("text", ["The cat's well-known 3.14 snake_case e.g. U.S. running!", ESSAY, "$x_1 = 2$ it's"])
def test_rouge_of_english_is_the_packages_own(text: str) -> None:
    own = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    other = "The cats ran to a known place; it is 3.14 or so, trees and shade of the city cool."
    expected = {kind: 100.0 * score.fmeasure for kind, score in own.score(other, text).items()}
    assert rouge(load_pack("summarization"), [text], [other]) == pytest.approx(expected)


def test_rouge() -> None:
    pack = load_pack("summarization")
    same = rouge(pack, ["The bill plants two trees."], ["The bill plants two trees."])
    assert same == {"rouge1": 100.0, "rouge2": 100.0, "rougeL": 100.0}
    half = rouge(pack, ["the cat sat", "unseen"], ["the cat ran", None])
    assert half["rouge1"] == pytest.approx(100 * 2 / 3)
    assert half["rouge2"] == pytest.approx(50.0)
    assert "rougeL" in task_metrics(pack, ["a"], ["a"])


def test_accuracy() -> None:
    ethics = load_pack("ethical_reasoning")
    result = accuracy(
        ethics, ["Verdict: right", "Not wrong. Verdict: wrong", "None", "right"], ["right", "right", "wrong", None]
    )
    assert result == {"accuracy": pytest.approx(100 / 3), "undecided": 0.25}
    math_ = task_metrics(load_pack("math_reasoning"), [r"So \boxed{\frac{3}{6}}", "It is 4."], [r"\frac{1}{2}", "5"])
    assert (math_["accuracy"], math_["undecided"]) == (50.0, 0.0)


def test_a_judges_validity(reward_url: str, fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(messages: Messages) -> Reply:
        text = messages[-1]["content"]
        return Reply({}, 400) if "nobody" in text else certain(5 if "best" in text else 3 if "same" in text else 1)

    fake_engine.script = script
    texts = [
        ("the best", "the worst"),
        ("the worst", "the best"),
        ("the same", "the same again"),
        ("nobody", "the best"),
    ]
    pairs = [LabelledPair(prompt=f"Prompt {n}", better=b, worse=w, reference=str(n)) for n, (b, w) in enumerate(texts)]
    score = BlockingRewardClient.score
    references: list[str] = []

    def recorded(client: BlockingRewardClient, task: str, items: Sequence[Any], **options: Any) -> ScoreResponse:
        references.extend(item["reference"] for item in items)
        return score(client, task, items, **options)

    monkeypatch.setattr(BlockingRewardClient, "score", recorded)
    with BlockingRewardClient(reward_url, patience_s=5.0) as client:
        result = judge_validity(client, TASK, pairs)
    assert references == ["0", "0", "1", "1", "2", "2", "3", "3"], "the reference is sent for checks"
    assert result == {
        "pairs": 3.0, "unscored": 0.25, "ordered": pytest.approx(1 / 3), "tied": pytest.approx(1 / 3), "auc": 0.5
    }  # fmt: skip


@pytest.mark.slow
def test_the_command_names_what_is_missing() -> None:
    command = [sys.executable, "-m", "services.trainer.evaluate", "--task", TASK]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 2
    assert "entrants" in result.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "own.jsonl, line 2: not an object with the texts prompt and completion. A valid line: {"),
        ('["prompt"]', "line 2: not an object"),
        ('{"prompt": "Why trees?"}', "line 2: not an object"),
        ('{"prompt": "Why trees?", "completion": 1}', "line 2: not an object"),
        ('{"prompt": "Why trees?", "completion": "Shade."}', "no completion for 1 of 1 prompts, such as 'Why rivers?'"),
    ],
)
def test_a_file_of_completions_is_explained(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(EntrantError) as caught:
        completions_of(str(path), ["Why rivers?"], max_tokens=1, batch=1, use_cpu=True)
    assert message in str(caught.value)
    assert (f'--data \'{{"source": "{path}"}}\'' in str(caught.value)) == ("no completion" in message)


def test_a_users_own_prompts_and_completions(tmp_path: Path) -> None:
    """One file is the source of the prompts and the entrant; its prompts have no template, those of the task have."""
    path = tmp_path / "own.jsonl"
    rows = [
        {"prompt": f"Sum {n} and 1.", "completion": f"It is \\boxed{{{n + 1}}}.", "reference": str(n + 1)}
        for n in range(4)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    result = evaluate(
        EvaluateSettings.model_validate(
            {
                "task": "math_reasoning",
                "data": {"source": str(path), "columns": {"prompt": "prompt", "reference": "reference"}},
                "entrants": {"mine": str(path)},
                "out": tmp_path / "out",
            }
        )
    )
    assert (result.prompts, result.figures["mine"]["accuracy"]) == (4, 100.0)


@pytest.mark.slow
def test_an_error_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("")
    for options, message in (
        (["--entrants", json.dumps({"mine": str(path)})], "no completion for"),
        (["--pairs", str(path)], "own.jsonl is empty. A valid line: {"),
        (["--pairs", str(tmp_path / "none")], "none cannot be read"),
        (["--task", "no_such", "--pairs", str(path)], "no task pack 'no_such'"),
        (["--data", '{"source": "none.jsonl"}', "--pairs", str(path)], "no file none.jsonl"),
    ):
        command = [sys.executable, "-m", "services.trainer.evaluate", "--out", str(tmp_path / "out"), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        assert [line for line in done.stderr.splitlines() if line.startswith("error: ") and message in line]
        assert "Traceback" not in done.stderr
