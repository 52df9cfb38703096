"""What the service writes is what the contracts read: the same fields, and the same JSON."""

import json
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from regrade import contracts
from services.kit import results

_PAIRS = [
    (getattr(contracts, name), getattr(results, name))
    for name in ("RubricRef", "CriterionScore", "ItemError", "Usage", "ItemResult", "ScoreResponse", "Trace")
]
_TEXT = 'It\u2019s "quoted", <b>tagged</b>, \\ escaped,\n\t\u2028 \U0001f600 and \x07.'
_REF = {"lineage": "main", "scope": "algebra/3", "version": 2, "digest": "d" * 64}
_ERROR: dict[str, Any] = {"code": contracts.ErrorCode.JUDGE_MALFORMED, "message": _TEXT, "retryable": True}
_SCORES = [(0.1, 1.0, _TEXT), (1.0 / 3.0, 0.0, None), (None, None, None)]


def _result(of: Any, **changed: Any) -> Any:
    criteria = tuple(
        of.CriterionScore(id=f"c{n}", score=s, confidence=c, rationale=r) for n, (s, c, r) in enumerate(_SCORES)
    )
    fields: dict[str, Any] = {
        "id": _TEXT,
        "reward": 0.1 + 0.2,
        "raw": -1e-17,
        "rubric": of.RubricRef(**_REF),
        "criteria": criteria,
        "flags": (contracts.Flag.VETOED, contracts.Flag.FLOOD),
        "error": None,
        "trace_id": "t",
        "cached": False,
    }
    return of.ItemResult(**fields | changed)


def _trace(of: Any) -> Any:
    conversation = (contracts.Message(role="user", content=_TEXT), contracts.Message(role="assistant", content=""))
    known = {name: getattr(_result(of), name) for name in ("reward", "raw", "criteria", "flags", "trace_id")}
    known["reward"] = 0.0
    return of.Trace(
        task="t", lineage="main", scope=None, run="r", step=2**53, group=_TEXT, item_id="#0", prompt=conversation,
        purpose=contracts.Purpose.TRAIN, completion=_TEXT, reference=None, digest="d", version=None, judge_model="m",
        usage=of.Usage(judge_calls=1, prompt_tokens=2, cached_tokens=1), latency_ms=1.5, time=1.79e9, **known,
    )  # fmt: skip


def _answer(of: Any) -> Any:
    outcomes = (_result(of), _result(of, reward=None, raw=None, error=of.ItemError(**_ERROR)))
    return of.ScoreResponse(results=outcomes, usage=of.Usage(), degraded=True)


@pytest.mark.parametrize(("contract", "written"), _PAIRS, ids=lambda pair: pair.__name__)
def test_the_fields_are_those_of_the_contract(contract: type[BaseModel], written: type[msgspec.Struct]) -> None:
    assert [field.name for field in msgspec.structs.fields(written)] == list(contract.model_fields)
    for field in msgspec.structs.fields(written):
        assert field.required == contract.model_fields[field.name].is_required(), field.name


@pytest.mark.parametrize("make", [_result, _trace, _answer])
def test_the_json_is_that_of_the_contract(make: Any) -> None:
    contract = make(contracts)
    assert json.loads(make(results).to_json()) == json.loads(contract.model_dump_json())
    assert type(contract).model_validate_json(make(results).to_json()) == contract


def test_a_result_reads_back() -> None:
    result = _result(results, error=results.ItemError(**_ERROR))
    assert results.parse_result(result.to_json()) == result
    with pytest.raises(ValueError, match="reward"):
        results.parse_result(result.to_json().replace(b'"reward"', b'"rewards"'))


def test_bills_add_up() -> None:
    bills = [results.Usage(judge_calls=1, prompt_tokens=10, cached_tokens=4, completion_tokens=1)] * 2
    assert results.total_usage(bills) == results.Usage(
        judge_calls=2, prompt_tokens=20, cached_tokens=8, completion_tokens=2
    )
    assert results.total_usage([]) == results.Usage()
