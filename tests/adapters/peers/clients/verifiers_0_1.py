"""verifiers 0.1: its rubric, with Regrade's in front, scores the states of a group and computes their advantages.

A state with an error is left out by prime-rl, which trained on these environments until 0.6.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import verifiers as vf
from verifiers.utils.save_utils import state_to_output

import examples.verifiers.essays_v0 as example
from tests.adapters.peers.clients.worker import Sample, Values, answer_orders

RUBRIC = example.load_environment().rubric


def _state(sample: Sample, number: int) -> vf.State:
    turns = {"prompt": [{"role": "user", "content": sample["prompt"]}], "answer": "", "example_id": number}
    state = vf.State(input=vf.RolloutInput(**turns))
    state.update(completion=[{"role": "assistant", "content": sample["completion"]}], timing={}, error=None)
    state.update(trajectory=[{"reward": None, "advantage": None}])
    return state


def _scored(samples: Sequence[Sample]) -> list[Any]:
    states = [_state(sample, number) for number, sample in enumerate(samples)]
    rubrics = getattr(RUBRIC, "rubrics", [RUBRIC])
    (rubric,) = [each for each in rubrics if isinstance(each, example.Essays)]
    asyncio.run(rubric.score_group(states))
    assert all((state["error"] is None) == (state_to_output(state).get("error") is None) for state in states)
    return states


def score(samples: Sequence[Sample], step: int) -> Values:
    """One group."""
    return [None if state["error"] else state["reward"] for state in _scored(samples)]


def advantages(samples: Sequence[Sample], step: int) -> Values:
    """Those that verifiers gives each step of a trajectory."""
    states = _scored(samples)
    assert all(state["trajectory"][0]["advantage"] == state["advantage"] for state in states)
    assert all(state["advantage"] == 0.0 for state in states if state["error"])
    return [None if state["error"] else state["advantage"] for state in states]


answer_orders("verifiers", score, advantages)
