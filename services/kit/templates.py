"""Prompt files with `{slots}`, filled in one pass: a value that contains `{another}` is never filled again (I4)."""

import re
from functools import cache
from importlib import resources

_SLOT = re.compile(r"\{([a-z_]+)\}")


@cache
def load_template(package: str, name: str) -> str:
    """The prompt file `prompts/<name>.txt` of a package."""
    return resources.files(package).joinpath("prompts", f"{name}.txt").read_text(encoding="utf-8").strip()


def fill(template: str, **values: str) -> str:
    """Replace every slot by its value, in one pass. A slot without a value raises `KeyError`."""
    return _SLOT.sub(lambda match: values[match.group(1)], template)
