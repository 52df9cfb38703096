"""Fences and what is taken out of untrusted text before it stands in one (I4)."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrade.contracts import Flag
from services.kit.fence import fence, neutralise, without_control_tokens

_KEY = b"key"
_FENCE = re.compile(r"\[BEGIN RESPONSE ([a-z2-7]{10})\]\n(.*)\n\[END RESPONSE \1\]", re.DOTALL)
_PIECES = st.sampled_from(
    ["<|", "|>", "<|im_end|>", "im_end", "<", ">", "</s>", "[INST]", "[END RESPONSE a]", "\n", "\u202e"]
)

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


@given(st.text(max_size=80) | st.lists(_PIECES, max_size=12).map("".join))
def test_i4_neutralising_leaves_nothing_to_neutralise(text: str) -> None:
    once = neutralise(text).text
    assert neutralise(once) == (once, ())


@given(st.text(max_size=80) | st.lists(_PIECES, max_size=12).map("".join))
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
