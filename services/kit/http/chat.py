"""The text of a chat message, as engines send it: whole, in parts, or behind a model's thinking. Pure."""

from typing import Any

import msgspec

from services.kit.http.errors import UpstreamMalformed

_THINKING_BEGINS = ("<think>", "<thinking>", "<reasoning>", "[THINK]", "<seed:think>")
_THINKING_ENDS = ("</think>", "</thinking>", "</reasoning>", "[/THINK]", "</seed:think>")


class _Part(msgspec.Struct, gc=False):
    type: str = "text"
    text: str | None = None


class ChatMessage(msgspec.Struct, gc=False):
    """A turn written by a model; other fields are ignored."""

    content: str | list[_Part] | None = None
    reasoning: Any = None
    reasoning_content: Any = None

    @property
    def text(self) -> str:
        """The answer without the thinking before it, stripped; may be empty."""
        parts = [self.content] if isinstance(self.content, str) else self._text_parts()
        return _without_thinking("".join(parts).strip())

    @property
    def thinks(self) -> bool:
        """Whether the model thought and did not come to an answer."""
        written = self.content.strip() if isinstance(self.content, str) else "".join(self._text_parts()).strip()
        thought = self.reasoning or self.reasoning_content or written.startswith(_THINKING_BEGINS)
        return bool(thought) and not self.text

    def _text_parts(self) -> list[str]:
        parts = self.content if isinstance(self.content, list) else []
        return [part.text for part in parts if part.text and part.type in ("text", "output_text")]


def read_message(raw: msgspec.Raw | bytes) -> ChatMessage:
    """Decode a message. Raises `UpstreamMalformed`."""
    try:
        return _MESSAGE.decode(raw)
    except ValueError as error:
        raise UpstreamMalformed(f"no message in the answer ({error})") from error


def answer_text(message: ChatMessage, setting: str) -> str:
    """The answer's text. Raises `UpstreamMalformed` for an empty one; `setting` can change how the model thinks."""
    if message.thinks:
        raise UpstreamMalformed(still_thinking(setting))
    if not message.text:
        raise UpstreamMalformed("the model wrote nothing")
    return message.text


def still_thinking(setting: str) -> str:
    """The error text for an answer that is thinking and nothing else."""
    return (
        "the model spent its tokens on thinking and gave no answer; turn thinking off, or give it more tokens, in "
        f"""{setting}, such as '{{"chat_template_kwargs": {{"enable_thinking": false}}}}' (docs/judges.md)"""
    )


def json_in(text: str) -> str:
    """The JSON object in a model's answer: the text itself, or the only code block in it, or from brace to brace.

    Whoever parses it must hold it to a strict schema. With several code blocks it stays unclear which is meant, and
    the text is returned as it is.
    """
    text = text.strip()
    parts = text.split("```")
    if text.startswith("{"):
        return text
    if len(parts) == 3:
        block = parts[1]
        return block[block.find("{") :].strip() if "{" in block else block.strip()
    if len(parts) == 1 and "{" in text:
        return text[text.find("{") : text.rfind("}") + 1]
    return text


def _without_thinking(text: str) -> str:
    """What follows the last end of thinking; nothing where thinking begins and does not end."""
    end = max((text.rfind(mark) + len(mark) for mark in _THINKING_ENDS if mark in text), default=0)
    return "" if not end and text.startswith(_THINKING_BEGINS) else text[end:].strip()


_MESSAGE = msgspec.json.Decoder(ChatMessage)
