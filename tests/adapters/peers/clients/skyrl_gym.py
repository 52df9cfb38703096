"""skyrl-gym: registered environments, made by its own factory and stepped in threads, as its generator does."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import skyrl_gym

import examples.skyrl.essays  # noqa: F401 - registers it
from tests.adapters.peers.clients.worker import Sample, answer_orders


def _one(sample: Sample) -> float:
    environment = skyrl_gym.make("essays", env_config={"unscored": "nan"}, extras={})
    environment.init([{"role": "user", "content": sample["prompt"]}])
    output = environment.step(sample["completion"])
    assert output["done"]
    assert environment.get_metrics().keys() == output["metadata"].keys()
    return float(output["reward"])


def score(samples: Sequence[Sample], step: int) -> Sequence[float]:
    """All at once."""
    with ThreadPoolExecutor(max(1, len(samples))) as pool:
        return list(pool.map(_one, samples))


answer_orders("skyrl-gym", score)
