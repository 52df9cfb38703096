"""A round robin by a judge endpoint: every pair, on every prompt, in both orders."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any, NamedTuple

from services.kit.http.client import JsonEndpoint, UpstreamError
from services.kit.templates import fill, load_template
from services.kit.text.fence import fence
from services.trainer.evaluate.ratings import Game

_LETTERS = {"A": 1.0, "B": 0.0, "T": 0.5}
_TOP = 20
_LEAST_MASS = 0.05
"""A judge that puts less than this on the three letters has not answered the question."""


class Played(NamedTuple):
    """The games, how many answers could not be used, and what the judge was billed."""

    games: tuple[Game, ...]
    unusable: int
    prompt_tokens: int
    completion_tokens: int


class Arbiter:
    """Asks an OpenAI-compatible endpoint which of two responses is better, `in_flight` questions at once."""

    def __init__(self, endpoint: JsonEndpoint, *, model: str, role: str, fence_key: bytes, in_flight: int) -> None:
        self._endpoint = endpoint
        self._model = model
        self._role = role
        self._fence_key = fence_key
        self._slots = asyncio.Semaphore(in_flight)

    async def play(self, prompts: Sequence[str], completions: Mapping[str, Sequence[str]]) -> Played:
        """All pairs on all prompts; one that fails is counted and left out, in its one order alone."""
        asked = [
            (n, first, second) for n in range(len(prompts)) for first, second in permutations(sorted(completions), 2)
        ]
        answers = await asyncio.gather(
            *(self._ask(prompts[n], completions[first][n], completions[second][n]) for n, first, second in asked)
        )
        games = [
            Game(n, first, second, outcome)
            for (n, first, second), (outcome, _) in zip(asked, answers, strict=True)
            if outcome is not None
        ]
        bills = [bill for _, bill in answers]
        tokens = [sum(int(bill.get(name) or 0) for bill in bills) for name in ("prompt_tokens", "completion_tokens")]
        return Played(tuple(games), len(asked) - len(games), tokens[0], tokens[1])

    async def _ask(self, prompt: str, first: str, second: str) -> tuple[float | None, Mapping[str, Any]]:
        shown = {
            label.lower(): fence("TASK" if label == "TASK" else "RESPONSE", text, self._fence_key)
            for label, text in (("TASK", prompt), ("FIRST", first), ("SECOND", second))
        }
        question = fill(load_template("services.trainer.evaluate", "compare"), role=self._role, **shown)
        payload = {
            "model": self._model, "messages": [{"role": "user", "content": question}], "max_tokens": 1,
            "temperature": 0.0, "logprobs": True, "top_logprobs": _TOP,
        }  # fmt: skip
        try:
            async with self._slots:
                reply = await self._endpoint.post("/v1/chat/completions", payload)
        except UpstreamError:
            return None, {}
        return outcome_of(reply), (reply.get("usage") or {}) if isinstance(reply, dict) else {}


def outcome_of(reply: Any) -> float | None:
    """What the first response won: expected over the letters' probabilities; None for an answer that is none."""
    try:
        choice = reply["choices"][0]
        content = (choice.get("logprobs") or {}).get("content") or []
        if content and content[0].get("top_logprobs"):
            told = [(str(e["token"]).strip(), math.exp(float(e["logprob"]))) for e in content[0]["top_logprobs"]]
            masses = [(_LETTERS[token], mass) for token, mass in told if token in _LETTERS]
            total = sum(mass for _, mass in masses)
            return sum(value * mass for value, mass in masses) / total if total >= _LEAST_MASS else None
        return _LETTERS.get(str(choice["message"]["content"]).strip())
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None
