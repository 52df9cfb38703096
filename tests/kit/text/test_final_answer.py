"""The parting of reasoning and answer, and the final answer of what is left."""

import time
from collections.abc import Callable

import pytest

from services.kit.text.final_answer import boxes, final_answer, final_box
from services.kit.text.reasoning import part_reasoning


@pytest.mark.parametrize(
    ("completion", "reasoning", "answer"),
    [
        ("plain", "", "plain"),
        ("<think>a</think>b", "a", "b"),
        ("<THINK>a</THINK>b", "a", "b"),
        ("a</think>b", "a", "b"),
        ("<think>a", "a", ""),
        ("x<think>a</think>y<think>b</think>z", "ab", "xyz"),
        ("<think>a<think>b</think>c</think>d", "abc", "d"),
        ("<think>a</think>b</think>c", "ab", "c"),
        ("<reasoning>a</reasoning><answer>b</answer>", "a", "<answer>b</answer>"),
        ("◁think▷a◁/think▷b", "a", "b"),
        ("<|begin_of_thought|>a<|end_of_thought|>b", "a", "b"),
        ("<|START_THINKING|>a<|END_THINKING|>b", "a", "b"),
        ("<seed:think>a</seed:think>b", "a", "b"),
        ("analysisless<|channel|>final<|message|>b", "analysisless", "b"),
        ("I think <b>so</b>", "", "I think <b>so</b>"),
    ],
)
def test_reasoning_is_parted_from_the_answer(completion: str, reasoning: str, answer: str) -> None:
    assert part_reasoning(completion) == (reasoning, answer)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"\boxed{1} then \boxed{\frac{a}{b}}", r"\frac{a}{b}"),
        (r"\boxed{never closed", ""),
        (r"\boxed{5} or rather \boxed{6", ""),
        ("nothing", ""),
        (r"\boxed{ }", ""),
        (r"\boxed{3} and then \boxed{}", "3"),
        (r"\boxed 7", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{1}, \boxed{2} and \boxed{3}", "1, 2, 3"),
        (r"$x = \boxed{1}$, $y = \boxed{2}$", "1, 2"),
        (r"\boxed{4} \boxed{4}", "4"),
        (r"\boxed{4}. \boxed{5}", "5"),
        (r"\boxed{4}, so in all \boxed{5}", "5"),
    ],
)
def test_the_last_box_or_the_last_neighbours(text: str, box: str) -> None:
    assert final_box(text) == box


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It is 4.", "4"),
        ("x + 1\n#### 1,234", "1,234"),
        ("The answer is (B).", "(B)"),
        ("**Answer:** 5", "5"),
        ("Answer: $x^2$\nThank you.", "$x^2$"),
        ("So the final answer is therefore 3.5. I hope it is correct.", "3.5"),
        (r"Hence \(x\) is \(2\).", "2"),
        ("We get **12** apples.", "12"),
        ("The roots are 2 or 3.", "2 or 3."),
        ("The value is 2x.", "2x."),
        ("<answer>8</answer> That is 9.", "8"),
        ("答案是：12", "12"),
        ("", ""),
    ],
)
def test_without_a_box_the_marked_or_the_last_answer(text: str, answer: str) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "unit",
    [
        r"\boxed{", r"\boxed{1}", r"\boxed{1},", "{", "}", r"\{", r"\(", r"\[", "$", "answer ", "answer to ", "final ",
        "#",
        "*", "<think>", "</think>", "<answer>", "<|channel|>", "[THINK]", " ", "1,", ".", "is ", r"\boxed{\boxed{",
        "答案", "<|channel|>final",
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["", "x", "}"])
def test_linear_in_untrusted_text(unit: str, ending: str) -> None:
    """Eight times the text takes about eight times as long; a quadratic function would take 64 times."""

    def seconds(count: int) -> float:
        text = unit * (count // len(unit)) + ending
        started = time.process_time()
        final_answer(part_reasoning(text).answer)
        boxes(text)
        return time.process_time() - started

    assert best(lambda: seconds(160_000)) < 30 * best(lambda: seconds(20_000)) + 0.05


def best(measure: Callable[[], float]) -> float:
    return min(measure() for _ in range(3))
