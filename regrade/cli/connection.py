"""Where the command finds the services, and how it tells of trouble."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import BaseModel, ValidationError
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
Task = Annotated[str, typer.Argument(help="The task, e.g. essay_writing.")]
Reason = Annotated[str, typer.Option(help="Why; it goes on record.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the service's answer as JSON.")]

console = Console()
errors = Console(stderr=True)

__all__ = [
    "DEFAULT_META_URL",
    "DEFAULT_URL",
    "AsJson",
    "By",
    "Key",
    "Lineage",
    "MetaUrl",
    "Reason",
    "ScopeOption",
    "Task",
    "Url",
    "clock",
    "connect",
    "fail",
    "place",
    "plain_errors",
    "present",
    "print_json",
    "words",
]


def place(lineage: str, scope: str | None) -> dict[str, Any]:
    """Query parameters that name a line of a task."""
    return {"lineage": lineage} | ({"scope": scope} if scope else {})


def present(file: Path) -> Path:
    """A file that is there; one that is not ends the command with a sentence."""
    if not file.is_file():
        fail(f"no file {file}")
    return file


def clock(seconds: float) -> str:
    """Unix seconds as a local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def words(text: str, style: str = "") -> Text:
    """A text from elsewhere: no markup, and control characters as escapes, for a terminal would obey them."""
    return Text("".join(c if c in "\n\t" or c.isprintable() else f"\\u{ord(c):04x}" for c in text), style=style)


def print_json(answer: BaseModel | Sequence[BaseModel]) -> None:
    """An answer as JSON, an array for several."""
    if isinstance(answer, BaseModel):
        console.print_json(answer.model_dump_json())
    else:
        console.print_json(json.dumps([one.model_dump(mode="json") for one in answer]))


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
