"""Base URLs as people have them, and the key that is sent to them. Pure.

A URL whose path has a version (`https://host/v1`, `.../v1beta/openai`, `.../paas/v4`) is the base of an API already,
and so is what stands before `/chat/completions`. To any other URL (`http://host:8000`), `/v1` is added.
"""

import base64
import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

API_PREFIX = "/v1/"
"""Begins the paths of the OpenAI API; other paths are routes of the server itself."""

_VERSION = re.compile(r"v\d{1,4}(?:(?:alpha|beta)\d{0,4})?")
_ENDPOINTS = (("chat", "completions", "batch"), ("chat", "completions"), ("models",), ("completions",))


class Address(NamedTuple):
    """Where an upstream is: base URLs of its API and of its own routes, without credentials.

    `name` may be logged; `headers` carry the credentials; `secrets` must appear in no text.
    """

    api: str
    root: str
    name: str
    headers: dict[str, str]
    secrets: tuple[str, ...] = ()

    def url(self, path: str) -> str:
        """The URL of `path`: of the API where it begins with `/v1/`, else of the server."""
        return self.api + path[len(API_PREFIX) - 1 :] if path.startswith(API_PREFIX) else self.root + path

    def masked(self, text: str) -> str:
        """The text without secrets."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def split_urls(text: str, key: str = "") -> tuple[Address, ...]:
    """The addresses in a comma-separated list of base URLs, with `key` as bearer key.

    Raises `ValueError`, whose message does not repeat the text: it may hold a password.
    """
    key = clean_key(key)
    addresses = (_address(part.strip(), position, key) for position, part in enumerate(text.split(","), start=1))
    return tuple({address.api: address for address in addresses}.values())


def clean_key(key: str) -> str:
    """A key without the white space around it, such as the line end of a file.

    Raises `ValueError` for one that no HTTP header can carry; the message does not repeat it.
    """
    key = key.strip()
    if not all("!" <= char <= "~" for char in key):
        raise ValueError("a key is printable ASCII without spaces and line ends, because a header carries it")
    return key


def _address(text: str, position: int, key: str) -> Address:
    form = f"base URL {position} is not http(s)://[user:password@]host[:port][/path]"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(form) from None
    problem = _problem(text, parts.scheme, parts.hostname, parts.query or parts.fragment)
    if problem:
        raise ValueError(f"{form}: {problem}")
    host = parts.hostname or ""
    base = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    api, root = _paths(tuple(segment for segment in parts.path.split("/") if segment))
    headers, secrets = _credentials(parts.username, parts.password, key)
    return Address(base + api, base + root, host if port is None else f"{host}:{port}", headers, secrets)


def _problem(text: str, scheme: str, host: str | None, query: str) -> str:
    if any(char.isspace() for char in text):
        return "it has a blank"
    if scheme not in ("http", "https"):
        return "it does not begin with http:// or https://"
    if not host:
        return "it has no host"
    return "it has a query or fragment" if query else ""


def _paths(segments: tuple[str, ...]) -> tuple[str, str]:
    """The path of the API and that of the server, of a base URL with these path segments."""
    endpoint = next((e for e in _ENDPOINTS if segments[-len(e) :] == e), ())
    base = segments[: len(segments) - len(endpoint)]
    version = next((n for n, segment in enumerate(base) if _VERSION.fullmatch(segment)), None)
    if version is not None:
        api, root = base, base[:version]
    elif endpoint[:2] == ("chat", "completions"):
        api = root = base
    else:
        api, root = (*segments, "v1"), segments
    return "".join(f"/{segment}" for segment in api), "".join(f"/{segment}" for segment in root)


def _credentials(user: str | None, password: str | None, key: str) -> tuple[dict[str, str], tuple[str, ...]]:
    if user is not None:
        login = base64.b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()
        secrets = (login, unquote(password or ""), password or "")
        return {"Authorization": f"Basic {login}"}, tuple(secret for secret in secrets if secret)
    return ({"Authorization": f"Bearer {key}"}, (key,)) if key else ({}, ())
