"""Reads the body of `/score`: bad content is its item's error, and everything else that is wrong the request's."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from regrade.contracts import ScoreItem, ScoreRequest
from regrade.items import STAND_INS, content_problems


class ScoreBody(NamedTuple):
    """A valid request, in which stand-ins replace the content that is refused."""

    request: ScoreRequest
    refused: Mapping[int, str] = {}
    """By index of the item: what is wrong with its content."""


def parse_score_body(raw: bytes) -> ScoreBody:
    """The body of a request. Raises `RequestValidationError`."""
    try:
        return ScoreBody(ScoreRequest.model_validate_json(raw))
    except ValidationError as error:
        problem = RequestValidationError(error.errors(include_url=False, include_input=False))
    try:
        body = json.loads(raw)  # unlike the fast parser, it reads a text that holds half of a surrogate pair
        refused = _replace_bad_content(body["items"])
        return ScoreBody(ScoreRequest.model_validate_json(json.dumps(body)), refused)
    except (ValueError, TypeError, KeyError, RecursionError):  # the request itself is wrong
        raise problem from None


def _replace_bad_content(items: list[Any]) -> dict[int, str]:
    """Put stand-ins for bad content; the problems by index. Raises `ValidationError` for other problems."""
    refused: dict[int, str] = {}
    without_scope = []
    for index, item in enumerate(items):
        try:
            ScoreItem.model_validate(item)
        except ValidationError as error:
            problems = content_problems(error)
            if not problems:
                raise
            items[index] = item | {name: STAND_INS[name] for name in problems}
            refused[index] = "; ".join(problems.values())
            if "scope" in problems:
                without_scope.append(index)
    # A task may have rubrics of scopes alone, so that an item without a scope would refuse the request.
    scope = next((item.get("scope") for index, item in enumerate(items) if index not in refused), None)
    for index in without_scope:
        items[index]["scope"] = scope
    return refused
