"""open-instruct: a verifier, found by its class once the module that defines it is imported.

class Regrade(RegradeVerifier, VerifierFunction): ...      # data sets named "regrade" are scored by it
"""

from typing import Any, NamedTuple

from regrade.adapters.chat import parse_rendered_prompt, strip_end_tokens, text_or_conversation
from regrade.adapters.core import Scorer, Unscored, reward_of, scoring_config
from regrade.contracts import ItemResult, ScoreItem


class Verification(NamedTuple):
    """What open-instruct reads of a verifier's result."""

    score: float
    cost: float = 0.0
    reasoning: str | None = None


class RegradeVerifier:
    """Mix in before `VerifierFunction`; configured by the environment. A sample without a reward raises."""

    unscored: Unscored = "error"

    def __init__(self, verifier_config: Any = None) -> None:
        super().__init__("regrade", verifier_config=verifier_config)  # type: ignore[call-arg]
        self._scorer = Scorer(scoring_config())

    async def async_call(
        self,
        tokenized_prediction: Any,
        prediction: str,
        label: Any,
        query: Any = None,
        rollout_state: Any = None,
    ) -> Verification:
        """The reward of a prediction; samples asked for in this moment are one batch. Raises `RegradeError`."""
        return self._told(await self._scorer.score_one_async(_item(prediction, label, query)))

    def __call__(
        self,
        tokenized_prediction: Any,
        prediction: str,
        label: Any,
        query: Any = None,
        rollout_state: Any = None,
    ) -> Verification:
        """`async_call` for code without an event loop."""
        return self._told(self._scorer.score_one(_item(prediction, label, query)))

    def _told(self, result: ItemResult) -> Verification:
        return Verification(reward_of(result, self.unscored), reasoning=f"rubric version {result.rubric.version}")


def _item(prediction: str, label: Any, query: Any) -> ScoreItem:
    return ScoreItem(
        prompt=parse_rendered_prompt(query) if isinstance(query, str) else text_or_conversation(query or ""),
        completion=strip_end_tokens(prediction),
        reference=label if isinstance(label, str) and label else None,
    )
