"""Whether an engine refuses a conversation, or every conversation.

A refusal (400, 413, 422) may be about one text, which is too long for the model or against a policy of its provider; or
about what all requests have in common: a parameter, the model's name, roles that its template does not know. A control
question, which has the same parameters and roles and harmless content, tells the two apart.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from services.kit.http.errors import UpstreamDenied, UpstreamError, UpstreamRefused
from services.reward.judge.engine.base import ChatMessages

_ANSWERED_FOR_S = 30.0
"""For so long after an answer, refusals of requests with the same parameters are about their content."""
_CONTENT = "Answer with the digit 3."

Ask = Callable[[Mapping[str, Any], ChatMessages], Awaitable[object]]


class ControlQuestions:
    """The control questions of one engine: one at a time for each set of parameters and roles."""

    def __init__(self, ask: Ask) -> None:
        """`ask` sends a conversation with parameters, and raises `UpstreamError`."""
        self._ask = ask
        self._answered: dict[bytes, float] = {}
        self._pending: dict[bytes, asyncio.Task[UpstreamDenied | None]] = {}

    def note_answer(self, payload: Mapping[str, Any], messages: ChatMessages) -> None:
        """Note that a conversation with these parameters was answered."""
        self._answered[_kind(payload, messages)] = asyncio.get_running_loop().time()

    async def denial(self, payload: Mapping[str, Any], messages: ChatMessages) -> UpstreamDenied | None:
        """The error of an engine that refuses the control question too; None if the conversation is the cause."""
        kind = _kind(payload, messages)
        now = asyncio.get_running_loop().time()
        if now - self._answered.get(kind, float("-inf")) < _ANSWERED_FOR_S:
            return None
        task = self._pending.get(kind)
        if task is None:
            task = self._pending[kind] = asyncio.create_task(self._examine(payload, messages))
            task.add_done_callback(lambda _: self._pending.pop(kind, None))
        return await asyncio.shield(task)

    async def _examine(self, payload: Mapping[str, Any], messages: ChatMessages) -> UpstreamDenied | None:
        control = [{"role": message["role"], "content": _CONTENT} for message in messages]
        try:
            await self._ask(payload, control)
        except UpstreamRefused as error:
            return UpstreamDenied(f"the judge refuses every request: {error}", error.status)
        except UpstreamDenied as error:
            return error
        except UpstreamError:
            return None
        self.note_answer(payload, messages)
        return None


CONTROL: ChatMessages = ({"role": "system", "content": _CONTENT}, {"role": "user", "content": _CONTENT})
"""A conversation with the roles of the judge's."""


def _kind(payload: Mapping[str, Any], messages: ChatMessages) -> bytes:
    return msgspec.json.encode([payload, [message["role"] for message in messages]], order="deterministic")
