"""Scoring that begins before generation has ended: a batch is generated in parts, and each is scored meanwhile.

TRL asks for rewards once a whole batch is generated; what it overrides to that end is private to it, so the trainers
here are used only where a run asks for parts (`generation.chunks`).
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

from trl import GRPOTrainer, RLOOTrainer

Rewards = list[float | None]


def parts_of(count: int, group_size: int, chunks: int) -> list[range]:
    """The completions of each part: whole groups, as even as they come; one part where groups are split over ranks."""
    groups, rest = divmod(count, group_size)
    if rest or not groups:
        return [range(count)]
    chunks = min(chunks, groups)
    bounds = [groups * n // chunks * group_size for n in range(chunks + 1)]
    return [range(start, end) for start, end in pairwise(bounds)]


class EarlyScoring:
    """Mixed into a TRL trainer that has one reward function."""

    chunks = 1

    def _generate_and_score_completions(self: Any, inputs: list[dict[str, Any]]) -> Any:
        self._rows = inputs
        self._begun: list[Future[Rewards]] = []
        with ThreadPoolExecutor(self.chunks, thread_name_prefix="scoring") as self._scorers:
            return super()._generate_and_score_completions(inputs)  # type: ignore[misc]

    def _generate_single_turn(
        self: Any, prompt_ids: Sequence[Any], images: Any, fields: Any, *more: Any, **named: Any
    ) -> Any:
        """What TRL's own answers for the whole batch: token ids, in GRPO with their log-probabilities."""
        generate = super()._generate_single_turn  # type: ignore[misc]
        if not self.model.training or images is not None or fields:
            return generate(prompt_ids, images, fields, *more, **named)
        ids: list[Any] = []
        logprobs: list[Any] = []
        found: Any = None
        for part in parts_of(len(prompt_ids), self.num_generations, self.chunks):
            found = generate([prompt_ids[n] for n in part], images, fields, *more, **named)
            made, told = found if isinstance(found, tuple) else (found, None)
            ids.extend(made)
            logprobs.extend(told or [])
            self._begun.append(self._scorers.submit(self._score, part, made))
        return (ids, logprobs or None) if isinstance(found, tuple) else ids

    def _score(self: Any, part: range, ids: Sequence[Sequence[int]]) -> Rewards:
        texts = self.processing_class.batch_decode(ids, skip_special_tokens=True)
        rows = [self._rows[n] for n in part]
        columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
        rewards: Rewards = self.reward_funcs[0](
            prompts=[row["prompt"] for row in rows],
            completions=[[{"role": "assistant", "content": text}] for text in texts],
            completion_ids=ids,
            trainer_state=self.state,
            log_metric=partial(self._log_metric),  # of a part, which is training whatever mode the model is in
            first=part.start,
            **columns,
        )
        return rewards

    def _calculate_rewards(self: Any, *about: Any) -> Any:
        if not self._begun:
            return super()._calculate_rewards(*about)  # type: ignore[misc]
        rewards = [reward for part in self._begun for reward in part.result()]
        functions, self.reward_funcs = self.reward_funcs, [lambda **_: rewards]
        try:
            return super()._calculate_rewards(*about)  # type: ignore[misc]
        finally:
            self.reward_funcs = functions


class EarlyGRPOTrainer(EarlyScoring, GRPOTrainer):  # type: ignore[misc]
    """GRPO with early scoring."""


class EarlyRLOOTrainer(EarlyScoring, RLOOTrainer):  # type: ignore[misc]
    """RLOO with early scoring."""
