"""The meta-judge: one question, one answer bound to a schema. A model that can't produce it raises, nothing more."""

import asyncio
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from services.kit.http import JsonEndpoint, UpstreamMalformed
from services.kit.template import fill, load_template

_SAMPLING = {"temperature": 0.7, "top_p": 0.95}

Answer = TypeVar("Answer", bound=BaseModel)


class MetaJudge:
    """Asks an OpenAI-compatible endpoint for JSON of a given schema, `in_flight` questions at once."""

    def __init__(
        self, endpoint: JsonEndpoint, *, model: str, max_tokens: int, in_flight: int, fence_key: bytes
    ) -> None:
        self._endpoint = endpoint
        self._model = model
        self._max_tokens = max_tokens
        self._slots = asyncio.Semaphore(in_flight)
        self.fence_key = fence_key

    async def ask(self, question: str, answer: type[Answer], **values: str) -> Answer:
        """Fill the prompt file `question` and parse the reply as `answer`.

        Raises `UpstreamMalformed` for a reply that does not fit the schema, `UpstreamError` for none.
        """
        prompt = fill(load_template("services.meta_reward", question), **values)
        payload: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self._max_tokens,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": question, "strict": True, "schema": answer.model_json_schema()},
            },
            **_SAMPLING,
        }
        async with self._slots:
            reply = await self._endpoint.post("/v1/chat/completions", payload)
        try:
            return answer.model_validate_json(reply["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError, ValidationError) as error:
            raise UpstreamMalformed(f"{question}: the reply does not fit its schema") from error
