"""SkyRL: a text environment of one turn whose reward comes from Regrade.

class EssayEnv(RegradeEnv, BaseTextEnv): ...
register(id="essays", entry_point="my_module:EssayEnv")
"""

from collections.abc import Mapping, Sequence
from typing import Any

from regrade.adapters.chat import to_conversation
from regrade.adapters.core import Scorer, Unscored, reward_of, scoring_config
from regrade.adapters.results import empty_metrics, metrics_of
from regrade.contracts import Conversation, ScoreItem


class RegradeEnv:
    """Mix in before `BaseTextEnv`. Steps of many environments in this moment are scored as one batch.

    `env_config` may hold arguments of `scoring_config`, and `unscored`; what is not there comes from the environment
    variables. A sample without a reward raises, or is NaN with `unscored: nan`, for runs with dynamic sampling.
    """

    def __init__(self, env_config: Mapping[str, Any] | None = None, extras: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        where = dict(env_config or {})
        self._unscored: Unscored = where.pop("unscored", "error")
        self._scorer = Scorer(scoring_config(**where))
        answer = ((extras or {}).get("reward_spec") or {}).get("ground_truth")
        self._reference = answer if isinstance(answer, str) and answer else None
        self._prompt: Conversation = ()
        self._figures = empty_metrics()

    def init(self, prompt: Sequence[Mapping[str, Any]]) -> tuple[Sequence[Mapping[str, Any]], dict[str, Any]]:
        """Remember the prompt, which `step` is not told."""
        self._prompt = to_conversation(prompt)
        return prompt, {}

    def step(self, action: str) -> dict[str, Any]:
        """The policy's only turn: its reward, and figures as metadata."""
        result = self._scorer.score_one(ScoreItem(prompt=self._prompt, completion=action, reference=self._reference))
        self._figures = metrics_of(result)
        return {
            "observations": [],
            "reward": reward_of(result, self._unscored),
            "done": True,
            "metadata": self._figures,
            "postprocessed_action": None,
        }

    def get_metrics(self) -> dict[str, Any]:
        """The figures of the episode: SkyRL logs their means."""
        return self._figures
