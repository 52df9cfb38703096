"""Words and sentences in many scripts: what a language's reader would count."""

import pytest

from services.kit.text import features, segments
from tests.support.languages import OFF_TOPIC, PARAGRAPHS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("Don't panic, it's well-known.", ["don't", "panic", "it's", "well-known"]),
        ("ÄRGER über 3 Äpfel", ["ärger", "über", "3", "äpfel"]),
        ("--- ... !!!", []),
        ("She said “it’s snake_case”", ["she", "said", "it’s", "snake_case"]),
        ("答案是对的", ["答案", "是", "对", "的"]),
        ("用GPT写作", ["用", "gpt", "写作"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("می‌خواهم درخت", ["می‌خواهم", "درخت"]),
        ("cafe\u0301 noir", ["cafe\u0301", "noir"]),
        ("คำตอบถูก", ["คำ", "ตอบ", "ถูก"]),
        ("\ud800答案\x00", ["答案"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert segments.words(text) == words


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("One. Two! Three?", 3),
        ("No end", 0),
        ("Pi is 3.14 today.", 1),
        ('He said "go."', 1),
        ("Wait...", 1),
        ("See www.x.org for more", 0),
        ("“Why?” he asked.", 2),
        ("他说：“走吧。”然后离开了。", 2),
        ("真的吗？！是的", 1),
        ("等等……我想想。", 1),
        ("値は３．１４です。", 1),
        ("これは表である．次に図を示す．", 2),
        ("हाँ। नहीं॥", 2),
        ("བོད་སྐད།", 1),
        ("**Done.** _Gone._ `x.`", 3),
        ("Shown before.[1] And after.[12]", 2),
        ("see file._name and 2.*3", 0),
    ],
)
def test_sentences(text: str, count: int) -> None:
    assert segments.sentence_count(text) == count


@pytest.mark.parametrize("language", PARAGRAPHS)
def test_a_paragraph_has_as_many_sentences_and_words_in_every_script(language: str) -> None:
    text = PARAGRAPHS[language]
    assert segments.sentence_count(text) == 4
    assert segments.ends_properly(text)
    assert 11 <= len(segments.words(text)) <= 40


@pytest.mark.parametrize("language", sorted(PARAGRAPHS.keys() - {"th"}))
def test_a_text_that_is_cut_off_does_not_end_properly(language: str) -> None:
    text = PARAGRAPHS[language]
    assert not segments.ends_properly(text[: len(text) * 3 // 5].rstrip(" ။។።։。.") + "x")
    assert not segments.ends_properly(" ".join(segments.words(text)))


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("Done.", True),
        ('"Done."\n', True),
        ("**Done!**", True),
        ("done", False),
        ("", False),
        ('""', False),
        ("「終わりです。」", True),
        ("（完。）", True),
        ("Ende.“", True),
        ("« C’est fini. »", True),
        ("真的吗？”", True),
        ("对", False),
        ("x" * 20 + ". y", False),
        ("Done! 🎉", True),
        ("Well done 👍🏽", False),
        ("Shown before.[1][2]", True),
        ("an index [1]", False),
    ],
)
def test_endings(text: str, ends: bool) -> None:
    assert segments.ends_properly(text) is ends


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty"),
        ("Why?", "question"),
        ("هل توافق؟", "question"),
        ("真的吗？", "question"),
        ("Συμφωνείτε;", "question"),
        ("Done.", "sentence"),
        ("समाप्त।", "sentence"),
        ("先看这个：", "colon"),
        ("हिन्दी", "word"),
        ("จบแล้ว", "unmarked"),
        ("a, b,", "other"),
    ],
)
def test_ending_kinds(text: str, kind: str) -> None:
    assert segments.ending_kind(text) == kind


@pytest.mark.parametrize("language", OFF_TOPIC)
def test_an_answer_overlaps_with_its_topic_and_another_does_not(language: str) -> None:
    prompt = segments.words(PARAGRAPHS[language].split("。")[0].split("।")[0].split(".")[0])
    on_topic = features.topic_overlap(segments.words(PARAGRAPHS[language]), prompt)
    assert on_topic >= 0.5
    assert features.topic_overlap(segments.words(OFF_TOPIC[language]), prompt) < 0.25


@pytest.mark.parametrize("language", PARAGRAPHS)
def test_repetition_and_copies_are_measured_in_every_script(language: str) -> None:
    tokens = segments.words(PARAGRAPHS[language])
    assert features.distinct_share(tokens, 4) > 0.9
    assert features.distinct_share(segments.words(f"{PARAGRAPHS[language]} " * 5), 4) < 0.45
    assert features.copied_share(tokens, tokens) == 1.0
    others = [text for other, text in PARAGRAPHS.items() if other != language]
    assert max(features.copied_share(tokens, segments.words(text)) for text in others) == 0.0
