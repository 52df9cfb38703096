"""I4: what the judge's own tokenizer takes for a special token is respelt, whatever its name."""

import httpx
import pytest

from regrade import BlockingRewardClient
from regrade.contracts import Mode
from services.kit.http.client import JsonClient, open_session
from services.reward.judge.engine.base import Engine
from services.reward.judge.engine.discovery import open_engine
from services.reward.judge.special_tokens import respelt_texts
from tests.conftest import StartReward
from tests.support.builders import TASK, item
from tests.support.fake_engine import FakeEngine, by_text, chat

NEW = frozenset({"<role>", "<longcat_user>", "[control_417]", "<start_of_audio>", "<@@new>"})
HONEST = "A <div> and a List<int>, see [1] and [ref]; a<b and c>d."


def test_i4_tokens_of_a_new_model_reach_no_prompt(start_reward: StartReward, fake_engine: FakeEngine) -> None:
    fake_engine.special = NEW
    service = start_reward(bootstrap_tasks=[TASK])
    hostile = f"{HONEST} " + " ".join(f"Fine.{token}x" for token in sorted(NEW))
    with BlockingRewardClient(service.url) as client:
        items = [item(1, prompt=hostile, completion=hostile), item(2, completion=HONEST)]
        spoilt, honest = client.score(TASK, items, run="r", step=1).results
    sent = [message["content"] for messages in fake_engine.calls for message in messages]
    assert not [token for token in NEW for text in sent if token in text]
    assert any("\u2039role\u203a" in text for text in sent)
    assert any(HONEST in text for text in sent), "other brackets stay"
    assert "control_tokens" in spoilt.flags
    assert "control_tokens" not in honest.flags


def test_i4_nor_by_way_of_what_the_judge_wrote(start_reward: StartReward, fake_engine: FakeEngine) -> None:
    fake_engine.special = NEW
    fake_engine._model = lambda turns, payload: by_text(turns) if payload.get("logprobs") else chat("So <role> it")
    service = start_reward(bootstrap_tasks=[TASK])
    for mode in (Mode.REASONED, Mode.PLANNED):
        with BlockingRewardClient(service.url) as client:
            client.score(TASK, [item(1)], run=mode.value, step=1, mode=mode)
    sent = [message["content"] for messages in fake_engine.calls for message in messages]
    assert any("So \u2039role\u203a it" in text for text in sent)
    assert not [text for text in sent if "<role>" in text]


async def test_a_flood_of_candidates_costs_no_question_and_hides_none(fake_engine: FakeEngine) -> None:
    fake_engine.special = NEW
    flood = " ".join(f"<x{n}>" for n in range(20_000)) + " <role>"
    async with open_session(connections=2, timeout_s=60.0) as session:
        engine = await open_engine(JsonClient(session, fake_engine.url), dialect="auto", model="")
        texts = await respelt_texts(engine, [flood, "<role> <p>", f"<a[control_417]b> {HONEST}"])
        assert "<" not in texts[0]
        assert texts[1:] == ["\u2039role\u203a <p>", f"<a\u27e6control_417\u27e7b> {HONEST}"]
        many = [" ".join(f"<y{n}{m}>" for n in range(400)) + " <role>" for m in "abcdefghijklmnopqrstuvwxyz" * 2]
        assert not [text for text in await respelt_texts(engine, many) if "<role>" in text]
        fake_engine.stop()
        assert await respelt_texts(engine, ["<never> seen"]) == ["\u2039never\u203a seen"], "in doubt, respelt"


@pytest.mark.engine
async def test_i4_llamacpp_tells_its_special_tokens(engine_url: str) -> None:
    async with open_session(connections=2, timeout_s=60.0) as session:
        engine: Engine = await open_engine(JsonClient(session, engine_url), dialect="auto", model="")
        special = await engine.special_tokens(["<repo_name>", "<div>", "<role>", "[1]", "<file_sep>", "<|im_end|>"])
        text = "see <repo_name> and <div>"
        (respelt,) = await respelt_texts(engine, [text])
    assert special == {"<repo_name>", "<file_sep>", "<|im_end|>"}
    before, after, (token,) = [_tokens(engine_url, content) for content in (text, respelt, "<repo_name>")]
    assert token in before
    assert token not in after


def _tokens(engine_url: str, content: str) -> list[int]:
    body = {"content": content, "parse_special": True}
    return list(httpx.post(f"{engine_url}/tokenize", json=body, timeout=60.0).json()["tokens"])
