"""The state of one item while its batch is scored."""

from collections import Counter
from dataclasses import dataclass, field

from regrade.contracts import Mode, Rubric, ScoreItem, ScoreRequest, as_text
from services.kit.results import CriterionScore, ItemError, ItemResult, Usage
from services.kit.store.rubric_store import RubricPointer
from services.kit.store.trace_log import PinRequest
from services.reward.items.identity import content_key, item_base, request_key
from services.reward.items.text import PreparedText, prepare_text

_NO_USAGE = Usage()


@dataclass(slots=True, eq=False)
class ScoringState:
    """An item, and what the stages of the pipeline (pins, screening, judge, result) have set so far."""

    item: ScoreItem
    item_id: str
    """As given, else the ordinal among equal items of the request."""
    group: str
    """As given, else the hash of the prompt."""
    base: str
    """The item's identity without the rubric."""
    prompt: PreparedText
    completion: PreparedText

    rubric: Rubric = field(init=False)
    pointer: RubricPointer = field(init=False)
    """Digest, version and scope of `rubric`."""
    pin: PinRequest | None = None
    degraded: bool = False
    """The pin or the stored outcome comes from this replica's memory or disk, not from Redis."""

    flags: list[str] = field(default_factory=list)
    stopped: bool = False
    """A guard made the reward 0."""
    vetoed: bool = False
    """A check with the role of a veto made the reward 0."""
    scores: dict[str, CriterionScore] = field(default_factory=dict)
    """By id of the criterion."""
    error: ItemError | None = None
    usage: Usage = _NO_USAGE
    result: ItemResult | None = None
    """The outcome that an earlier request stored, else the one of this request."""

    @property
    def needs_judge(self) -> bool:
        """Whether the reward depends on the judge."""
        return not (self.stopped or self.vetoed or self.error is not None)


def new_states(request: ScoreRequest, mode: Mode, judge_model: str) -> list[ScoringState]:
    """A state for each item, in order. A prompt is prepared once for all of its group."""
    shared_key = request_key(request, mode, judge_model)
    prompts = {text: prepare_text(text) for text in {as_text(item.prompt) for item in request.items}}
    ordinals: Counter[tuple[str, ...]] = Counter()
    states = []
    for item in request.items:
        prompt, completion = prompts[as_text(item.prompt)], prepare_text(as_text(item.completion))
        content = content_key(item, prompt, completion)
        group = item.group or prompt.digest.hex()
        item_id = item.id
        if item_id is None:
            equal_items = (item.group or "", *content)
            item_id = f"#{ordinals[equal_items]}"
            ordinals[equal_items] += 1
        base = item_base(shared_key, group, item_id, content)
        states.append(ScoringState(item, item_id, group, base, prompt, completion))
    return states
