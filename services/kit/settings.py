"""Settings that all services share, and how a program reads its settings. Each service adds its own prefix."""

import os
import re
import sys
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Self, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from regrade.contracts.score import MAX_BODY_BYTES
from regrade.errors import ConfigurationError
from regrade.transport import checked_url
from services.kit.http.addresses import clean_key, split_urls

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


def _check_service_url(text: str) -> str:
    if text:
        try:
            checked_url(text)
        except ConfigurationError as error:
            raise ValueError(error.detail) from None
    return text


ServiceUrl = Annotated[str, AfterValidator(_check_service_url), Field(repr=False)]
"""The base URL of one of our services, as its client takes it; empty where a setting may be left out."""


def _check_host(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise ValueError("give a host name as in the Host header: no scheme, port or wildcard")
    return name


HostName = Annotated[str, AfterValidator(_check_host)]
"""A host name as in the Host header, without a port."""


MIN_KEY_CHARS = 16
"""A console cookie is signed with a key, so that a shorter key could be guessed offline; 16 hex digits are 64 bits."""


def _check_bearer_key(key: SecretStr) -> SecretStr:
    return SecretStr(clean_key(key.get_secret_value()))


def _check_api_key(key: SecretStr) -> SecretStr:
    key = _check_bearer_key(key)
    length = len(key.get_secret_value())
    if length < MIN_KEY_CHARS:
        raise ValueError(
            f"a key of {length} characters can be guessed; use at least {MIN_KEY_CHARS}, such as the output of "
            "'openssl rand -hex 24'"
        )
    return key


ApiKey = Annotated[SecretStr, AfterValidator(_check_api_key)]
"""A key that callers present: at least `MIN_KEY_CHARS` characters."""

BearerKey = Annotated[SecretStr, AfterValidator(_check_bearer_key)]
"""A key that is sent to another service, which decides on its length; blank: none is sent."""


def _check_listen_address(host: str) -> str:
    name = host.strip().removeprefix("[").removesuffix("]")
    if not re.fullmatch(r"[A-Za-z0-9_.:%-]+", name):
        raise ValueError("give an IP address or a host name: 127.0.0.1, 0.0.0.0, ::1, or :: for IPv4 and IPv6")
    return name


ListenAddress = Annotated[str, AfterValidator(_check_listen_address)]
"""An IP address, with or without brackets, or a host name."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address; of names, `localhost` alone is known to be one."""
    try:
        address = ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


class ServiceSettings(BaseSettings):
    """Read from the environment; frozen; unknown fields are refused."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="Redis or Valkey; a password goes into the URL."
    )
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Lowest level that is logged.")
    host: ListenAddress = Field(
        "127.0.0.1", description="Address or name to listen on; 0.0.0.0: IPv4 of all interfaces; ::: IPv4 and IPv6."
    )
    port: int = Field(0, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    port_file: str = Field("", description="When set, the port listened on is written to this file.")
    api_keys: tuple[ApiKey, ...] = Field(
        (),
        description="Keys that may score and read (JSON list), of 16 characters or more. Without any key, callers "
        "need none.",
    )
    operator_keys: tuple[ApiKey, ...] = Field(
        (), description="Keys that may also change what is active: put, activate, roll back, trigger (JSON list)."
    )
    open_to_network: bool = Field(
        False,
        description="Without keys: listen on an address that other machines can reach, where everybody may do "
        "everything. For networks in which every machine and user is trusted.",
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
    max_total_body_bytes: int = Field(
        256_000_000, ge=1_024, description="Bytes of all bodies that are in use at a time; more are answered 429."
    )
    max_connections: int = Field(
        4_096, ge=1, description="Open connections; more are answered 503. Limited by the files a process may open."
    )
    request_timeout_s: float = Field(
        60.0,
        gt=0,
        description="Seconds in which a body must arrive (its head within 10); slower ones are answered 408.",
    )

    @property
    def caller_keys(self) -> tuple[SecretStr, ...]:
        """Every key that is accepted; without any, callers need none."""
        return (*self.api_keys, *self.operator_keys)

    @model_validator(mode="after")
    def _open_services_are_local(self) -> Self:
        if not (self.caller_keys or self.open_to_network or is_loopback(self.host)):
            prefix = self.model_config.get("env_prefix")
            raise ValueError(
                f"host {self.host} can be reached from other machines, and no key is set: set {prefix}API_KEYS and "
                f"{prefix}OPERATOR_KEYS (JSON lists), listen on 127.0.0.1, or set {prefix}OPEN_TO_NETWORK=true where "
                "everybody on the network may do everything"
            )
        return self


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
        sys.exit(_usage([f"{_option(prefix, e['loc'])}{_message(e['msg'])}" for e in error.errors()]))
    except SettingsError as error:
        sys.exit(_usage([f"{error}; lists and objects are given as JSON"]))


def _option(prefix: str, parts: tuple[int | str, ...]) -> str:
    """The name of a variable; empty for a problem of several settings together."""
    return f"{prefix}{'.'.join(str(part) for part in parts).upper()}: " if parts else ""


def _message(text: str) -> str:
    return text.removeprefix("Value error, ")


def _usage(problems: list[str]) -> int:
    """Write each problem to stderr; returns the exit status of a usage error."""
    for problem in problems:
        sys.stderr.write(f"settings: {problem}\n")
    return 2
