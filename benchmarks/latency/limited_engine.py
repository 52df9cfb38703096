"""An engine of limited capacity: the stub, with so many slots that each take so long for a conversation.

What comes while all slots are taken waits for the first that is free, as with a real server; so a conversation that
somebody else has begun is felt. It is meta-judge, too: a question with a JSON schema is answered by what fits it, by
other criteria each time, so that no candidate's scores are known beforehand.
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

_TURNS = count(1)
_SCHEMA = b'"json_schema"'
_WORDS = ("support", "order", "voice", "detail", "contrast", "economy", "balance", "purpose")


def _criteria() -> dict[str, Any]:
    turn = next(_TURNS)
    about = f"{_WORDS[turn % len(_WORDS)]} {turn:x}"
    levels = [f"It shows {amount} {about}." for amount in ("no", "hardly any", "some", "fair", "much", "telling")]
    described = f"The response has {about} where a reader looks for it."
    return {"criteria": [{"name": about.title(), "fault": False, "description": described, "levels": levels}]}


def _reply(name: str) -> dict[str, Any]:
    if name == "prescreen":
        return {"verdict": "bad"}
    if name == "analyse":
        return {"inflated": True, "missing": "It asks for no support.", "fault": "It lets padding pass."}
    return {"levels": _criteria()["criteria"][0]["levels"]} if name == "tighten" else _criteria()


class LimitedEngine(Stub):
    """`slots` conversations at once, each of which takes `service_ms`. Meta-judge calls take a slot, too."""

    def __init__(self, slots: int, service_ms: float) -> None:
        super().__init__(0.0)
        self._service_s = service_ms / 1_000.0
        self._free_at = [0.0] * slots

    def answer(self, method: bytes, path: bytes, body: bytes) -> tuple[bytes | None, float]:
        """The stub's answer, when a slot has had the time for it."""
        if method == b"POST" and path == b"/v1/chat/completions" and _SCHEMA in body:
            name = json.loads(body)["response_format"]["json_schema"]["name"]
            told = {"choices": [{"index": 0, "message": {"role": "assistant", "content": json.dumps(_reply(name))}}]}
            return json.dumps(told).encode(), self._served(1)
        before = self.judged
        made, delay_s = super().answer(method, path, body)
        conversations = self.judged - before
        return made, self._served(conversations) if conversations else delay_s

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
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--service-ms", type=float, default=50.0)
    uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
