"""Settings every service shares; each service adds its own under its own prefix."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.kit.replicas import split_urls


def _checked(text: str) -> str:
    split_urls(text)
    return text


BaseUrls = Annotated[str, AfterValidator(_checked), Field(repr=False)]
"""Base URLs separated by commas; a user and password in them are sent, and shown nowhere."""


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
    max_body_bytes: int = Field(8_000_000, ge=1_024, description="Larger request bodies are answered 413.")
