"""Prompt files with `{slots}`, filled in one pass: braces within a value are not slots (I4)."""

import re
from functools import cache
from importlib import resources

_SLOT = re.compile(r"\{([a-z_]+)\}")


@cache
def load_template(package: str, name: str) -> str:
    """The prompt file `prompts/<name>.txt` of a package."""
    return resources.files(package).joinpath("prompts", f"{name}.txt").read_text(encoding="utf-8").strip()


def fill(template: str, **values: str) -> str:
    """Replace every slot by its value, in one pass. Raises `KeyError` for a slot without a value."""
    return _SLOT.sub(lambda match: values[match.group(1)], template)
