"""A round-robin tournament judged by an LLM: every pair of policies, on every prompt, in both orders."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any, NamedTuple

from services.kit.http.client import JsonClient
from services.kit.http.errors import UpstreamError
from services.kit.templates import fill, load_template
from services.kit.text.fence import fence
from services.trainer.evaluate.ratings import Game

_OUTCOMES = {"A": 1.0, "B": 0.0, "T": 0.5}
_TOP_LOGPROBS = 20
"""The most that OpenAI-compatible endpoints return."""
_MIN_MASS = 0.05
"""With less probability than this on the three letters, the judge has not answered the question."""


class TournamentResult(NamedTuple):
    """The games, the number of unusable judge answers, and the judge's token usage."""

    games: tuple[Game, ...]
    unusable: int
    prompt_tokens: int
    completion_tokens: int


class PairwiseJudge:
    """Asks an OpenAI-compatible endpoint which of two responses is better, with `in_flight` concurrent requests."""

    def __init__(self, client: JsonClient, *, model: str, role: str, fence_key: bytes, in_flight: int) -> None:
        self._client = client
        self._model = model
        self._role = role
        self._fence_key = fence_key
        self._slots = asyncio.Semaphore(in_flight)

    async def play(self, prompts: Sequence[str], completions: Mapping[str, Sequence[str]]) -> TournamentResult:
        """Judge all pairs on all prompts; a failed request drops its game and counts as unusable."""
        pairings = [
            (n, first, second) for n in range(len(prompts)) for first, second in permutations(sorted(completions), 2)
        ]
        answers = await asyncio.gather(
            *(self._compare(prompts[n], completions[first][n], completions[second][n]) for n, first, second in pairings)
        )
        games = [
            Game(*pairing, outcome)
            for pairing, (outcome, _) in zip(pairings, answers, strict=True)
            if outcome is not None
        ]
        prompt_tokens, completion_tokens = (
            sum(int(usage.get(name) or 0) for _, usage in answers) for name in ("prompt_tokens", "completion_tokens")
        )
        return TournamentResult(tuple(games), len(pairings) - len(games), prompt_tokens, completion_tokens)

    async def _compare(self, prompt: str, first: str, second: str) -> tuple[float | None, Mapping[str, Any]]:
        """The outcome for the first response, None if unusable, and the token usage."""
        texts = {
            "task": fence("TASK", prompt, self._fence_key),
            "first": fence("RESPONSE", first, self._fence_key),
            "second": fence("RESPONSE", second, self._fence_key),
        }
        question = fill(load_template("services.trainer.evaluate", "compare"), role=self._role, **texts)
        payload = {
            "model": self._model, "messages": [{"role": "user", "content": question}], "max_tokens": 1,
            "temperature": 0.0, "logprobs": True, "top_logprobs": _TOP_LOGPROBS,
        }  # fmt: skip
        try:
            async with self._slots:
                reply = await self._client.post("/v1/chat/completions", payload)
        except UpstreamError:
            return None, {}
        return outcome_of(reply), (reply.get("usage") or {}) if isinstance(reply, dict) else {}


def outcome_of(reply: Any) -> float | None:
    """The first response's expected outcome over the letters' probabilities; None for an unusable reply.

    Without log-probabilities, the outcome of the letter in the message.
    """
    try:
        choice = reply["choices"][0]
        content = (choice.get("logprobs") or {}).get("content") or []
        if content and content[0].get("top_logprobs"):
            tokens = [(str(e["token"]).strip(), math.exp(float(e["logprob"]))) for e in content[0]["top_logprobs"]]
            masses = [(_OUTCOMES[token], mass) for token, mass in tokens if token in _OUTCOMES]
            total = sum(mass for _, mass in masses)
            return sum(value * mass for value, mass in masses) / total if total >= _MIN_MASS else None
        return _OUTCOMES.get(str(choice["message"]["content"]).strip())
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None
