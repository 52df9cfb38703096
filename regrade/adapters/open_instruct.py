"""open-instruct: a verifier, which open-instruct finds by its class once its module is imported.

class Regrade(RegradeVerifier, VerifierFunction): ...      # scores datasets named "regrade"
"""

from typing import Any, NamedTuple

from regrade.adapters.chat import parse_prompt
from regrade.adapters.core import Scorer, reward_of
from regrade.contracts import ItemResult
from regrade.control_tokens import strip_end_tokens
from regrade.items import ItemFields


class Verification(NamedTuple):
    """What open-instruct reads of a verifier's result."""

    score: float
    cost: float = 0.0
    reasoning: str | None = None


class RegradeVerifier:
    """Mix in before `VerifierFunction`; configured by the environment.

    Raises where a sample has no reward, which ends the step: open-instruct has no null, and would train on a NaN.
    """

    def __init__(self, verifier_config: Any = None) -> None:
        super().__init__("regrade", verifier_config=verifier_config)  # type: ignore[call-arg]
        self._scorer = Scorer()

    async def async_call(
        self, tokenized_prediction: Any, prediction: str, label: Any, query: Any = None, rollout_state: Any = None
    ) -> Verification:
        """Score one prediction, in a batch with others of the same moment. Raises `RegradeError`."""
        return self._verification(await self._scorer.score_one(_item(prediction, label, query)))

    def __call__(
        self, tokenized_prediction: Any, prediction: str, label: Any, query: Any = None, rollout_state: Any = None
    ) -> Verification:
        """`async_call` for code without an event loop."""
        return self._verification(self._scorer.score_one(_item(prediction, label, query)).result())

    def _verification(self, result: ItemResult) -> Verification:
        return Verification(reward_of(result, "error"), reasoning=f"rubric version {result.rubric.version}")


def _item(prediction: Any, label: Any, query: Any) -> ItemFields:
    return {"prompt": parse_prompt(query or ""), "completion": strip_end_tokens(prediction), "reference": label}
