"""The request and response of `/score` as values, and the export of every public contract."""

import inspect
import re
from typing import Any, get_args

import jsonschema_rs
import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from regrade import contracts
from regrade.contracts import (
    ItemResult,
    Message,
    Name,
    Rubric,
    Scope,
    ScoreItem,
    ScoreRequest,
    Usage,
    as_text,
)
from regrade.contracts.checks import Check
from services.reward.app import create_app
from services.reward.settings import RewardSettings
from tests.support.builders import result, rubric

MODELS = [entry for name in contracts.__all__ if inspect.isclass(entry := getattr(contracts, name))]
MODELS = [model for model in MODELS if issubclass(model, BaseModel)]

NAME, SCOPE = TypeAdapter(Name), TypeAdapter(Scope)

ITEM: dict[str, Any] = {"prompt": "p", "completion": "c"}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: str(model.__name__))
@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_every_contract_exports_a_json_schema(model: type[BaseModel], mode: Any) -> None:
    jsonschema_rs.meta.validate(model.model_json_schema(mode=mode))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: str(model.__name__))
def test_every_contract_is_frozen(model: type[BaseModel]) -> None:
    assert model.model_config.get("frozen")


@pytest.mark.parametrize("model", [
    "ScoreItem", "ScoreRequest", "Message", "Rubric", "LlmCriterion", "CheckCriterion", "PutRubric", "ScoreResponse",
    "ItemResult", "RubricRef", "CriterionScore", "ItemError", "Usage", "ErrorBody",
])  # fmt: skip
def test_openapi_describes_every_field(model: str) -> None:
    """Requests and responses of `/score` and `/rubrics`, as `/docs` of the reward service shows them."""
    schemas = create_app(RewardSettings()).openapi()["components"]["schemas"]
    (schema,) = (schema for name, schema in schemas.items() if name in (model, f"{model}-Input"))
    missing = [name for name, field in schema["properties"].items() if not field.get("description", "").endswith(".")]
    assert missing == []


@pytest.mark.parametrize("model", [*MODELS, *get_args(get_args(Check)[0])], ids=lambda model: str(model.__name__))
def test_a_contract_describes_every_field(model: type[BaseModel]) -> None:
    """But the name of a check, which is a constant."""
    assert [name for name, field in model.model_fields.items() if not field.description and name != "check"] == []


def test_a_rubric_is_valid_under_its_exported_schema() -> None:
    schema = Rubric.model_json_schema(mode="serialization")
    jsonschema_rs.validator_for(schema).validate(rubric().model_dump(mode="json", by_alias=True))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"items": []}, "items: .*at least 1 item"),
        ({"items": [ITEM] * 513}, "items: .*at most 512 items"),
        ({"items": [ITEM | {"colour": "red"}]}, r"items\.0\.colour: Extra inputs"),
        ({"items": [{"prompt": "p"}]}, r"items\.0\.completion: Field required"),
        ({"items": [ITEM | {"scope": "a//b"}]}, r"items\.0\.scope: .*pattern"),
        ({"items": [ITEM | {"scope": "a/b/c/d/e"}]}, r"items\.0\.scope: .*pattern"),
        ({"items": [ITEM | {"id": ""}]}, r"items\.0\.id: .*at least 1 character"),
        ({"items": [ITEM | {"metadata": {"x": float("nan")}}]}, "finite number"),
        ({"items": [ITEM | {"metadata": {"x": [1]}}]}, r"items\.0\.metadata"),
        ({"items": [ITEM | {"metadata": {"x": "a" * 1_025}}]}, "at most 1024 characters"),
        ({"task": "two words"}, "task: .*pattern"),
        ({"task": "x" * 65}, "task: .*pattern"),
        ({"run": "a:b"}, "run: .*pattern"),
        ({"step": 1}, "a step needs its run"),
        ({"step": -1}, "step: .*greater than or equal to 0"),
        ({"step": 1.5}, "step: .*integer"),
        ({"step": "1"}, "step: .*integer"),
        ({"step": True}, "step: .*integer"),
        ({"fresh": "yes"}, "fresh: .*boolean"),
        ({"items": [ITEM | {"truncated": 1}]}, r"items\.0\.truncated: .*boolean"),
        ({"rubric": True}, "rubric"),
        ({"rubric": "1"}, "rubric"),
        ({"purpose": "fun"}, "purpose: .*'train', 'eval' or 'shadow'"),
        ({"mode": "fast"}, "mode: .*'expected'"),
        ({"rubric": 0}, "rubric"),
        ({"rubric": "short"}, "rubric"),
        ({"temperature": 1}, "temperature: Extra inputs"),
    ],
    ids=str,
)
def test_a_request_is_refused_with_where_and_why(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ScoreRequest.model_validate({"task": "t", "items": [ITEM]} | fields)
    messages = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}" for e in refused.value.errors()]
    assert any(re.search(reason, message) for message in messages), messages


def test_a_conversation_is_accepted_like_a_text() -> None:
    turns = (Message(role="user", content="Hello."), Message(role="assistant", content="Good day."))
    item = ScoreItem(prompt=turns, completion="c")
    assert as_text(item.prompt) == "Hello.\n\nGood day."
    assert as_text("plain") == "plain"
    with pytest.raises(ValidationError):
        ScoreItem.model_validate(ITEM | {"prompt": []})


@pytest.mark.parametrize("reward", [-0.01, 1.01, float("nan")])
def test_i3_a_result_holds_no_reward_outside_0_and_1(reward: float) -> None:
    with pytest.raises(ValidationError):
        ItemResult.model_validate(result("0" * 64).model_dump() | {"reward": reward})


def test_an_older_client_reads_a_newer_answer() -> None:
    newer = result("0" * 64).model_dump(mode="json") | {"added_later": 1}
    assert ItemResult.model_validate(newer) == result("0" * 64)


def test_usage_adds_up() -> None:
    one = Usage(judge_calls=1, prompt_tokens=10, cached_tokens=4, completion_tokens=1)
    assert Usage.total([one, one]) == Usage(judge_calls=2, prompt_tokens=20, cached_tokens=8, completion_tokens=2)


@pytest.mark.parametrize("name", [".", ".."])
def test_a_name_never_leaves_its_folder(name: str) -> None:
    with pytest.raises(ValidationError, match=r"a name is not \. or \.\."):
        NAME.validate_python(name)
    for scope in (name, f"a/{name}", f"{name}/a", f"a/{name}/b"):
        with pytest.raises(ValidationError, match=r"a name is not \. or \.\."):
            SCOPE.validate_python(scope)


@pytest.mark.parametrize("name", ["...", ".a", "a.", "..a", "-", "a.b", "x" * 64])
def test_a_name_may_hold_dots(name: str) -> None:
    assert NAME.validate_python(name) == SCOPE.validate_python(name) == name
