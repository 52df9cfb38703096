"""Guards: completions that no judge needs to see. Pure, and before any engine call."""

from regrade.contracts import Flag
from services.kit.fence import without_control_tokens


def guard(completion: str, *, max_chars: int) -> Flag | None:
    """The reason why this completion earns nothing, or None when it is to be judged."""
    if not completion.strip():
        return Flag.EMPTY
    if len(completion) > max_chars:
        return Flag.TOO_LONG
    content = without_control_tokens(completion)
    if any(char.isalnum() for char in content):
        return None
    return Flag.CONTROL_TOKENS_ONLY if any(char.isalnum() for char in completion) else Flag.PUNCTUATION_ONLY
