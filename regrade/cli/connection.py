"""Where the command finds the services, and how it tells of trouble."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from regrade.client import DEFAULT_URL, BlockingRewardClient
from regrade.errors import RegradeError

DEFAULT_META_URL = "http://127.0.0.1:8701"

Url = Annotated[str, typer.Option("--url", envvar="REGRADE_URL", help="The reward service.")]
MetaUrl = Annotated[str, typer.Option("--meta-url", envvar="REGRADE_META_URL", help="The meta-reward service.")]
Key = Annotated[str, typer.Option("--key", envvar="REGRADE_KEY", help="API key; better given by environment.")]
Lineage = Annotated[str, typer.Option(help="Lineage of the task.")]
ScopeOption = Annotated[str | None, typer.Option("--scope", help="Scope within the task.")]
By = Annotated[str, typer.Option(help="Who does this; it goes on record.", envvar="USER")]

console = Console()
errors = Console(stderr=True)

__all__ = [
    "DEFAULT_META_URL",
    "DEFAULT_URL",
    "By",
    "Key",
    "Lineage",
    "MetaUrl",
    "ScopeOption",
    "Url",
    "connect",
    "fail",
    "plain_errors",
]


def fail(message: str) -> NoReturn:
    """Say what is wrong on stderr and end with status 1."""
    errors.print(Text.assemble(("error:", "bold red"), " ", message), soft_wrap=True)
    raise typer.Exit(1)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Errors of the client, of a file and of its content end the command with a sentence, not a trace."""
    try:
        yield
    except RegradeError as error:
        fail(str(error))
    except ValidationError as error:
        first = error.errors()[0]
        fail(": ".join(filter(None, (".".join(str(part) for part in first["loc"]), first["msg"]))))
    except UnicodeDecodeError:
        fail("the file is not UTF-8 text")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")


@contextmanager
def connect(url: str, key: str) -> Iterator[BlockingRewardClient]:
    """A client of one service; its errors end the command with a sentence, not a trace."""
    client = BlockingRewardClient(url, key=key, patience_s=10.0)
    try:
        with plain_errors():
            yield client
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        client.close()
