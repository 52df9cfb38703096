"""The label that a text names last: by its words, in scripts with and without blanks."""

import pytest

from services.kit.text.label_match import last_label, normalise


@pytest.mark.parametrize(
    ("completion", "labels", "label"),
    [
        ("The claim is wrong.", "right/wrong", "wrong"),
        ("It was wrongly quoted.", "right/wrong", None),
        ("In my eyes, yesterday, nothing.", "yes/no", None),
        ("Not correct? It is correct.", "correct/not correct", "correct"),
        ("The claim is not  correct!", "correct/not correct", "not correct"),
        ("Réfuté.", "confirmé/réfuté", "réfuté"),
        ("Re\u0301fute\u0301.", "confirmé/réfuté", "réfuté"),
        ("ＴＲＵＥ", "true/false", "true"),
        ("答案是对的", "对/错", "对"),
        ("答案是对的。", "对/错", "对"),
        ("这个说法是错误的", "正确/错误", "错误"),
        ("这是真的", "真/假", "真"),
        ("这是假的。", "真/假", "假"),
        ("这个说法不对", "对/错", None),
        ("这是不正确的", "正确/错误", None),
        ("这是不正确的", "正确/不正确", "不正确"),
        ("不对。其实它是对的", "对/不对", "对"),
        ("没错", "对/错", None),
        ("对于这个问题，相对来说没有结论", "对/错", None),
        ("絕對不是", "對/錯", None),
        ("被告有罪，而不是无罪", "有罪/无罪", "无罪"),
        ("答案是B", "A/B", "b"),
        ("选择Ａ。", "A/B", "a"),
        ("答えは正しいです", "正しい/間違い", "正しい"),
        ("不正解です", "正解/不正解", "不正解"),
        ("不正解です", "正解/誤り", None),
        ("それではいけない", "はい/いいえ", None),
        ("はい、そうです。", "はい/いいえ", "はい"),
        ("คำตอบคือถูกต้อง", "ถูกต้อง/ผิด", "ถูกต้อง"),
        ("คำตอบคือผิด", "ถูกต้อง/ผิด", "ผิด"),
        ("정답은 참입니다.", "참/거짓", "참"),
        ("정답은 거짓이다", "참/거짓", "거짓"),
        ("참고로 말합니다", "참/거짓", None),
        ("الإجابة صحيح", "صحيح/خطأ", "صحيح"),
        ("غير واضح", "صحيح/خطأ", None),
        ("यह कथन सही है।", "सही/गलत", "सही"),
        ("यह कथन गलत है।", "सही/गलत", "गलत"),
        ("", "对/错", None),
        ("😀", "😀/对", None),
        ("\x1f \ud800", "yes/no", None),
    ],
)
def test_the_last_label(completion: str, labels: str, label: str | None) -> None:
    assert last_label(completion, labels.split("/")) == label


def test_a_label_is_named_by_itself_in_any_script() -> None:
    for label in (
        "yes",
        "not correct",
        "对",
        "不对",
        "正しい",
        "ถูก",
        "참",
        "सही",
        "صحيح",
        "C++",
        "类型A",
        "Ⅳ",
        "部分正确",
    ):
        assert last_label(label, [label, "other"]) == normalise(label)
        assert last_label(f"other {label}", [label, "other"]) == normalise(label)
