"""The paper's reward procedure as a client of the engine: the requests of its reference code, in its order.

The response precedes the rubric; for each criterion, a rationale and then a score are generated in consecutive calls
(arXiv 2504.20157, `mpo`). In the paper's favour, all responses of a batch are judged concurrently, the score is one
constrained token, and the criteria of a response share the prefix that ends with the response.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp

from regrade.contracts import LEVELS, LlmCriterion, Rubric
from tests.support.recording_proxy import Conversation
from tests.support.texts import Group

_ROLE = "You are an experienced English instructor. You evaluate the response of a student to a task."
_CHOICES = [str(level) for level in LEVELS]


class PaperFlow:
    """Judges groups; rationales have exactly `tokens` tokens. `conversations` holds all requests."""

    def __init__(self, url: str, model: str, rubric: Rubric, tokens: int) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._model = model
        self._criteria = rubric.llm_criteria
        self._tokens = tokens
        self.conversations: list[Conversation] = []

    async def judge(self, groups: Sequence[Group]) -> list[float]:
        """The reward of every response, in order. Raises `RuntimeError` when a call fails."""
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        ) as session:
            return list(
                await asyncio.gather(*(self._reward(session, g.prompt, text) for g in groups for text in g.completions))
            )

    async def _reward(self, session: aiohttp.ClientSession, prompt: str, response: str) -> float:
        levels = [await self._level(session, prompt, response, criterion) for criterion in self._criteria]
        return sum(levels) / len(levels) / LEVELS[-1]

    async def _level(self, session: aiohttp.ClientSession, prompt: str, response: str, criterion: LlmCriterion) -> int:
        question = [
            {"role": "system", "content": _ROLE},
            {"role": "user", "content": _question(prompt, response, criterion)},
        ]
        exact_length = {"max_tokens": self._tokens, "min_tokens": self._tokens, "ignore_eos": True}
        rationale = await self._ask(session, question, exact_length)
        scoring = [
            *question,
            {"role": "assistant", "content": rationale},
            {"role": "user", "content": "Now give the score, from 0 to 5, and nothing else."},
        ]
        return int(await self._ask(session, scoring, {"max_tokens": 1, "structured_outputs": {"choice": _CHOICES}}))

    async def _ask(self, session: aiohttp.ClientSession, messages: Conversation, options: dict[str, Any]) -> str:
        self.conversations.append(messages)
        body = {"model": self._model, "messages": messages, "temperature": 0.0} | options
        async with session.post(self._url, json=body) as http_response:
            reply = await http_response.json()
            if http_response.status != 200:
                raise RuntimeError(f"the engine answered {http_response.status}: {reply}")
        return str(reply["choices"][0]["message"]["content"])


def _question(prompt: str, response: str, criterion: LlmCriterion) -> str:
    levels = "\n".join(f"{level}: {text}" for level, text in enumerate(criterion.levels))
    return (
        f"Task:\n{prompt}\n\nResponse:\n{response}\n\n"
        f"Criterion: {criterion.name}\n{criterion.description}\n{levels}\n\n"
        "Write a rationale: how well does the response meet this criterion?"
    )
