"""Settings every service shares; each service adds its own under its own prefix. And how a program reads them."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from services.kit.http.load_balancing import split_urls

_CLIENT_VARIABLES = frozenset({"REGRADE_META_URL"})
"""Read by the `regrade` command; a user may well have exported it where a service starts."""

SECRETS_DIR = "REGRADE_SECRETS_DIR"
"""Names a folder whose files are settings: a file's name is the variable's, its text the value."""

S = TypeVar("S", bound=BaseSettings)


def _checked(text: str) -> str:
    split_urls(text)
    return text


BaseUrls = Annotated[str, AfterValidator(_checked), Field(repr=False)]
"""Base URLs separated by commas; a user and password in them are sent, and shown nowhere."""


def _bare(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise ValueError("give a host's name alone, as in Host: no scheme, no port, no wildcard")
    return name


HostName = Annotated[str, AfterValidator(_bare)]
"""A name as browsers send it."""


class ServiceSettings(BaseSettings):
    """Read from the environment, frozen, unknown fields refused."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="Redis or Valkey; a password goes into the URL."
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Lowest level that is logged.")
    host: str = Field("127.0.0.1", description="Address to listen on; loopback unless told otherwise.")
    port: int = Field(0, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    port_file: str = Field("", description="When set, the port listened on is written to this file.")
    api_keys: tuple[SecretStr, ...] = Field(
        (), description="Keys that may score and read (JSON list). With no key of either kind, no key is asked for."
    )
    operator_keys: tuple[SecretStr, ...] = Field(
        (), description="Keys that may also change what is active: put, activate, roll back, trigger (JSON list)."
    )
    allowed_hosts: tuple[HostName, ...] = Field(
        (),
        description="Without keys: names (Host) answered to, beside addresses, names without a dot, and those that "
        "nobody can register, such as x.local (JSON list).",
    )
    drain_s: int = Field(
        10, ge=0, description="On SIGTERM, how long requests under way may still take; the longest of yours, or more."
    )
    max_body_bytes: int = Field(8_000_000, ge=1_024, description="Larger request bodies are answered 413.")

    @property
    def caller_keys(self) -> tuple[SecretStr, ...]:
        """Every key that may call. With none, no key is asked for."""
        return (*self.api_keys, *self.operator_keys)


def read_settings(kind: type[S], arguments: Sequence[str] | None = None) -> S:
    """A program's settings, from its options, its environment, and the files of `REGRADE_SECRETS_DIR`.

    `arguments` are the command line's, unless given.

    A value that does not fit, or a variable or file of the program's prefix that is no setting, ends the
    program with status 2 and a sentence for each problem: a mistyped name would else be silent.
    """
    prefix = kind.model_config["env_prefix"]
    known = {f"{prefix}{name}".upper() for name in kind.model_fields} | _CLIENT_VARIABLES
    folder = os.environ.get(SECRETS_DIR)
    if folder and not Path(folder).is_dir():
        sys.exit(_usage([f"{SECRETS_DIR}: {folder} is no folder"]))
    names = [*os.environ, *(os.listdir(folder) if folder else ())]
    unknown = sorted({name for name in names if name.startswith(prefix) and name.split("__")[0] not in known})
    if unknown:
        sys.exit(_usage([f"{name} is no setting; --help lists them" for name in unknown]))
    try:
        options = True if arguments is None else list(arguments)
        return kind(_cli_parse_args=options, _secrets_dir=folder or None)
    except ValidationError as error:
        sys.exit(_usage([f"{prefix}{_place(e['loc'])}: {e['msg']}" for e in error.errors()]))
    except SettingsError as error:
        sys.exit(_usage([f"{error}; lists and objects are given as JSON"]))


def _place(parts: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in parts).upper()


def _usage(problems: list[str]) -> int:
    """Tell each problem on stderr; answers the exit status of a usage error."""
    for problem in problems:
        sys.stderr.write(f"settings: {problem}\n")
    return 2
