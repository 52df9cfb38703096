"""The stub engine implements the part of vLLM's API that a judge uses."""

import base64
import math
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from benchmarks.score.engine_stub import MODEL, Stub, listen

CONVERSATIONS = [[{"role": "user", "content": f"Grade essay {n}."}] for n in range(16)]
BATCH = {"model": MODEL, "messages": CONVERSATIONS, "max_tokens": 1, "logprobs": True, "top_logprobs": 6}


@pytest.fixture
async def engine() -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a running stub."""
    server = await listen(Stub(delay_ms=0.0))
    port = server.sockets[0].getsockname()[1]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield session
    server.close()


async def post(engine: aiohttp.ClientSession, path: str, body: object) -> dict[str, object]:
    async with engine.post(path, json=body) as response:
        assert response.status == 200
        answer: dict[str, object] = await response.json()
    return answer


async def test_a_batch_has_one_choice_per_conversation_in_order(engine: aiohttp.ClientSession) -> None:
    answer = await post(engine, "/v1/chat/completions/batch", BATCH)
    choices = answer["choices"]
    assert isinstance(choices, list)
    assert [choice["index"] for choice in choices] == list(range(16))
    for choice in choices:
        (position,) = choice["logprobs"]["content"]
        masses = {entry["token"]: math.exp(entry["logprob"]) for entry in position["top_logprobs"]}
        assert sorted(masses) == list("012345")
        assert 0.98 < sum(masses.values()) <= 1.0
        assert choice["message"]["content"] == max(masses, key=lambda token: masses[token])


async def test_choices_differ(engine: aiohttp.ClientSession) -> None:
    choices = (await post(engine, "/v1/chat/completions/batch", BATCH))["choices"]
    assert isinstance(choices, list)
    assert len({str(choice["logprobs"]) for choice in choices}) > 1


async def test_top_logprobs_are_honoured(engine: aiohttp.ClientSession) -> None:
    single = BATCH | {"messages": CONVERSATIONS[0], "top_logprobs": 20}
    choices = (await post(engine, "/v1/chat/completions", single))["choices"]
    assert isinstance(choices, list)
    assert len(choices[0]["logprobs"]["content"][0]["top_logprobs"]) == 20


async def test_logprobs_of_named_token_ids(engine: aiohttp.ClientSession) -> None:
    ids = (await post(engine, "/tokenize", {"model": MODEL, "prompt": "35"}))["tokens"]
    choices = (await post(engine, "/v1/chat/completions/batch", BATCH | {"logprob_token_ids": ids}))["choices"]
    assert isinstance(choices, list)
    top = choices[0]["logprobs"]["content"][0]["top_logprobs"]
    assert sorted(entry["token"] for entry in top) == ["3", "5"]


async def test_it_identifies_as_vllm(engine: aiohttp.ClientSession) -> None:
    async with engine.get("/v1/models") as models, engine.get("/version") as version, engine.get("/props") as props:
        assert (await models.json())["data"][0] == {"id": MODEL, "object": "model", "owned_by": "vllm"}
        assert "version" in await version.json()
        assert props.status == 404
    async with engine.get("/v1/chat/completions/batch") as route:
        assert route.status == 405, "how the service detects the batch route"


async def test_a_batch_must_be_a_list_of_conversations(engine: aiohttp.ClientSession) -> None:
    async with engine.post("/v1/chat/completions/batch", json=BATCH | {"messages": CONVERSATIONS[0]}) as response:
        assert response.status == 400


async def test_the_delay_can_be_set_while_it_runs(engine: aiohttp.ClientSession) -> None:
    async with engine.put("/delay/60") as response:
        assert response.status == 200
    began = time.perf_counter()
    await post(engine, "/v1/chat/completions/batch", BATCH)
    assert time.perf_counter() - began >= 0.06


async def test_it_counts_and_captures_judge_calls(engine: aiohttp.ClientSession) -> None:
    await post(engine, "/v1/chat/completions/batch", BATCH)
    await post(engine, "/v1/chat/completions", BATCH | {"messages": CONVERSATIONS[0]})
    async with engine.get("/judged") as judged:
        assert await judged.json() == 17
    async with engine.get("/captured") as captured:
        calls = await captured.json()
    assert [call["path"] for call in calls] == ["/v1/chat/completions/batch", "/v1/chat/completions"]
    assert b"Grade essay 15." in base64.b64decode(calls[0]["body"])


async def test_a_registered_choice_is_returned_on_its_own_route(engine: aiohttp.ClientSession) -> None:
    message = {"role": "assistant", "content": '{"score": 0.6}'}
    async with engine.put("/say/peer", json={"message": message, "finish_reason": "stop"}) as response:
        assert response.status == 200
    answer = await post(engine, "/say/peer/v1/chat/completions", {"messages": CONVERSATIONS[0]})
    assert answer["choices"] == [{"index": 0, "message": message, "finish_reason": "stop"}]
    async with engine.get("/judged") as judged:
        assert await judged.json() == 0
