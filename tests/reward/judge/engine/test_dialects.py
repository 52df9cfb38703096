"""What an engine answers: a distribution over the levels, or a typed error; never a number made up."""

import asyncio
import json
import math
from contextlib import closing
from functools import partial
from typing import Any

import pytest

from services.kit.http import client as http
from services.kit.http.client import JsonClient, open_session
from services.kit.http.errors import UpstreamError, UpstreamMalformed, UpstreamUnavailable
from services.kit.results import CriterionScore
from services.reward.app import create_app
from services.reward.judge.batch import score_of
from services.reward.judge.engine.base import Engine, EngineAnswer
from services.reward.judge.engine.discovery import EngineHandle, check_dialect, open_engine
from services.reward.judge.engine.llamacpp import LlamaCppEngine
from services.reward.judge.engine.openai import OpenAIEngine
from services.reward.judge.engine.sglang import SglangEngine
from services.reward.judge.engine.vllm import VllmEngine
from services.reward.settings import RewardSettings
from tests.support.fake_engine import Dialect, FakeEngine, Reply, chat, distribution

KINDS: dict[Dialect, type[Engine]] = {
    "vllm": VllmEngine,
    "sglang": SglangEngine,
    "llamacpp": LlamaCppEngine,
    "openai": OpenAIEngine,
}
MESSAGES = [{"role": "user", "content": "How good?"}]
CHOICES = tuple("012345")
SKEWED = [0.1, 0.0, 0.2, 0.3, 0.4, 0.0]


async def _ask(fake: FakeEngine, reply: Reply, *, plain: bool = False) -> tuple[float, ...]:
    fake.script = lambda _: reply
    async with open_session(connections=1, timeout_s=60.0) as session:
        kind = OpenAIEngine if plain else LlamaCppEngine
        (answer,) = await kind(JsonClient(session, fake.url, retries=0), "m").choose([MESSAGES], CHOICES)
    if isinstance(answer, UpstreamError):
        raise answer
    return answer.value[0]


async def test_each_dialect_gives_the_distribution(fake_engine: FakeEngine) -> None:
    assert await _ask(fake_engine, distribution(SKEWED)) == pytest.approx(SKEWED)
    assert await _ask(fake_engine, distribution(SKEWED, dialect="openai"), plain=True) == pytest.approx(SKEWED)


async def test_a_named_dialect_and_model_are_believed() -> None:
    with closing(FakeEngine(dialect="openai")) as other:
        async with open_session(connections=2, timeout_s=60.0) as session:
            for dialect, kind in KINDS.items():
                named = await open_engine(JsonClient(session, other.url), dialect=dialect, model="mine")
                assert (type(named), named.model, named.batch_size) == (kind, "mine", 1)


async def test_the_batched_route_is_used_as_far_as_wanted() -> None:
    with closing(FakeEngine(dialect="vllm")) as vllm:
        async with open_session(connections=2, timeout_s=60.0) as session:
            engine = await open_engine(JsonClient(session, vllm.url), dialect="auto", model="", batch_size=1)
            assert engine.batch_size == 1
            engine = await open_engine(JsonClient(session, vllm.url), dialect="auto", model="", batch_size=7)
            assert engine.batch_size == 7


async def test_an_engine_is_asked_what_it_is_once_it_is_there(fake_engine: FakeEngine) -> None:
    fake_engine.stop()
    async with open_session(connections=1, timeout_s=60.0) as session:
        handle = EngineHandle(
            partial(open_engine, JsonClient(session, fake_engine.url, retries=0), dialect="auto", model="")
        )
        assert not await handle.ready()
        with pytest.raises(UpstreamUnavailable):
            await handle.get()
        fake_engine.start()
        assert await handle.ready()
        assert await handle.get() is await handle.get()


async def test_who_waits_for_a_silent_engine_shares_one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_PROBE_TIMEOUT_S", 0.3)
    request_count = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal request_count
        request_count += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, open_session(connections=9, timeout_s=60.0) as session:
        handle = EngineHandle(partial(open_engine, JsonClient(session, url), dialect="auto", model=""))
        waves = [await asyncio.gather(*(handle.get() for _ in range(9)), return_exceptions=True) for _ in range(2)]
    assert [type(error) for wave in waves for error in wave] == [UpstreamUnavailable] * 18
    assert request_count == 2


async def test_tokens_that_spell_one_choice_add_up(fake_engine: FakeEngine) -> None:
    """Some tokenizers have "3" and " 3": the rarer one must not stand in for the other."""
    top = [{"token": "3", "prob": 0.6}, {"token": "1", "prob": 0.3}, {"token": " 3", "prob": 0.1}]
    assert (await _ask(fake_engine, _position({"top_probs": top})))[3] == pytest.approx(0.7)
    logs = [{"token": entry["token"], "logprob": math.log(float(str(entry["prob"])))} for entry in top]
    assert (await _ask(fake_engine, _position({"top_logprobs": logs}), plain=True))[3] == pytest.approx(0.7)


def _position(position: dict[str, Any]) -> Reply:
    return chat("3", {"token": "3"} | position)


def _probs(*entries: Any) -> Reply:
    return _position({"top_probs": [{"token": str(n), "prob": p} for n, p in enumerate(entries)]})


def _logprobs(*entries: Any) -> Reply:
    return _position({"top_logprobs": [{"token": str(n), "logprob": p} for n, p in enumerate(entries)]})


def _with_usage(usage: Any) -> Reply:
    return Reply(dict(distribution(SKEWED).body) | {"usage": usage})


MALFORMED = {
    "an array": Reply([]),
    "a number": Reply(5),
    "null": Reply(None),
    "choices is text": Reply({"choices": "abc"}),
    "no logprobs": chat("5"),
    "logprobs null": Reply({"choices": [{"logprobs": None}]}),
    "no position": Reply({"choices": [{"logprobs": {"content": []}}]}),
    "none of the choices": _position({"top_probs": [{"token": "yes", "prob": 1.0}]}),
    "no mass": _probs(0.0, 0.0),
    "negative mass": _probs(-0.5, 1.5),
    "NaN": _probs(float("nan"), 0.5),
    "infinite": _probs(float("inf"), 0.5),
    "no number": _probs("high", 0.5),
    "null mass": _probs(None, 0.5),
    "entries are text": _position({"top_probs": ["3", "4"]}),
    "usage is infinite": _with_usage({"prompt_tokens": float("inf")}),
}


@pytest.mark.parametrize(
    "usage", ["many", {"prompt_tokens": "many"}, {"prompt_tokens_details": [1]}, {"prompt_tokens": 1.5}]
)
async def test_an_unreadable_usage_loses_no_answer(fake_engine: FakeEngine, usage: Any) -> None:
    assert sum(await _ask(fake_engine, _with_usage(usage))) == pytest.approx(1.0)


@pytest.mark.parametrize("reply", MALFORMED.values(), ids=MALFORMED)
async def test_i3_no_distribution_is_an_error_of_its_own(fake_engine: FakeEngine, reply: Reply) -> None:
    with pytest.raises(UpstreamMalformed):
        await _ask(fake_engine, reply)


@pytest.mark.parametrize(
    "reply",
    [_logprobs(float("nan"), -1.0), _logprobs("high"), _logprobs(None), _logprobs(float("-inf")), _logprobs()],
    ids=lambda reply: json.dumps(reply.body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]),
)
async def test_i3_no_log_probabilities_are_an_error_too(fake_engine: FakeEngine, reply: Reply) -> None:
    with pytest.raises(UpstreamMalformed):
        await _ask(fake_engine, reply, plain=True)


async def test_i3_noise_beside_another_answer_is_no_level(fake_engine: FakeEngine) -> None:
    """A model that begins to think aloud leaves the levels a trace of its probability: their ratio means nothing."""
    with pytest.raises(UpstreamMalformed, match="did not answer with a level"):
        await _ask(fake_engine, _logprobs(-20.0, -21.0, -25.0, -19.0, -22.0, -30.0), plain=True)


async def test_a_masked_choice_has_no_mass(fake_engine: FakeEngine) -> None:
    answer = await _ask(fake_engine, _logprobs(-9999.0, None, 0.0001, -9999.0), plain=True)
    assert answer == pytest.approx((0.0, 0.0, 1.0, 0.0, 0.0, 0.0))


async def test_a_bill_is_never_negative(fake_engine: FakeEngine) -> None:
    fake_engine.script = lambda _: _with_usage({"prompt_tokens": -7, "completion_tokens": None})
    async with open_session(connections=1, timeout_s=60.0) as session:
        (answer,) = await LlamaCppEngine(JsonClient(session, fake_engine.url), "m").choose([MESSAGES], CHOICES)
    assert isinstance(answer, EngineAnswer)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.judge_calls) == (0, 0, 1)


async def test_the_constraint_is_asked_for_in_llamacpps_words(fake_engine: FakeEngine) -> None:
    await _ask(fake_engine, distribution(SKEWED))
    (payload,) = fake_engine.payloads
    assert payload["grammar"] == 'root ::= choice\nchoice ::= "0" | "1" | "2" | "3" | "4" | "5"'
    assert payload["logit_bias"] == [[choice, 100.0] for choice in CHOICES]
    assert (payload["max_tokens"], payload["temperature"], payload["min_p"]) == (1, 1.0, 0.0)
    assert payload["top_k"] == payload["top_logprobs"] == len(CHOICES) + 2, "all choices stay, behind the bias"


def test_an_unknown_dialect_is_refused_at_start() -> None:
    for name in ("auto", "vllm", "vllm-inprocess"):
        check_dialect(name)
    with pytest.raises(ValueError, match=r"unknown judge_dialect 'vlm'; choose one of auto, vllm, .*vllm-inprocess"):
        create_app(RewardSettings(judge_dialect="vlm"))


def test_a_score_is_the_expected_level() -> None:
    assert score_of("c", (0, 0, 0, 0, 0, 1)) == CriterionScore("c", 1.0, 1.0)
    assert score_of("c", (1, 0, 0, 0, 0, 0)) == CriterionScore("c", 0.0, 1.0)
    assert score_of("c", (0.5, 0, 0, 0, 0, 0.5), "why") == CriterionScore("c", 0.5, 0.0, "why")
    skewed = score_of("c", tuple(SKEWED))
    assert skewed.score == pytest.approx((0.4 + 0.9 + 1.6) / 5)
    assert 0.0 < (skewed.confidence or 0.0) < 1.0
