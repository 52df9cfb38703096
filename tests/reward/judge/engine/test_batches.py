"""vLLM's batched route: one request for many conversations, one error for one of them, a bill that adds up."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing

import httpx
import pytest

from services.kit.http.client import JsonClient, open_session
from services.kit.http.errors import UpstreamMalformed, UpstreamRefused, UpstreamUnavailable
from services.reward.judge.engine.base import ChatMessages, EngineAnswer, Sampling
from services.reward.judge.engine.vllm import VllmEngine, divide
from tests.conftest import StartReward
from tests.support.builders import TASK, item
from tests.support.fake_engine import FakeEngine, Messages, Reply, chat, distribution
from tests.support.tiny_model import tiny_model
from tests.support.waiting import until

CHOICES = tuple("012345")
CONVERSATIONS: tuple[ChatMessages, ...] = tuple([{"role": "user", "content": "word " * n}] for n in (1, 20, 5))


@pytest.fixture
def vllm() -> Iterator[FakeEngine]:
    """A scripted vLLM with the batched route."""
    with closing(FakeEngine(dialect="vllm")) as engine:
        yield engine


async def _choose(
    vllm: FakeEngine, conversations: Sequence[ChatMessages] = CONVERSATIONS, *, retries: int = 0
) -> list[object]:
    async with open_session(connections=4, timeout_s=60.0) as session:
        json_client = JsonClient(session, vllm.url, retries=retries, backoff_s=0.001)
        return list(await VllmEngine(json_client, "m", batch_size=64).choose(conversations, CHOICES))


async def test_many_conversations_are_one_request(vllm: FakeEngine) -> None:
    vllm.script = lambda messages: distribution(_towards(messages), dialect="vllm")
    answers = await _choose(vllm)
    assert len(vllm.payloads) == 1
    assert [list(messages) for messages in vllm.payloads[0]["messages"]] == [
        list(conversation) for conversation in CONVERSATIONS
    ]
    for answer, conversation in zip(answers, CONVERSATIONS, strict=True):
        assert isinstance(answer, EngineAnswer)
        assert answer.value[0] == pytest.approx(_towards(conversation))


async def test_one_conversation_goes_alone(vllm: FakeEngine) -> None:
    vllm.script = lambda _: distribution([1 / 6] * 6, dialect="vllm")
    await _choose(vllm, CONVERSATIONS[:1])
    assert vllm.payloads[0]["messages"] == list(CONVERSATIONS[0])


async def test_text_is_written_in_batches_too(vllm: FakeEngine) -> None:
    vllm.script = lambda messages: chat(f"as to {len(messages[0]['content'])}")
    async with open_session(connections=4, timeout_s=60.0) as session:
        engine = VllmEngine(JsonClient(session, vllm.url), "m", batch_size=64)
        answers = await engine.write(CONVERSATIONS, Sampling(max_tokens=9, temperature=0.5, seed=3))
    assert [answer.value for answer in answers if isinstance(answer, EngineAnswer)] == [
        "as to 5",
        "as to 100",
        "as to 25",
    ]
    (payload,) = vllm.payloads
    assert (payload["max_tokens"], payload["temperature"], payload["seed"]) == (9, 0.5, 3)


async def test_the_constraint_is_asked_for_in_vllms_words(vllm: FakeEngine) -> None:
    vllm.script = lambda _: distribution([1 / 6] * 6, [1 / 6] * 6, dialect="vllm")
    async with open_session(connections=4, timeout_s=60.0) as session:
        engine = VllmEngine(JsonClient(session, vllm.url), "m", batch_size=64)
        await engine.choose(CONVERSATIONS[:1], CHOICES)
        await engine.choose(CONVERSATIONS[:1], CHOICES, positions=2)
    one, two = vllm.payloads
    assert one["structured_outputs"] == {"choice": list(CHOICES)}
    assert two["structured_outputs"] == {"regex": r"(0|1|2|3|4|5)\n(0|1|2|3|4|5)"}
    assert (one["max_tokens"], two["max_tokens"]) == (1, 3)
    assert (one["repetition_penalty"], one["top_p"], one["top_k"], one["min_p"]) == (1.0, 1.0, -1, 0.0)


async def test_a_batch_refused_is_asked_one_by_one_so_that_the_guilty_fails_alone(vllm: FakeEngine) -> None:
    vllm.script = lambda m: (
        Reply({}, status=400) if len(m[0]["content"]) > 50 else distribution([1 / 6] * 6, dialect="vllm")
    )
    answers = await _choose(vllm, retries=3)
    assert [type(answer) for answer in answers] == [EngineAnswer, UpstreamRefused, EngineAnswer]
    assert len(vllm.payloads) == 4, "one for all, then one each, and none again"


@pytest.mark.parametrize("failure", [Reply(status=500), Reply(status=503), Reply(hang=True)], ids=lambda r: r.status)
async def test_a_batch_that_fails_is_tried_again_as_a_whole(vllm: FakeEngine, failure: Reply) -> None:
    vllm.script = lambda _: failure
    async with open_session(connections=4, timeout_s=0.3) as session:
        json_client = JsonClient(session, vllm.url, retries=2, backoff_s=0.001)
        answers = await VllmEngine(json_client, "m", batch_size=64).choose(CONVERSATIONS, CHOICES)
    assert [type(answer) for answer in answers] == [UpstreamUnavailable] * 3
    assert [len(payload["messages"]) for payload in vllm.payloads] == [3, 3, 3]


async def test_a_batch_weighs_as_much_as_its_conversations(vllm: FakeEngine) -> None:
    with closing(FakeEngine(dialect="vllm")) as other:
        vllm.hold()
        other.hold()
        async with open_session(connections=9, timeout_s=60.0) as session:
            engine = VllmEngine(JsonClient(session, f"{vllm.url},{other.url}", retries=0), "m", batch_size=64)
            batch = asyncio.create_task(engine.choose(CONVERSATIONS, CHOICES))
            await until(lambda: bool(vllm.calls or other.calls), "the batch")
            busy, idle = (vllm, other) if vllm.calls else (other, vllm)
            singles = [asyncio.create_task(engine.choose(CONVERSATIONS[:1], CHOICES)) for _ in range(3)]
            await until(lambda: len(vllm.calls) + len(other.calls) == 6, "the single calls")
            assert (len(busy.payloads), len(idle.payloads)) == (1, 3)
            vllm.release()
            other.release()
            await asyncio.gather(batch, *singles)


async def test_one_choice_that_is_no_distribution_is_an_error_in_its_place(vllm: FakeEngine) -> None:
    def answer(messages: Messages) -> Reply:
        return chat("5") if len(messages[0]["content"]) > 50 else distribution([1 / 6] * 6, dialect="vllm")

    vllm.script = answer
    assert [type(answer) for answer in await _choose(vllm)] == [EngineAnswer, UpstreamMalformed, EngineAnswer]


BATCHES = {
    "not an object": [],
    "no choices": {"usage": {}},
    "a choice too few": {"choices": [{"index": 0, "message": {"content": "1"}}]},
    "the same choice twice": {"choices": [{"index": 0, "message": {"content": "1"}}] * 3},
    "usage is text": {"choices": [{"index": n, "message": {"content": "1"}} for n in range(3)], "usage": "much"},
}


@pytest.mark.parametrize("body", BATCHES.values(), ids=BATCHES)
async def test_an_answer_that_is_no_batch_is_an_error_for_all(vllm: FakeEngine, body: object) -> None:
    vllm.together = lambda _: Reply(body)
    assert [type(answer) for answer in await _choose(vllm)] == [UpstreamMalformed] * 3


async def test_choices_are_told_apart_by_their_index(vllm: FakeEngine) -> None:
    def backwards(replies: Sequence[Reply]) -> Reply:
        choices = [reply.body["choices"][0] | {"index": n} for n, reply in enumerate(replies)]
        return Reply(replies[0].body | {"choices": choices[::-1]})

    vllm.script = lambda messages: distribution(_towards(messages), dialect="vllm")
    vllm.together = backwards
    for answer, conversation in zip(await _choose(vllm), CONVERSATIONS, strict=True):
        assert isinstance(answer, EngineAnswer)
        assert answer.value[0] == pytest.approx(_towards(conversation))


async def test_the_bill_of_a_batch_adds_up() -> None:
    with closing(FakeEngine(dialect="vllm", model=tiny_model)) as vllm:
        answers = await _choose(vllm)
    usages = [answer.usage for answer in answers if isinstance(answer, EngineAnswer)]
    assert [usage.judge_calls for usage in usages] == [1, 1, 1]
    # `tiny_model` counts the words of the conversation as JSON
    assert sum(usage.prompt_tokens for usage in usages) == (1 + 20 + 5) + 3 * 4
    assert usages[0].prompt_tokens < usages[2].prompt_tokens < usages[1].prompt_tokens
    assert [usage.completion_tokens for usage in usages] == [1, 1, 1]


@pytest.mark.parametrize(
    ("total", "weights", "shares"),
    [(10, [0, 0], [5, 5]), (3, [1, 1], [1, 2]), (0, [4, 5], [0, 0]), (9, [8], [9]), (30, [9, 19], [10, 20])],
)
def test_shares_add_up(total: int, weights: list[int], shares: list[int]) -> None:
    assert divide(total, weights) == shares
    assert sum(shares) == total


def _towards(messages: Messages | ChatMessages) -> list[float]:
    """A distribution that tells the conversations apart."""
    level = len(messages[0]["content"]) % 6
    return [0.5 if n == level else 0.1 for n in range(6)]


def test_an_engine_that_fails_is_one_line_a_request(
    start_reward: StartReward, vllm: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one an item, let alone one whenever an item's error is looked at: an outage must not flood the log."""
    vllm.script = lambda _: Reply(status=503)
    service = start_reward(bootstrap_tasks=[TASK], judge_url=vllm.url, judge_retries=0)
    response = httpx.post(f"{service.url}/score", json={"task": TASK, "items": [item(n) for n in range(4)]})
    assert response.status_code == 503
    assert [record.__dict__["conversations"] for record in caplog.records if "call failed" in record.msg] == [4]
