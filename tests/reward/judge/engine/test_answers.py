"""What servers of other kinds answer: recognition, parameters, thinking, errors inside answers, impossible numbers."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import pytest
from pydantic import ValidationError

from services.kit.http.client import JsonClient, open_session
from services.kit.http.errors import UpstreamError, UpstreamMalformed, UpstreamUnavailable
from services.meta_reward.settings import MetaRewardSettings
from services.reward.judge.engine.base import EngineAnswer, Sampling
from services.reward.judge.engine.discovery import open_engine
from services.reward.judge.engine.llamacpp import LlamaCppEngine
from services.reward.judge.engine.openai import OpenAIEngine
from services.reward.judge.engine.sglang import SglangEngine
from services.reward.judge.engine.vllm import VllmEngine
from services.reward.settings import RewardSettings
from tests.support.fake_engine import FakeEngine, Messages, Reply, by_text, chat, distribution, together

MESSAGES = [{"role": "user", "content": "How good?"}]
CHOICES = tuple("012345")
FLAT = [1 / 6] * 6
KINDS = {"vllm": VllmEngine, "sglang": SglangEngine, "llamacpp": LlamaCppEngine, "openai": OpenAIEngine}


async def _opened(fake: FakeEngine, **options: Any) -> Any:
    async with open_session(connections=2, timeout_s=60.0) as session:
        return await open_engine(JsonClient(session, fake.url, retries=0), dialect="auto", model="", **options)


@pytest.mark.parametrize("dialect", KINDS)
async def test_a_server_is_known_by_the_owner_of_its_models(dialect: Any) -> None:
    with closing(FakeEngine(dialect=dialect)) as fake:
        assert type(await _opened(fake)) is KINDS[dialect]
        assert fake.calls == [], "no question is put to a server that says what it is"


@pytest.mark.parametrize("owner", [None, "tensorrt_llm", "vllm"])
async def test_a_server_that_forbids_a_dialects_fields_is_plain(owner: str | None) -> None:
    """Many servers have a route `/version`; one that says it is vLLM is tried once it refuses everything."""
    known = {"model", "messages", "max_tokens", "temperature", "logprobs", "top_logprobs", "top_p"}

    def strict(messages: Messages, payload: Mapping[str, Any]) -> Reply:
        extra = sorted(payload.keys() - known)
        if extra:
            return Reply({"message": f"extra fields not permitted: {extra}"}, status=400)
        return distribution(FLAT, dialect="openai")

    with closing(FakeEngine(dialect="vllm", batched=False, model=strict)) as fake:
        fake.owner = owner
        engine = await _opened(fake, verify=owner == "vllm")
        assert type(engine) is OpenAIEngine


async def test_a_server_that_ignores_a_dialects_fields_is_plain() -> None:
    def ignores(_: Messages, payload: Mapping[str, Any]) -> Reply:
        wide = payload["top_logprobs"] > len(CHOICES)
        return distribution(FLAT, dialect="openai") if wide else chat("Sure", {"token": "Sure", "top_logprobs": []})

    with closing(FakeEngine(dialect="vllm", batched=False, model=ignores)) as fake:
        fake.owner = None
        assert type(await _opened(fake)) is OpenAIEngine


async def test_parameters_are_added_to_every_request_or_taken_out(fake_engine: FakeEngine) -> None:
    params = {"chat_template_kwargs": {"enable_thinking": False}, "max_tokens": None, "max_completion_tokens": 8}
    async with open_session(connections=2, timeout_s=60.0) as session:
        client = JsonClient(session, fake_engine.url, retries=0)
        engine = await open_engine(client, dialect="auto", model="", params=params)
        await engine.choose([MESSAGES], CHOICES)
        await engine.write([MESSAGES], Sampling(50))
        bare = await open_engine(client, dialect="auto", model="")
    assert len(fake_engine.payloads) == 2
    for payload in fake_engine.payloads:
        assert payload["chat_template_kwargs"] == {"enable_thinking": False}
        assert payload["max_completion_tokens"] == 8
        assert "max_tokens" not in payload
    assert engine.identity != bare.identity == "fake-judge", "other parameters are another judge"


@pytest.mark.parametrize("name", ["messages", "model", "n", "stream"])
def test_fields_that_the_service_needs_are_refused(name: str) -> None:
    for settings, field in ((RewardSettings, "judge_params"), (MetaRewardSettings, "meta_judge_params")):
        with pytest.raises(ValidationError, match=f"{name} cannot be set here"):
            settings.model_validate({field: {name: 1}})


THINKING = {
    "by a parser": {"content": None, "reasoning": "Okay, let me"},
    "by an older parser": {"content": "", "reasoning_content": "Okay, let me"},
    "in the text": {"content": "<think>"},
    "in the text, at length": {"content": "\n<think>\nOkay, let me"},
    "in parts": {"content": [{"type": "thinking", "thinking": "Okay"}], "reasoning": "Okay"},
}


@pytest.mark.parametrize("message", THINKING.values(), ids=THINKING)
async def test_thinking_in_place_of_an_answer_names_the_setting(
    fake_engine: FakeEngine, message: dict[str, Any]
) -> None:
    """Also where the first token of the thinking happens to be a digit."""
    choice = {"index": 0, "message": message, "logprobs": dict(distribution(FLAT).body)["choices"][0]["logprobs"]}
    fake_engine.script = lambda _: Reply({"choices": [choice]})
    async with open_session(connections=2, timeout_s=60.0) as session:
        engine = LlamaCppEngine(JsonClient(session, fake_engine.url, retries=0), "m")
        for answer in (*await engine.choose([MESSAGES], CHOICES), *await engine.write([MESSAGES], Sampling(8))):
            assert isinstance(answer, UpstreamMalformed)
            assert "thinking" in str(answer)
            assert "REGRADE_REWARD_JUDGE_PARAMS" in str(answer)


@pytest.mark.parametrize(
    "content",
    [
        "Fine.",
        "<think>Is it? </think>\n\nFine.",
        "no opening tag </think>Fine.",
        [{"type": "text", "text": "Fi"}, {"type": "text", "text": "ne."}],
        [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "Fine."}],
    ],
    ids=json.dumps,
)
async def test_text_is_read_in_parts_and_behind_thinking(fake_engine: FakeEngine, content: object) -> None:
    fake_engine.script = lambda _: Reply({"choices": [{"index": 0, "message": {"content": content}}]})
    async with open_session(connections=2, timeout_s=60.0) as session:
        (answer,) = await OpenAIEngine(JsonClient(session, fake_engine.url), "m").write([MESSAGES], Sampling(8))
    assert isinstance(answer, EngineAnswer)
    assert answer.value == "Fine."


def _with_error(code: object) -> Any:
    return {"index": 0, "finish_reason": "error", "message": {"content": ""}, "error": {"code": code, "message": "no"}}


async def test_an_error_in_a_choice_is_retried_by_its_code(fake_engine: FakeEngine) -> None:
    fake_engine.script = lambda m: Reply({"choices": [_with_error(502)]}) if len(fake_engine.calls) < 3 else by_text(m)
    async with open_session(connections=2, timeout_s=60.0) as session:
        client = JsonClient(session, fake_engine.url, retries=2, backoff_s=0.001)
        (answer,) = await LlamaCppEngine(client, "m").choose([MESSAGES], CHOICES)
    assert isinstance(answer, EngineAnswer)
    assert len(fake_engine.calls) == 3


async def test_a_choice_of_a_batch_that_is_an_error_is_asked_alone() -> None:
    with closing(FakeEngine(dialect="vllm")) as fake:
        fake.script = lambda _: distribution(FLAT, dialect="vllm")

        def one_fails(replies: Sequence[Reply]) -> Reply:
            reply = together(replies)
            reply.body["choices"][1] = _with_error(429) | {"index": 1}
            return reply

        fake.together = one_fails
        async with open_session(connections=2, timeout_s=60.0) as session:
            engine = VllmEngine(JsonClient(session, fake.url, retries=0), "m", batch_size=8)
            answers = await engine.choose([MESSAGES] * 3, CHOICES)
            assert all(isinstance(answer, EngineAnswer) for answer in answers)
            assert len(fake.calls) == 4
            fake.script = lambda _: Reply({"error": {"code": 429, "message": "slow"}})
            fake.together = lambda _: Reply({"error": {"code": 429, "message": "slow"}})
            answers = await engine.choose([MESSAGES] * 3, CHOICES)
    assert all(isinstance(answer, UpstreamUnavailable) for answer in answers)


def _choices(*indices: object) -> Reply:
    choice = dict(distribution(FLAT, dialect="openai").body)["choices"][0]
    return Reply({"choices": [choice | {"index": index} for index in indices]})


def _logprobs(*values: object) -> Reply:
    top = [{"token": str(n), "logprob": value} for n, value in enumerate(values)]
    return chat("0", {"token": "0", "top_logprobs": top})


IMPOSSIBLE = {
    "a log-probability above 0": _logprobs(0.5, -3.0),
    "one far above 0": _logprobs(80.0),
    "infinity": _logprobs(float("inf")),
    "not a number": _logprobs(float("nan")),
    "more than all the mass": _logprobs(-0.1, -0.1, -0.1),
    "a token twice": chat("0", {"token": "0", "top_logprobs": [{"token": "3", "logprob": -0.1}] * 2}),
    "two choices": _choices(0, 1),
    "a choice twice": _choices(0, 0),
    "the wrong choice": _choices(1),
    "a negative index": _choices(-1),
    "no choice": _choices(),
    "a null index": _choices(None),
}


@pytest.mark.parametrize("reply", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
async def test_i3_impossible_answers_are_malformed(fake_engine: FakeEngine, reply: Reply) -> None:
    assert isinstance(await _plain_answer(fake_engine, reply), UpstreamMalformed)


@pytest.mark.parametrize(
    ("body", "mentions"),
    [
        (b"<title>Sign in</title>", "Sign in"),
        (b'{"detail": "Not authenticated"}', "Not authenticated"),
        (b'{"choices": [], "note": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", "note"),
        (b'{"error": null, "choices": [], "note": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", "note"),
    ],
    ids=["a page", "another object", "nested", "nested beside an error"],
)
async def test_an_answer_that_cannot_be_read_is_shown(fake_engine: FakeEngine, body: bytes, mentions: str) -> None:
    error = await _plain_answer(fake_engine, Reply(body))
    assert isinstance(error, UpstreamMalformed)
    assert mentions in str(error)


async def test_rounding_is_possible(fake_engine: FakeEngine) -> None:
    assert isinstance(await _plain_answer(fake_engine, _logprobs(0.0005, -9.0)), EngineAnswer)


async def _plain_answer(fake_engine: FakeEngine, reply: Reply) -> EngineAnswer[Any] | UpstreamError:
    fake_engine.script = lambda _: reply
    async with open_session(connections=2, timeout_s=60.0) as session:
        (answer,) = await OpenAIEngine(JsonClient(session, fake_engine.url, retries=0), "m").choose([MESSAGES], CHOICES)
    return answer


@pytest.mark.parametrize("doubled", [[0, 0, 1], [0, 1, 1], [0, 1, 2, 3], [1, 2, 3], [0, 1]])
async def test_i3_a_batch_with_doubled_or_missing_choices_is_malformed(doubled: list[int]) -> None:
    with closing(FakeEngine(dialect="vllm")) as fake:
        fake.script = lambda _: distribution(FLAT, dialect="vllm")
        fake.together = lambda _: _choices(*doubled)
        async with open_session(connections=2, timeout_s=60.0) as session:
            engine = VllmEngine(JsonClient(session, fake.url, retries=0), "m", batch_size=8)
            answers = await engine.choose([MESSAGES] * 3, CHOICES)
    assert all(isinstance(answer, UpstreamMalformed) for answer in answers)
