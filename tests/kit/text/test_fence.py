"""Fences and what is taken out of untrusted text before it stands in one (I4)."""

import re
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from regrade.contracts import Flag
from services.kit.text.fence import fence, is_plain, neutralise, utf8, without_control_tokens

_KEY = b"key"
_FENCE = re.compile(r"\[BEGIN RESPONSE ([a-z2-7]{10})\]\n(.*)\n\[END RESPONSE \1\]", re.DOTALL)
_PIECES = st.sampled_from(
    [
        "<|", "|>", "<|im_end|>", "im_end", "<", ">", "</s>", "[INST]", "[END RESPONSE a]", "\n", "\u202e", "\uff1c",
        "\uff5c", "\uff1e", "[", "]", "|||", "A", "]~b", "e~", "]~!", "<<", ">>", "SYS", "/", "BEGIN TASK x", "\u200d",
        "\ufe0f", "\u20e3", "1",
        "ｂｏｓ", "ﬁ", "ｓ", "～", "│", "\U0001f468", "e\u0301", "\u0301" * 5, " " * 40, "\u3000" * 40, "\ud800", "\r",
    ]
)  # fmt: skip
_TEXTS = st.text(max_size=80) | st.lists(_PIECES, max_size=14).map("".join)

TOKENS = """
<|im_start|> <|im_end|> <|endoftext|> <|eot_id|> <|IM_END|> <s> </s> [INST] [/INST] <<SYS>> <</SYS>>
<start_of_turn> <end_of_turn> <bos> <eos> <pad> <unk> <mask> [gMASK] <think> </think> <tool_call>
<repo_name> <reponame> <file_sep> <filename> <gh_stars> <issue_start> <issue_comment> <issue_closed>
<jupyter_start> <jupyter_text> <jupyter_code> <jupyter_output> <jupyter_script> <empty_output>
<fim_prefix> <unused7> <extra_id_0> <\uff5cbegin\u2581of\u2581sentence\uff5c>
"""


@pytest.mark.parametrize("token", TOKENS.split())
def test_i4_a_control_token_is_respelt_and_flagged(token: str) -> None:
    text, flags = neutralise(f"before {token} after")
    assert token not in text
    assert (text.startswith("before "), text.endswith(" after")) == (True, True)
    assert flags == (Flag.CONTROL_TOKENS,)
    assert without_control_tokens(token) == ""


def _wide(token: str) -> str:
    return "".join(chr(ord(char) + 0xFEE0) if char.isalnum() or char in "_:@" else char for char in token)


def _bold(token: str) -> str:
    return "".join(chr(0x1D400 + ord(c) - 97 + 26) if "a" <= c <= "z" else c for c in token)


@pytest.mark.parametrize("spelling", [_wide, _bold], ids=["wide", "bold"])
@pytest.mark.parametrize("token", [*TOKENS.split(), "[|endofturn|]", "[e~[", "<seed:eos>", "[IMG]", ">>ABSTRACT<<"])
def test_i4_a_control_token_in_compatibility_letters_is_respelt(token: str, spelling: Callable[[str], str]) -> None:
    """A tokenizer that normalises would read the token."""
    for spelt in {spelling(token), spelling(token).replace("fi", "ﬁ"), token.replace("s", "ſ")}:
        safe, flags = neutralise(f"x ﬃ {spelt} after")
        assert flags == (Flag.CONTROL_TOKENS,), spelt
        assert neutralise(unicodedata.normalize("NFKC", safe)).flags == ()
        assert (safe.startswith("x ﬃ "), safe.endswith(" after")) == (True, True)
        assert without_control_tokens(f"ﬀ{spelt}㏂") == "ﬀ㏂"


@pytest.mark.parametrize("text", ["]～b]", "］~b［", "|｜|EMAIL_ADDRESS|||", "│││EMAIL_ADDRESS│││", "﹈~b﹇"])
def test_i4_mixed_forms_of_brackets_and_bars_are_respelt(text: str) -> None:
    assert neutralise(f"a {text} b").flags == (Flag.CONTROL_TOKENS,)


@pytest.mark.parametrize("text", ["Ｈｅｌｌｏ ＜ ﬁne ＞", "① <ﬁn> ② [１]", "x² < y³ [ª]", "⑴ | ⑵ | ⑶", "５＜６｜７"])
def test_compatibility_letters_outside_tokens_are_left_alone(text: str) -> None:
    assert neutralise(text) == (text, ())


@given(_TEXTS)
def test_i4_a_neutralised_text_holds_no_token_after_normalisation(text: str) -> None:
    once = neutralise(text).text
    assert not {Flag.CONTROL_TOKENS, Flag.FENCE_SPOOF} & set(neutralise(unicodedata.normalize("NFKC", once)).flags)


@pytest.mark.parametrize(
    "char", ["\U000e0041", "\u202e", "\u2066", "\u061c", "\u200b", "\ufeff", "\x00", "\x1b", "\x7f"]
)
def test_i4_hidden_characters_are_dropped_and_flagged(char: str) -> None:
    assert neutralise(f"a{char}b") == ("ab", (Flag.HIDDEN_UNICODE,))


@pytest.mark.parametrize(
    "text", ["a < b > c", "if (x <= y) { return [1]; }", "<div>html</div>", "naïve “quotes” 日本語 😀\n\ttab", "5|6"]
)
def test_honest_text_is_left_alone(text: str) -> None:
    assert neutralise(text) == (text, ())


@example("<|<0|>>")
@example("[END TASK [|a|]]")
@given(_TEXTS)
def test_i4_neutralising_leaves_nothing_to_neutralise(text: str) -> None:
    once = neutralise(text).text
    assert neutralise(once) == (once, ())


@settings(max_examples=2_000)
@given(_TEXTS)
def test_i4_the_quick_look_and_the_patterns_agree(text: str) -> None:
    """What is recognised as plain without a pattern holds nothing that a pattern would change."""
    if is_plain(utf8(text)):
        assert neutralise(f"{text}\u200b") == (text, (Flag.HIDDEN_UNICODE,))
        assert without_control_tokens(f"{text}\u200b") == text


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a" + " " * 200 + "b", "a" + " " * 64 + "b"),
        ("a" + "\n" * 200 + "b", "a" + "\n" * 64 + "b"),
        ("a" + " \t\r\n" * 50, "a" + " \t\r\n" * 16),
        ("a" + "\u2800\u3000" * 50, "a" + "\u2800\u3000" * 32),
        ("o" + "\u0316" * 30 + "k", "o" + "\u0316" * 4 + "k"),
    ],
)
def test_floods_are_shortened_and_flagged(text: str, safe: str) -> None:
    assert neutralise(text) == (safe, (Flag.FLOOD,))


@pytest.mark.parametrize(
    "text",
    [
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\u2764\ufe0f\u200d\U0001f525 \u2764\ufe0f",
        "1\ufe0f\u20e3",
        "e\u0301o\u0302\u0301",
        "a\r\nb",
        "x" * 5_000,
        " " * 64,
    ],
)
def test_what_scripts_and_emoji_need_is_left_alone(text: str) -> None:
    assert neutralise(text) == (text, ())


@pytest.mark.parametrize(
    "text",
    [
        "a\u200db",
        "a\ufe0fb",
        "\U0001f600\ufe0f\ufe0f\U0001f600",
        "\U0001f600\U000e0150\U000e0151",
        "\u200dx",
        "\u00e9\u200dx",
    ],
)
def test_joiners_and_selectors_that_nothing_needs_are_dropped(text: str) -> None:
    safe, flags = neutralise(text)
    assert not {"\u200d", "\ufe0f", "\U000e0150", "\U000e0151"} & set(safe)
    assert flags == (Flag.HIDDEN_UNICODE,)


@pytest.mark.parametrize(
    "marker", ["[END RESPONSE abc]", "[ end of the response ]", "[/BEGIN TASK]", "\uff3bEND PLAN\uff3d"]
)
def test_i4_what_looks_like_our_marker_is_respelt_and_flagged(marker: str) -> None:
    safe, flags = neutralise(f"a {marker} b")
    assert marker not in safe
    assert flags == (Flag.FENCE_SPOOF,)


@given(_TEXTS)
def test_i4_a_fence_encloses_everything(text: str) -> None:
    whole = _FENCE.fullmatch(fence("RESPONSE", text, _KEY))
    assert whole is not None
    assert whole[2] == neutralise(text).text
    assert whole[1] not in whole[2]


def test_i4_a_fence_copied_from_another_text_has_the_wrong_code() -> None:
    stolen = fence("RESPONSE", "a harmless text", _KEY)
    whole = _FENCE.fullmatch(fence("RESPONSE", stolen, _KEY))
    assert whole is not None
    assert whole[1] not in stolen
    assert fence("TASK", "text", _KEY)[-12:-1] != fence("RESPONSE", "text", _KEY)[-12:-1]
