"""Options that commands share, connections to the services, and output to the terminal."""

import functools
import inspect
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Concatenate, NoReturn, ParamSpec, TypeVar

import typer
from pydantic import BaseModel, TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from regrade.client import BlockingRewardClient
from regrade.contracts import MAIN_LINEAGE
from regrade.errors import RegradeError

DEFAULT_META_URL = "http://127.0.0.1:8701"
_PATIENCE_S = 10.0
"""Long enough for a service that restarts, short enough for a person who waits."""

UrlOption = Annotated[str, typer.Option("--url", envvar="REGRADE_URL", help="URL of the reward service.")]
MetaUrlOption = Annotated[
    str, typer.Option("--meta-url", envvar="REGRADE_META_URL", help="URL of the meta-reward service.")
]
KeyOption = Annotated[
    str,
    typer.Option("--key", envvar="REGRADE_KEY", help="API key. Prefer the variable: arguments are visible to others."),
]
LineageOption = Annotated[str, typer.Option("--lineage", help="Lineage of the task's rubrics.")]
ScopeOption = Annotated[str | None, typer.Option("--scope", help="Scope within the task, e.g. algebra/3.")]
ByOption = Annotated[str, typer.Option("--by", envvar="USER", help="Your name, for the record.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why you do this, for the record.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the service's response as JSON.")]
TaskArgument = Annotated[str, typer.Argument(help="Name of the task, e.g. essay_writing.")]

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

console = Console()
_errors = Console(stderr=True)


class MetaService:
    """The meta-reward service, for one lineage and scope."""

    def __init__(self, client: BlockingRewardClient, lineage: str, scope: str | None) -> None:
        self._client = client
        self._lineage = {"lineage": lineage, "scope": scope}

    def get(self, path: str, answer: type[T], **query: Any) -> T:
        """A `GET` of `path`; query parameters that are None are left out."""
        return self._client.call("GET", path, answer, params=_without_none(self._lineage | query))

    def post(self, path: str, answer: type[T], **body: Any) -> T:
        """A `POST` of `body` to `path`."""
        return self._client.call("POST", path, answer, json=body, params=_without_none(self._lineage))


def meta_command(function: Callable[Concatenate[MetaService, P], None]) -> Callable[..., None]:
    """Add --lineage, --scope, --meta-url and --key to a command; its first parameter gets the service they name."""

    run: Callable[..., None] = function

    def command(
        lineage: LineageOption = MAIN_LINEAGE,
        scope: ScopeOption = None,
        meta_url: MetaUrlOption = DEFAULT_META_URL,
        key: KeyOption = "",
        **arguments: Any,
    ) -> None:
        with connect(meta_url, key) as client:
            run(MetaService(client, lineage, scope), **arguments)

    own = [*inspect.signature(function).parameters.values()][1:]
    shared = [*inspect.signature(command).parameters.values()][:-1]
    functools.update_wrapper(command, function)
    # typer reads both of these to build the command line
    command.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
    return command


@contextmanager
def connect(url: str, key: str) -> Iterator[BlockingRewardClient]:
    """A client of one service; its errors end the command with one line."""
    client = BlockingRewardClient(url, key=key, patience_s=_PATIENCE_S)
    try:
        with errors_without_traceback():
            yield client
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        client.close()


@contextmanager
def errors_without_traceback() -> Iterator[None]:
    """Errors of the client, of a file and of its content end the command with one line instead of a traceback."""
    try:
        yield
    except RegradeError as error:
        fail(str(error))
    except ValidationError as error:
        first = error.errors()[0]
        fail(": ".join(filter(None, (".".join(str(part) for part in first["loc"]), first["msg"]))))
    except UnicodeDecodeError as error:
        fail(f"the file is not UTF-8 text: {error.reason} at byte {error.start}")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")


def fail(message: str) -> NoReturn:
    """Print `message` to stderr and end with status 1."""
    _errors.print(Text.assemble(("error:", "bold red"), " ", message), soft_wrap=True)
    raise typer.Exit(1)


def read_jsonl(file: Path, model: type[M]) -> list[M]:
    """One value a line; empty lines are skipped. Only line feeds end a line, since texts may hold other separators."""
    lines = file.read_text(encoding="utf-8").split("\n")
    return [model.model_validate_json(line) for line in lines if line.strip()]


def local_time(seconds: float) -> str:
    """Unix seconds as a local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def print_text(text: str, style: str = "") -> None:
    """A text of any origin: markup is not interpreted, and control characters are escaped."""
    console.print(_escaped(text, style), soft_wrap=True)


def print_table(columns: Sequence[str | Column], rows: Iterable[Sequence[object]]) -> None:
    """A table; cells are treated as in `print_text`, and None is an empty cell."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*("" if cell is None else _escaped(str(cell)) for cell in row))
    console.print(table)


def print_json(answer: BaseModel | Sequence[BaseModel]) -> None:
    """A response as JSON; several as an array."""
    console.print_json(TypeAdapter(Any).dump_json(answer).decode())


def _escaped(text: str, style: str = "") -> Text:
    # A terminal would obey the control characters of a completion.
    return Text("".join(c if c in "\n\t" or c.isprintable() else f"\\u{ord(c):04x}" for c in text), style=style)


def _without_none(query: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}
