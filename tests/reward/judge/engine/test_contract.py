"""What every engine owes the judge, whatever its dialect: on scripted servers, real llama.cpp and real vLLM."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from typing import NamedTuple

import pytest

from services.kit.http.client import JsonClient, open_session
from services.kit.http.errors import UpstreamError, UpstreamRefused
from services.reward.judge.engine.base import (
    ChatMessages,
    ChoiceResult,
    Distribution,
    Engine,
    EngineAnswer,
    Sampling,
    TextResult,
)
from services.reward.judge.engine.discovery import open_engine
from tests.support.fake_engine import Dialect, FakeEngine
from tests.support.tiny_model import tiny_model

CHOICES = tuple("012345")
QUESTIONS: tuple[ChatMessages, ...] = tuple(
    [{"role": "user", "content": f"How good are {what}, from 0 to 5? Answer with one digit."}]
    for what in ("cats", "the dogs of the village", "birds")
)
TOO_LONG: ChatMessages = [{"role": "user", "content": "word " * 20_000}]


class Contract(NamedTuple):
    """A server and what is to be made of it; equal questions may differ by `noise`."""

    kind: str
    noise: float
    batch: int = 1
    fixture: str = ""
    """Gives the URL of a real server; empty starts a scripted one."""
    dialect: Dialect = "openai"


class Server(NamedTuple):
    """What a contract is about: the URL it is found at, or what opens the engine in this process."""

    contract: Contract
    there: str | Callable[[], Awaitable[Engine]]


class Case(NamedTuple):
    """An engine under the contract."""

    contract: Contract
    engine: Engine


CONTRACTS = [
    pytest.param(Contract("VllmEngine", 1e-9, batch=64, dialect="vllm"), id="vllm, batched"),
    pytest.param(Contract("VllmEngine", 1e-9, dialect="vllm"), id="vllm"),
    pytest.param(Contract("SglangEngine", 1e-9, dialect="sglang"), id="sglang"),
    pytest.param(Contract("LlamaCppEngine", 1e-9, dialect="llamacpp"), id="llamacpp"),
    pytest.param(Contract("OpenAIEngine", 1e-9), id="openai"),
    pytest.param(Contract("LlamaCppEngine", 1e-2, fixture="engine_url"), id="real llama.cpp", marks=pytest.mark.engine),
    pytest.param(Contract("VllmEngine", 5e-3, batch=64, fixture="vllm_url"), id="real vLLM", marks=pytest.mark.vllm),
    pytest.param(
        Contract("InprocessEngine", 5e-3, batch=64, fixture="inprocess"), id="in process", marks=pytest.mark.inprocess
    ),
]


@pytest.fixture(params=CONTRACTS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """What a contract is about, running."""
    contract: Contract = request.param
    if contract.fixture:
        yield Server(contract, request.getfixturevalue(contract.fixture))
        return
    scripted = FakeEngine(dialect=contract.dialect, batched=contract.batch > 1, model=tiny_model)
    with closing(scripted):
        yield Server(contract, scripted.url)


@pytest.fixture
async def case(server: Server) -> AsyncIterator[Case]:
    """An engine as `open_engine` finds it, or as it is loaded in process."""
    async with open_session(connections=8, timeout_s=60.0) as session:
        if isinstance(server.there, str):
            engine = await open_engine(JsonClient(session, server.there), dialect="auto", model="")
        else:
            engine = await server.there()
        yield Case(server.contract, engine)


async def test_the_probe_finds_the_dialect_and_its_batched_route(case: Case) -> None:
    assert (type(case.engine).__name__, case.engine.batch_size) == (case.contract.kind, case.contract.batch)
    assert case.engine.model
    assert await case.engine.ready()


async def test_a_distribution_over_exactly_the_choices(case: Case) -> None:
    """The same each time: alone, and among others."""
    together = await case.engine.choose(QUESTIONS, CHOICES)
    again = await case.engine.choose(QUESTIONS, CHOICES)
    for question, first, second in zip(QUESTIONS, together, again, strict=True):
        (levels,) = _distributions(first)
        assert len(levels) == len(CHOICES)
        assert sum(levels) == pytest.approx(1.0)
        assert min(levels) > 0.0
        (alone,) = await case.engine.choose([question], CHOICES)
        for other in (second, alone):
            assert _distributions(other)[0] == pytest.approx(levels, abs=case.contract.noise)


async def test_answers_come_in_the_order_asked(case: Case) -> None:
    forwards = [_distributions(answer)[0] for answer in await case.engine.choose(QUESTIONS, CHOICES)]
    backwards = [_distributions(answer)[0] for answer in await case.engine.choose(QUESTIONS[::-1], CHOICES)]
    for there, back in zip(forwards, backwards[::-1], strict=True):
        assert there == pytest.approx(back, abs=case.contract.noise)
    assert forwards[0] != pytest.approx(forwards[1], abs=case.contract.noise)


async def test_several_positions_and_the_first_is_the_single_question(case: Case) -> None:
    together = await case.engine.choose(QUESTIONS, CHOICES, positions=3)
    alone = await case.engine.choose(QUESTIONS, CHOICES)
    for answer, single in zip(together, alone, strict=True):
        levels = _distributions(answer)
        assert [len(distribution) for distribution in levels] == [6, 6, 6]
        assert [sum(distribution) for distribution in levels] == pytest.approx([1.0] * 3)
        assert levels[0] == pytest.approx(_distributions(single)[0], abs=case.contract.noise)


async def test_a_conversation_too_long_fails_alone(case: Case) -> None:
    conversations = [QUESTIONS[0], TOO_LONG, QUESTIONS[1]]
    first, failed, last = await case.engine.choose(conversations, CHOICES)
    assert isinstance(failed, UpstreamRefused)
    for answer, question in ((first, QUESTIONS[0]), (last, QUESTIONS[1])):
        (alone,) = await case.engine.choose([question], CHOICES)
        assert _distributions(answer)[0] == pytest.approx(_distributions(alone)[0], abs=case.contract.noise)
    wrote, refused = await case.engine.write([QUESTIONS[0], TOO_LONG], Sampling(max_tokens=4))
    assert isinstance(wrote, EngineAnswer)
    assert isinstance(refused, UpstreamRefused)


async def test_written_text_is_bounded_and_repeatable(case: Case) -> None:
    conversations = [[{"role": "user", "content": f"Why do {who} plant trees?"}] for who in ("cities", "villages")]
    first, again = [await case.engine.write(conversations, Sampling(max_tokens=12)) for _ in range(2)]
    assert [_text(answer).value for answer in first] == [_text(answer).value for answer in again]
    assert all(_text(answer).value for answer in first)
    assert 0 < sum(_text(answer).usage.completion_tokens for answer in first) <= 24


async def test_each_call_is_billed(case: Case) -> None:
    """A batch costs in all what its conversations cost alone."""
    usages = [
        answer.usage for answer in await case.engine.choose(QUESTIONS, CHOICES) if isinstance(answer, EngineAnswer)
    ]
    alone = await asyncio.gather(*(case.engine.choose([question], CHOICES) for question in QUESTIONS))
    bills = [answer.usage for (answer,) in alone if isinstance(answer, EngineAnswer)]
    assert all(usage.judge_calls == 1 and usage.prompt_tokens > 0 for usage in usages)
    assert len(usages) == len(bills) == 3
    for kind in ("judge_calls", "prompt_tokens", "completion_tokens"):
        assert sum(getattr(usage, kind) for usage in usages) == sum(getattr(usage, kind) for usage in bills) > 0


def _distributions(answer: ChoiceResult) -> tuple[Distribution, ...]:
    assert not isinstance(answer, UpstreamError)
    return answer.value


def _text(answer: TextResult) -> EngineAnswer[str]:
    assert isinstance(answer, EngineAnswer)
    return answer
