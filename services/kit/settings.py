"""Settings that all services share, and how a program reads its settings. Each service adds its own prefix."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from regrade.contracts.score import MAX_BODY_BYTES
from services.kit.http.load_balancing import split_urls

_CLIENT_VARIABLES = frozenset({"REGRADE_META_URL"})
"""Read by the `regrade` command, and often exported in the shell that starts a service."""

SECRETS_DIR = "REGRADE_SECRETS_DIR"
"""Names a folder whose files are settings: a file is named like the variable and holds its value."""

S = TypeVar("S", bound=BaseSettings)


def _check_urls(text: str) -> str:
    split_urls(text)
    return text


BaseUrls = Annotated[str, AfterValidator(_check_urls), Field(repr=False)]
"""Base URLs separated by commas; a user and password in them are sent, and never logged or printed."""


def _check_host(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise ValueError("give a host name as in the Host header: no scheme, port or wildcard")
    return name


HostName = Annotated[str, AfterValidator(_check_host)]
"""A host name as in the Host header, without a port."""


class ServiceSettings(BaseSettings):
    """Read from the environment; frozen; unknown fields are refused."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="Redis or Valkey; a password goes into the URL."
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Lowest level that is logged.")
    host: str = Field("127.0.0.1", description="Address to listen on; loopback by default.")
    port: int = Field(0, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    port_file: str = Field("", description="When set, the port listened on is written to this file.")
    api_keys: tuple[SecretStr, ...] = Field(
        (), description="Keys that may score and read (JSON list). Without any key, callers need none."
    )
    operator_keys: tuple[SecretStr, ...] = Field(
        (), description="Keys that may also change what is active: put, activate, roll back, trigger (JSON list)."
    )
    allowed_hosts: tuple[HostName, ...] = Field(
        (),
        description="Without keys: host names that are served (JSON list), besides IP addresses, names without a dot, "
        "and names that nobody can register, such as x.local.",
    )
    drain_s: int = Field(
        10, ge=0, description="Seconds that requests in flight may take after SIGTERM; at least your longest request."
    )
    max_body_bytes: int = Field(MAX_BODY_BYTES, ge=1_024, description="Larger request bodies are answered 413.")

    @property
    def caller_keys(self) -> tuple[SecretStr, ...]:
        """Every key that is accepted; without any, callers need none."""
        return (*self.api_keys, *self.operator_keys)


def read_settings(kind: type[S], arguments: Sequence[str] | None = None) -> S:
    """A program's settings, from its options, its environment, and the files of `REGRADE_SECRETS_DIR`.

    `arguments` default to the command line. An invalid value, or a variable or file with the program's prefix that
    is not a setting (a mistyped name), ends the program with status 2 and one line a problem.
    """
    prefix = kind.model_config["env_prefix"]
    known = {f"{prefix}{name}".upper() for name in kind.model_fields} | _CLIENT_VARIABLES
    folder = os.environ.get(SECRETS_DIR)
    if folder and not Path(folder).is_dir():
        sys.exit(_usage([f"{SECRETS_DIR}: {folder} is not a folder"]))
    names = [*os.environ, *(os.listdir(folder) if folder else ())]
    unknown = sorted({name for name in names if name.startswith(prefix) and name.split("__")[0] not in known})
    if unknown:
        sys.exit(_usage([f"{name} is not a setting; --help lists them" for name in unknown]))
    try:
        options = True if arguments is None else list(arguments)
        return kind(_cli_parse_args=options, _secrets_dir=folder or None)
    except ValidationError as error:
        sys.exit(_usage([f"{prefix}{_location(e['loc'])}: {e['msg']}" for e in error.errors()]))
    except SettingsError as error:
        sys.exit(_usage([f"{error}; lists and objects are given as JSON"]))


def _location(parts: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in parts).upper()


def _usage(problems: list[str]) -> int:
    """Write each problem to stderr; returns the exit status of a usage error."""
    for problem in problems:
        sys.stderr.write(f"settings: {problem}\n")
    return 2
