"""The one list of control tokens: what adapters strip from a completion's end, services respell anywhere in it."""

import re
import time

import pytest

from regrade import control_tokens
from regrade.control_tokens import CONTROL_TOKEN, strip_end_tokens
from services.kit.text.fence import neutralise

END_TOKENS = """
<|im_end|> <|eot_id|> <|END_OF_TURN_TOKEN|> <|endoftext|> <|return|> <|end|> <|eom_id|> <|/turn|> <|turn> <turn|>
<\uff5cend\u2581of\u2581sentence\uff5c> [|endofturn|] [|EndOfTurn|] <seed:eos> <minimax:end>
<model:eot> </s> <s> <pad> <eos>
<bos> <eod> <end_of_turn> <end_of_text> <endoftext> <eos_token> <SPECIAL_12> <unused7> <reserved_3> <extra_id_0>
[control_12] [EOS] [PAD] [/INST] [e~[ <end_of_utterance> <special_token_3> [EOD] [PAD151645]
"""
MARKS = """
<think> </think> <tool_call> </tool_call> <image> [IMG] [TOOL_CALLS] <beginning_of_sentence> <start_of_audio>
<longcat_user> <role> <fim_prefix>
"""
ANSWERS = ("[1]", "[|1; 2|]", "<b>bold</b>", "x < y|z", "<h1>", "<answer>4</answer>", "f <| g", "[note]", "a \n", "")


@pytest.mark.parametrize("token", END_TOKENS.split())
def test_an_end_token_is_stripped_and_respelt(token: str) -> None:
    assert strip_end_tokens(f"It is done.{token}") == "It is done."
    assert strip_end_tokens(f"It is done.\n{token}\n{token} ") == "It is done."
    assert strip_end_tokens(f"It {token} is done.") == f"It {token} is done."
    assert token not in neutralise(f"It is done.{token}").text


@pytest.mark.parametrize("token", MARKS.split())
def test_a_mark_within_a_text_is_respelt_and_not_stripped(token: str) -> None:
    assert strip_end_tokens(f"Look: {token}") == f"Look: {token}"
    assert token not in neutralise(f"Look: {token}").text


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_keeps_its_end(text: str) -> None:
    assert strip_end_tokens(text) == text


def test_any_amount_of_padding_is_stripped() -> None:
    assert strip_end_tokens("Done." + "<|pad|>" * 30_000) == "Done."
    assert strip_end_tokens("<eos>" * 3_000) == ""


def test_what_is_stripped_is_a_part_of_the_list() -> None:
    assert all(CONTROL_TOKEN.fullmatch(token) for token in END_TOKENS.split())


@pytest.mark.parametrize("pattern", [v for v in vars(control_tokens).values() if isinstance(v, re.Pattern)])
def test_the_time_is_linear_in_the_text(pattern: re.Pattern[str]) -> None:
    for piece in (
        "<",
        "<|",
        "<|a",
        "[|a",
        "a:",
        "<a:",
        "]~",
        "|||A",
        ">>A",
        "<[",
        "[control_1",
        "<\uff5ca",
        "<end_of_",
    ):
        short, long = (_seconds(pattern, piece * count) for count in (2_000, 32_000))
        assert long < 160 * max(short, 1e-3), piece  # 16 times the text; 256 if it were quadratic


def _seconds(pattern: re.Pattern[str], text: str) -> float:
    started = time.thread_time()
    pattern.sub("", text)
    return time.thread_time() - started
