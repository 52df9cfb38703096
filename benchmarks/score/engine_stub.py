"""A stub engine with negligible cost, so that a benchmark measures the client and not the engine.

It implements the part of vLLM's API that a judge uses, and answers after a configurable delay:

    GET  /v1/models, /version, /health        as vLLM does
    POST /tokenize                            one token per character: its code point
    POST /v1/chat/completions                 one choice, with log-probabilities on the digits 0 to 5
    POST /v1/chat/completions/batch           `messages` is a list of conversations; one choice per conversation
    POST /say/NAME/v1/chat/completions        the choice registered under NAME

and, for the benchmark itself:

    PUT  /say/NAME                            register the body as the choice of NAME
    PUT  /delay/MS                            delay the answers to later requests by MS milliseconds
    GET  /captured                            the last judge calls, as {"path", "body"}; reading clears them
    GET  /judged                              number of conversations in judge calls so far

No web framework and no request object: it answers with bytes that are prepared in advance.
"""

import argparse
import asyncio
import base64
import json
import re
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, cast

import uvloop

MODEL = "stub-judge"
VERSION = "0.32.0"

_DIGITS = tuple("012345")
_OTHERS = tuple(chr(code) for code in range(ord("A"), ord("A") + 40))
_LOGPROBS = (
    (-4.24, -3.14, -1.94, -0.64, -1.44, -3.74),
    (-5.03, -3.93, -2.43, -1.13, -0.73, -2.63),
    (-2.16, -0.86, -1.16, -2.26, -3.56, -5.06),
    (-6.28, -4.78, -2.98, -1.58, -0.88, -1.18),
)
"""Of distributions whose sum is 0.99: with those of the other tokens it stays below 1."""
_OTHER_LOGPROB = -14.5
_PROMPT_TOKENS, _CACHED_TOKENS = 900, 512
_TOP = re.compile(rb'"top_logprobs"\s*:\s*(\d+)')
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
_TURNS = count()


@lru_cache(maxsize=64)
def _tails(tokens: tuple[str, ...]) -> tuple[bytes, ...]:
    """A choice's JSON after its index, for each of a few distributions over `tokens`."""
    tails = []
    for logprobs in _LOGPROBS:
        known = dict(zip(_DIGITS, logprobs, strict=True))
        top = sorted(((known.get(token, _OTHER_LOGPROB), token) for token in tokens), reverse=True)
        entries = [{"token": token, "logprob": value, "bytes": list(token.encode())} for value, token in top]
        choice = {
            "message": {"role": "assistant", "content": top[0][1], "refusal": None, "tool_calls": []},
            "logprobs": {"content": [entries[0] | {"top_logprobs": entries}]},
            "finish_reason": "length",
            "stop_reason": None,
            "token_ids": None,
        }
        tails.append(_json(choice)[1:])
    return tuple(tails)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _tokens(top: int | None, token_ids: list[int] | None) -> tuple[str, ...]:
    """The tokens with log-probabilities in a choice: those of `token_ids`, or the `top` first, digits before others."""
    if token_ids:
        return tuple(chr(code) for code in token_ids)
    return (_DIGITS + _OTHERS)[: max(1, top if top is not None else len(_DIGITS))]


@lru_cache(maxsize=256)
def _head_and_tail(calls: int) -> tuple[bytes, bytes]:
    """The JSON before and after the choices of a completion with this many conversations."""
    head = {"id": "chatcmpl-stub", "object": "chat.completion", "created": 1_700_000_000, "model": MODEL}
    usage = {
        "prompt_tokens": _PROMPT_TOKENS * calls,
        "completion_tokens": calls,
        "total_tokens": (_PROMPT_TOKENS + 1) * calls,
        "prompt_tokens_details": {"cached_tokens": _CACHED_TOKENS * calls},
    }
    return _json(head)[:-1] + b',"choices":[', b'],"usage":' + _json(usage) + b"}"


def _completion(choices: list[bytes]) -> bytes:
    head, tail = _head_and_tail(len(choices))
    return head + b",".join(choices) + tail


def _single(body: bytes) -> list[bytes]:
    """The choice for a single conversation, without parsing it."""
    top = _TOP.search(body)
    tails = _tails(_tokens(int(top[1]) if top else None, None))
    return [b'{"index":0,' + tails[next(_TURNS) % len(tails)]]


def _batch(body: bytes) -> list[bytes]:
    """One choice per conversation. Raises `ValueError` if `messages` is no list of conversations."""
    request = json.loads(body)
    conversations = request["messages"]
    if not all(isinstance(conversation, list) for conversation in conversations):
        raise ValueError("messages must be a list of conversations")
    tails = _tails(_tokens(request.get("top_logprobs"), request.get("logprob_token_ids")))
    turn = next(_TURNS)
    return [b'{"index":%d,%b' % (n, tails[(turn + n) % len(tails)]) for n in range(len(conversations))]


_CHOICES: dict[bytes, Callable[[bytes], list[bytes]]] = {
    b"/v1/chat/completions": _single,
    b"/v1/chat/completions/batch": _batch,
}


class Stub:
    """State shared by all connections: the delay, the registered choices, the last judge calls."""

    def __init__(self, delay_ms: float) -> None:
        self.delay_s = delay_ms / 1_000.0
        self._registered: dict[bytes, bytes] = {}
        self._captured: deque[tuple[str, bytes]] = deque(maxlen=64)
        self.judged = 0
        models = {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "vllm"}]}
        self._fixed = {b"/v1/models": _json(models), b"/version": _json({"version": VERSION}), b"/health": b"{}"}

    def answer(self, method: bytes, path: bytes, body: bytes) -> tuple[bytes | None, float]:
        """The response's body (None for an unknown route) and its delay in seconds."""
        if method == b"POST":
            return self._post(path, body), self.delay_s if b"/chat/" in path else 0.0
        if method == b"PUT":
            return self._put(path, body), 0.0
        if path == b"/captured":
            captured = [{"path": path, "body": base64.b64encode(sent).decode()} for path, sent in self._captured]
            self._captured.clear()
            return _json(captured), 0.0
        if path == b"/judged":
            return _json(self.judged), 0.0
        return self._fixed.get(path), 0.0

    def _post(self, path: bytes, body: bytes) -> bytes | None:
        if path.startswith(b"/say/"):
            name, _, route = path[5:].partition(b"/")
            return self._registered.get(name) if route == b"v1/chat/completions" else None
        if path == b"/tokenize":
            text = json.loads(body)["prompt"]
            return _json({"count": len(text), "max_model_len": 32_768, "tokens": [ord(letter) for letter in text]})
        make_choices = _CHOICES.get(path)
        if make_choices is None:
            return None
        self._captured.append((path.decode(), body))
        choices = make_choices(body)
        self.judged += len(choices)
        return _completion(choices)

    def _put(self, path: bytes, body: bytes) -> bytes | None:
        if path.startswith(b"/say/"):
            self._registered[path[5:]] = _completion([_json({"index": 0} | json.loads(body))])
        elif path.startswith(b"/delay/"):
            self.delay_s = float(path[7:]) / 1_000.0
        else:
            return None
        return b"{}"


class _Connection(asyncio.Protocol):
    """The part of HTTP/1.1 that our clients use: a content length, keep-alive, no pipelining."""

    def __init__(self, stub: Stub, loop: asyncio.AbstractEventLoop) -> None:
        self._stub = stub
        self._loop = loop
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class is no asyncio.Transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end])
            length = _LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < whole:
                return
            body = bytes(self._buffer[end + 4 : whole])
            del self._buffer[:whole]
            method, path, _ = head.split(b" ", 2)
            self._respond(method, path, body)

    def _respond(self, method: bytes, path: bytes, body: bytes) -> None:
        try:
            answer, delay_s = self._stub.answer(method, path, body)
        except (ValueError, KeyError, TypeError) as error:
            self._send(_http(b"400 Bad Request", _json({"error": {"message": str(error)}})))
            return
        if answer is not None:
            response = _http(b"200 OK", answer)
        elif path in _CHOICES:  # clients probe for a POST route with GET
            response = _http(b"405 Method Not Allowed", b'{"detail":"Method Not Allowed"}')
        else:
            response = _http(b"404 Not Found", b'{"detail":"Not Found"}')
        if delay_s > 0.0:
            self._loop.call_later(delay_s, self._send, response)
        else:
            self._send(response)

    def _send(self, response: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(response)


def _http(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


async def listen(stub: Stub, port: int = 0) -> asyncio.Server:
    """Serve `stub` on a loopback port, a free one by default, until the server is closed."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: _Connection(stub, loop), "127.0.0.1", port, backlog=2_048)


async def _serve(args: argparse.Namespace) -> None:
    server = await listen(Stub(args.delay_ms), args.port)
    if args.port_file is not None:
        args.port_file.write_text(str(server.sockets[0].getsockname()[1]), encoding="utf-8")
    await server.serve_forever()


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0: a free one")
    parser.add_argument("--port-file", type=Path, help="file to write the port to")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="delay of an answer")
    uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
