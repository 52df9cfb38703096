"""An engine of limited capacity: the stub with a number of slots, each of which takes a fixed time per conversation.

A conversation waits while all slots are busy, as on a real server, so that clients affect each other. It also serves
as a meta-judge: a request with a JSON schema is answered by a valid object, with new criteria each time, so that no
candidate's scores are cached.
"""

import argparse
import heapq
import json
import time
from itertools import count
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.score.engine_stub import Stub, listen

_NUMBERS = count(1)
_SCHEMA = b'"json_schema"'
_WORDS = ("support", "order", "voice", "detail", "contrast", "economy", "balance", "purpose")


def _criteria() -> dict[str, Any]:
    number = next(_NUMBERS)
    quality = f"{_WORDS[number % len(_WORDS)]} {number:x}"
    levels = [f"It shows {amount} {quality}." for amount in ("no", "hardly any", "some", "fair", "much", "telling")]
    description = f"The response has {quality} where a reader looks for it."
    return {"criteria": [{"name": quality.title(), "fault": False, "description": description, "levels": levels}]}


def _reply(name: str) -> dict[str, Any]:
    if name == "prescreen":
        return {"verdict": "bad"}
    if name == "analyse":
        return {"inflated": True, "missing": "It asks for no support.", "fault": "It lets padding pass."}
    return {"levels": _criteria()["criteria"][0]["levels"]} if name == "tighten" else _criteria()


class LimitedEngine(Stub):
    """`slots` concurrent conversations, each of which takes `service_ms`; so do meta-judge calls."""

    def __init__(self, slots: int, service_ms: float) -> None:
        super().__init__(0.0)
        self._service_s = service_ms / 1_000.0
        self._free_at = [0.0] * slots

    def answer(self, method: bytes, path: bytes, body: bytes) -> tuple[bytes | None, float]:
        """The stub's response, delayed until a slot has served it."""
        if method == b"POST" and path == b"/v1/chat/completions" and _SCHEMA in body:
            name = json.loads(body)["response_format"]["json_schema"]["name"]
            reply = {"choices": [{"index": 0, "message": {"role": "assistant", "content": json.dumps(_reply(name))}}]}
            return json.dumps(reply).encode(), self._served(1)
        before = self.judged
        response, delay_s = super().answer(method, path, body)
        conversations = self.judged - before
        return response, self._served(conversations) if conversations else delay_s

    def _served(self, conversations: int) -> float:
        """Seconds until the last of these conversations has been served."""
        now, done = time.monotonic(), 0.0
        for _ in range(conversations):
            done = max(now, heapq.heappop(self._free_at)) + self._service_s
            heapq.heappush(self._free_at, done)
        return done - now


async def _serve(args: argparse.Namespace) -> None:
    server = await listen(LimitedEngine(args.slots, args.service_ms))
    args.port_file.write_text(str(server.sockets[0].getsockname()[1]), encoding="utf-8")
    await server.serve_forever()


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port-file", type=Path, required=True, help="file to write the port to")
    parser.add_argument("--slots", type=int, default=8, help="concurrent conversations")
    parser.add_argument("--service-ms", type=float, default=50.0, help="time per conversation")
    uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
