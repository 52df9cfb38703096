"""SkyRL: a text environment of one turn whose reward comes from Regrade.

class EssayEnv(RegradeEnv, BaseTextEnv): ...
register(id="essays", entry_point="my_module:EssayEnv")
"""

from collections.abc import Mapping, Sequence
from typing import Any

from regrade.adapters.core import Scorer, Unscored, reward_of
from regrade.adapters.results import NO_METRICS, metrics_of


class RegradeEnv:
    """Mix in before `BaseTextEnv`. Steps of many environments at the same moment are scored as one batch.

    `env_config` holds options of `ScoringConfig` and `unscored`: "error" (default) raises where a sample has no
    reward, "nan" returns NaN, for runs with dynamic sampling.
    """

    def __init__(self, env_config: Mapping[str, Any] | None = None, extras: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        options = dict(env_config or {})
        self._unscored: Unscored = options.pop("unscored", "error")
        self._scorer = Scorer(**options)
        self._reference = ((extras or {}).get("reward_spec") or {}).get("ground_truth")
        self._prompt: Any = ()
        self._metrics = NO_METRICS

    def init(self, prompt: Sequence[Mapping[str, Any]]) -> tuple[Sequence[Mapping[str, Any]], dict[str, Any]]:
        """Keep the prompt, since SkyRL does not pass it to `step`."""
        self._prompt = prompt
        return prompt, {}

    def step(self, action: str) -> dict[str, Any]:
        """The policy's only turn: its reward, and metrics as metadata."""
        item = {"prompt": self._prompt, "completion": action, "reference": self._reference}
        result = self._scorer.score_one(item).result()
        self._metrics = metrics_of(result)
        return {
            "observations": [],
            "reward": reward_of(result, self._unscored),
            "done": True,
            "metadata": self._metrics,
            "postprocessed_action": None,
        }

    def get_metrics(self) -> dict[str, Any]:
        """The metrics of the episode; SkyRL logs their means."""
        return self._metrics
