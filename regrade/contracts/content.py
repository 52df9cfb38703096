"""Reads prompts, completions and references in the shapes that trainers, datasets and SDKs give them. Pure.

The one reader of `ScoreItem`, so the client, the adapters and every route of the service take the same shapes:

- text, or turns: a list, tuple or array of mappings or of objects with attributes (pydantic, LangChain);
- a turn's content is a text, null, or parts: texts are kept, an image or another modality becomes a marker such as
  `[image]`, reasoning is left out; any other value, such as a tool's result, becomes JSON;
- tool calls become `name(arguments)`; `developer` is a system turn, and a role that is missing or unknown is that of
  the place: `user` in a prompt, `assistant` in a completion.

Everything else is a `ValueError` that names the type and says what to give. Other libraries' values are recognised by
their attributes, so none is imported.
"""

import dataclasses
import functools
import json
import math
import numbers
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sized
from collections.abc import Set as AbstractSet
from decimal import Decimal
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")

MAX_TEXT = 200_000
MAX_TURNS = 256

Turns = list[dict[str, str]]

_ROLES = {name: name for name in ("system", "user", "assistant", "tool")}
_ROLES |= {"developer": "system", "human": "user", "model": "assistant", "ai": "assistant", "gpt": "assistant"}
_ROLES |= {"ipython": "tool", "function": "tool", "observation": "tool"}
_MODALITIES = {
    kind: marker
    for marker, kinds in {
        "[image]": ("image", "image_url", "input_image", "images"),
        "[audio]": ("audio", "audio_url", "input_audio"),
        "[video]": ("video", "video_url", "input_video"),
        "[file]": ("file", "input_file", "document"),
    }.items()
    for kind in kinds
}
_REASONING = frozenset({"reasoning", "thinking", "redacted_thinking"})
_TURN_FIELDS = ("role", "content", "from", "value", "tool_calls", "function_call")
_TURNS_HINT = "give a text, or turns such as {'role': 'user', 'content': '...'}"
_Binary = bytes | bytearray | memoryview


def _readable(read: Callable[[Any], T]) -> Callable[[Any], T]:
    """Lets `read` raise `ValueError` alone: an object of a stranger's type must not end the batch of its item."""

    @functools.wraps(read)
    def wrapped(value: Any) -> T:
        try:
            return read(value)
        except ValueError:
            raise
        except RecursionError:
            raise ValueError("nested too deeply") from None
        except Exception as error:
            raise ValueError(f"{type(value).__name__} cannot be read: {type(error).__name__}") from error

    return wrapped


@_readable
def read_prompt(value: Any) -> str | Turns:
    """A prompt as text or turns. Raises `ValueError`, also for a text of more than `MAX_TEXT` characters."""
    content = _read(value, "user")
    for text in [content] if isinstance(content, str) else [turn["content"] for turn in content]:
        if len(text) > MAX_TEXT:
            raise ValueError(f"a text of {len(text)} characters; {MAX_TEXT} are accepted")
    return content


@_readable
def read_completion(value: Any) -> str | Turns:
    """A completion as text or turns. Raises `ValueError`.

    A text is cut at `MAX_TEXT` characters, and the service flags a completion of that length as `too_long`: however
    much a policy writes, it is the completion's fault and not the batch's.
    """
    content = _read(value, "assistant")
    if isinstance(content, str):
        return content[:MAX_TEXT]
    return [turn | {"content": turn["content"][:MAX_TEXT]} for turn in content]


@_readable
def read_reference(value: Any) -> str | None:
    """A dataset's label as text: a text or a number as it is; None for a blank text, None or NaN.

    Raises `ValueError` for lists, mappings and other types, since guessing would compare with the wrong answer.
    """
    text = _scalar_text(value)
    if text is None or not text.strip():
        return None
    if len(text) > MAX_TEXT:
        raise ValueError(f"a text of {len(text)} characters; {MAX_TEXT} are accepted")
    return _encodable(text)


def turn_role(turn: Any, default: str = "user") -> str:
    """The role of a turn in any shape: system, user, assistant or tool."""
    kind = _field(turn, "type")
    if kind == "function_call":
        return "assistant"
    if kind == "function_call_output":
        return "tool"
    role = _field(turn, "role", "from") or kind
    role = role if isinstance(role, str) else getattr(role, "value", role)
    return _ROLES.get(_plain_str(role).lower(), default) if isinstance(role, str) else default


def _read(value: Any, default_role: str) -> str | Turns:
    return _encodable(_plain_str(value)) if isinstance(value, str) else _turns(value, default_role)


def _turns(value: Any, default_role: str) -> Turns:
    given = _listed(value) if _is_turn(value) else value
    if isinstance(given, Mapping | AbstractSet | _Binary) or not isinstance(given, Iterable):
        raise ValueError(f"{_kind(value)}: {_TURNS_HINT}")
    turns = list(islice(given, MAX_TURNS + 1))
    if not turns:
        raise ValueError(f"{_kind(value)} without turns: {_TURNS_HINT}")
    if len(turns) > MAX_TURNS:
        count = len(given) if isinstance(given, Sized) else f"more than {MAX_TURNS}"
        raise ValueError(f"{count} turns; {MAX_TURNS} are accepted")
    return [
        {"role": turn_role(turn, default_role), "content": _encodable(_turn_text(index, turn))}
        for index, turn in enumerate(map(_from_pair, turns))
        if _field(turn, "type") not in _REASONING
    ] or [{"role": default_role, "content": ""}]


def _from_pair(turn: Any) -> Any:
    """A turn given as role and text, such as `("user", "Why?")`, as a mapping; any other turn unchanged."""
    match turn:
        case [str() as role, str() as text] if role.lower() in _ROLES:
            return {"role": role, "content": text}
        case _:
            return turn


def _turn_text(index: int, turn: Any) -> str:
    kind = _field(turn, "type")
    if kind == "function_call":
        return _call(turn)
    if kind == "function_call_output":
        return _text(_field(turn, "output"))
    if not _is_turn(turn):
        raise ValueError(f"turn {index} is {_kind(turn)}: {_TURNS_HINT}")
    calls = [*_listed(_field(turn, "tool_calls")), *_listed(_field(turn, "function_call"))]
    texts = [_text(_field(turn, "content", "value")), *map(_call, calls)]
    return "\n".join(filter(None, texts))


def _text(content: Any) -> str:
    if content is None or (isinstance(content, float) and math.isnan(content)):  # a data frame's null
        return ""
    if isinstance(content, str):
        return _plain_str(content)
    if isinstance(content, _Binary):
        raise ValueError(f"content of {_kind(content)}: decode it to text")
    if isinstance(content, list | tuple) or hasattr(content, "tolist"):
        return "\n".join(filter(None, map(_part, _listed(content))))
    return _part(content)


def _part(part: Any) -> str:
    """A part of a turn's content, by the field that its kind has."""
    kind, text = _field(part, "type"), _field(part, "text", "refusal")
    if isinstance(part, str | list | tuple | _Binary) or part is None:
        return _text(part)
    if kind in _REASONING:
        return ""
    if kind in ("tool_use", "tool_call", "function"):
        return _call(part)
    if kind == "tool_result":
        return _text(_field(part, "content"))
    if text is not None or kind in ("text", "input_text", "output_text"):
        return _text(_field(text, "value") if isinstance(text, Mapping) else text)
    if isinstance(kind, str):
        return _MODALITIES.get(kind, f"[{_plain_str(kind)[:32]}]")
    fields = part if isinstance(part, Mapping) else ()
    return next((marker for name, marker in _MODALITIES.items() if name in fields), None) or _json(part)


def _call(call: Any) -> str:
    if isinstance(call, str) or not call:
        return _plain_str(call or "")
    function = call if _field(call, "function") is None else _field(call, "function")
    arguments = _field(function, "arguments", "args", "input", "parameters")
    written = "" if arguments is None else arguments if isinstance(arguments, str) else _json(arguments)
    return f"{_field(function, 'name')}({written})"


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=_jsonable)
    except (TypeError, ValueError):
        raise ValueError(f"{_kind(value)} has no JSON form") from None


def _jsonable(value: Any) -> Any:
    """The plain form of a value that JSON does not know."""
    if isinstance(value, _Binary):
        return bytes(value).decode(errors="replace")
    if hasattr(value, "tolist"):  # a scalar or an array of numpy, or a tensor
        return value.tolist()
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, AbstractSet) else str(value)


def _scalar_text(value: Any) -> str | None:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas' own nulls
        return None
    if isinstance(value, str):
        return _plain_str(value)
    if isinstance(value, numbers.Real | Decimal):
        is_nan = value.is_nan() if isinstance(value, Decimal) else value != value
        return None if is_nan else str(value)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a scalar of numpy or a tensor
        return _scalar_text(value.item())
    raise ValueError(f"{_kind(value)}: give one text or number, for example the field or the entry with the answer")


def _is_turn(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(name in value for name in _TURN_FIELDS) or "type" in value
    return not isinstance(value, str) and (hasattr(value, "content") or hasattr(value, "tool_calls"))


def _field(thing: Any, *names: str) -> Any:
    """The first of these fields, or attributes, that is not None."""
    for name in names:
        value = thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)
        if value is not None and not (callable(value) and not isinstance(thing, Mapping)):
            return value
    return None


def _listed(value: Any) -> list[Any]:
    """A list of what is there: none, one, or several."""
    if value is None:
        return []
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(value) if isinstance(value, list | tuple) else [value]


def _encodable(text: str) -> str:
    """The text. Raises `ValueError` for half of a surrogate pair, which is no character and cannot be sent."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            raise ValueError(
                f"character {error.start} is a lone surrogate, U+{code:04X}: decode tokens with errors='replace'"
            ) from None
    return text


def _plain_str(text: str) -> str:
    """A text of a subclass, such as numpy's or an enum's, as `str`."""
    return str.__str__(text)


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    return f"{type(value).__name__} {' '.join(reprlib.repr(value).split())}"
