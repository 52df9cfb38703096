"""A model of a few tokens for the scripted engine: it obeys a request's constraint, in each dialect's words.

Without a constraint part of the mass lies on words, as with a real model; so a dialect that forgets to
ask for its constraint, or asks in the wrong words, fails the contract.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from tests.support.fake_engine import Messages, Reply, chat

LONGEST = 4_000
"""Characters of a conversation; a longer one is refused."""

_DIGITS = tuple("0123456789")
_WORDS = ("The", "Good", "I", "Yes")
_PROSE = "cities plant trees because shade is cool and water stays in the ground where roots hold it"


def tiny_model(messages: Messages, payload: Mapping[str, Any]) -> Reply:
    """What this model answers a chat request, whatever the dialect."""
    text = json.dumps(list(messages))
    if len(text) > LONGEST:
        return Reply({"error": {"message": "this model's maximum context length is exceeded"}}, status=400)
    if not payload.get("logprobs"):
        return _written(text, payload)
    lines = (payload["max_tokens"] + 1) // 2
    allowed = _allowed(payload, lines)
    positions: list[dict[str, Any]] = []
    for line in range(lines):
        level = _position(_masses(f"{line}{text}", allowed), payload)
        positions += [level] if line == 0 else [_position({"\n": 1.0}, payload), level]
    return _billed(chat("".join(position["token"] for position in positions), *positions), text, len(positions))


def _written(text: str, payload: Mapping[str, Any]) -> Reply:
    words = _PROSE.split()[_seed(text)[0] % 4 :][: payload["max_tokens"]]
    return _billed(chat(" ".join(words)), text, len(words))


def _billed(reply: Reply, text: str, completion: int) -> Reply:
    return Reply(reply.body | {"usage": {"prompt_tokens": len(text.split()), "completion_tokens": completion}})


def _allowed(payload: Mapping[str, Any], lines: int) -> tuple[str, ...]:
    """The tokens that the request's constraint leaves; the words too, when it has none of its dialect."""
    if "grammar" in payload:
        choices = re.findall(r'"(\d)"', payload["grammar"])
        biased = [token for token, bias in payload.get("logit_bias", ()) if bias > 0]
        return tuple(choices) if biased == choices and payload.get("post_sampling_probs") else (*choices, *_WORDS)
    outputs = payload.get("structured_outputs") or {}
    if "choice" in outputs and lines == 1:
        return tuple(outputs["choice"])
    pattern = outputs.get("regex") or payload.get("regex")
    free = (*_DIGITS, *_WORDS)
    if pattern is None:
        return free
    return tuple(token for token in free if re.fullmatch(pattern, "\n".join([token] * lines)))


def _masses(seed: str, allowed: tuple[str, ...]) -> dict[str, float]:
    """Fixed by the text, and in the same ratios whatever else is allowed."""
    masses = {token: 1.0 + _seed(seed + token)[0] for token in allowed}
    return {token: mass / sum(masses.values()) for token, mass in masses.items()}


def _position(masses: Mapping[str, float], payload: Mapping[str, Any]) -> dict[str, Any]:
    best = max((token for token in masses if token not in _WORDS), key=lambda token: masses[token])
    if payload.get("post_sampling_probs"):
        return {"token": best, "prob": masses[best], "top_probs": [{"token": t, "prob": m} for t, m in masses.items()]}
    logs = [{"token": token, "logprob": math.log(mass)} for token, mass in masses.items()]
    top = sorted(logs, key=lambda entry: -float(str(entry["logprob"])))[: payload["top_logprobs"]]
    return {"token": best, "logprob": math.log(masses[best]), "top_logprobs": top}


def _seed(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
