"""Options that commands share, connections to the services, and files that commands read."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from regrade.cli.output import fail
from regrade.client import BlockingRewardClient
from regrade.contracts import MAIN_LINEAGE, LineageEvent
from regrade.errors import AccessError, ConfigurationError, RegradeError
from regrade.transport import checked_url

DEFAULT_META_URL = "http://127.0.0.1:8701"
_PATIENCE_S = 10.0
"""Long enough for a service that restarts, short enough for a person who waits."""


def _base_url(text: str) -> str:
    """The URL of a service; `http://` may be left out. Raises `typer.BadParameter`."""
    try:
        return str(checked_url(text if "://" in text else f"http://{text}"))
    except ConfigurationError as error:
        raise typer.BadParameter(error.detail) from None


UrlOption = Annotated[
    str, typer.Option("--url", envvar="REGRADE_URL", callback=_base_url, help="URL of the reward service.")
]
MetaUrlOption = Annotated[
    str,
    typer.Option("--meta-url", envvar="REGRADE_META_URL", callback=_base_url, help="URL of the meta-reward service."),
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


class MetaService:
    """The meta-reward service, for one lineage and scope."""

    def __init__(self, client: BlockingRewardClient, lineage: str, scope: str | None) -> None:
        self._client = client
        self._lineage = {"lineage": lineage, "scope": scope}

    def get(self, path: str, answer: type[T], **query: Any) -> T:
        """A `GET` of `path`; query parameters that are None are left out."""
        return self._client.call("GET", path, answer, params=_without_none(self._lineage | query))

    def require_rubric(self, task: str) -> None:
        """End the command if the lineage never had a rubric: then its task or scope is most likely mistyped."""
        if self.get(f"/lineage/{task}", list[LineageEvent], limit=1):
            return
        scope = self._lineage["scope"]
        where = f"scope {scope!r} of task {task!r}" if scope else f"task {task!r}"
        fail(f"{where} never had a rubric in lineage {self._lineage['lineage']!r}; `regrade tasks` lists task packs")

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
    try:
        with errors_without_traceback(), closing(BlockingRewardClient(url, key=key, patience_s=_PATIENCE_S)) as client:
            yield client
    except KeyboardInterrupt:
        sys.exit(130)


@contextmanager
def errors_without_traceback() -> Iterator[None]:
    """Errors of the client and of a file end the command with one line that says what to do, without a traceback."""
    try:
        yield
    except RegradeError as error:
        fail(f"{error}{remedy(error)}")
    except ValidationError as error:
        fail(first_problem(error))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def remedy(error: RegradeError) -> str:
    """What to do about an error of the client, to be appended to its text."""
    if isinstance(error, AccessError):
        which = "an operator key of the service" if error.code == "forbidden" else "a key of the service"
        return f". Give {which}: --key or REGRADE_KEY"
    if error.code == "unreachable" and not isinstance(error, ConfigurationError):  # that one says what to do
        return ". Is it running? `make serve` starts both services; --url and --meta-url name others"
    if error.code in ("not_found", "http_404", "http_405"):
        return ". Does the URL name the right service? --url is the reward service, --meta-url the meta-reward service"
    return ""


def first_problem(error: ValidationError) -> str:
    """The first problem of a value: where it is, and what is wrong."""
    first = error.errors()[0]
    if first["type"] == "json_invalid" and not first["loc"]:
        return f"not JSON: {first['msg']}"
    return ": ".join(filter(None, (".".join(str(part) for part in first["loc"]), first["msg"])))


def read_text(file: Path) -> str:
    """The text of a file; an unreadable or empty one ends the command with one line."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        fail(f"{file}: not UTF-8 text: {error.reason} at byte {error.start}")
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    if not text.strip():
        fail(f"{file} is empty")
    return text


def read_jsonl(file: Path, model: type[M], example: str) -> list[M]:
    """One value a line; an invalid line is named, with an `example` of a valid one.

    Empty lines are skipped. Only line feeds end a line, since texts may hold other separators.
    """
    values: list[M] = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            try:
                values.append(model.model_validate_json(line))
            except ValidationError as error:
                fail(f"{file}, line {number}: {first_problem(error)}. A valid line: {example}")
    return values


def _without_none(query: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}
