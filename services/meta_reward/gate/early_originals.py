"""Early completions as originals: what a run wrote before it could learn to exploit the rubric. Pure.

The more decisions have been made on the same anchors, the more originals the next one needs (`alpha_spending.py`). More
come from the policy's first steps: unflagged, finished, and clearly changed by the transforms that damage them. They
add power but no error level: decisions are counted as if they were not there.
"""

import hashlib
from collections.abc import Sequence
from random import Random

from regrade.contracts import Trace, as_text
from regrade.tasks.anchors import TRANSFORMS, AnchorSet, is_held_out, is_substantially_changed
from regrade.tasks.pack import Original
from services.kit.text.features import copied_share
from services.kit.text.segments import ends_properly, words
from services.meta_reward.gate.alpha_spending import level_per_test, min_originals

_MARGIN_FACTOR = 1.5
"""With the minimum of originals, only a candidate that is better on every one of them passes."""
_MAX_CHARS = 20_000
"""Longer texts would make each gate expensive."""
_MUST_CHANGE = ("first_line", "cut_off", "repeated")
_COPY_WORDS = 3
_COPIED_SHARE = 0.8
"""Share of word triples. Above it, completions for two prompts are one text: the policy ignores its prompt."""


def missing_originals(anchors: AnchorSet, alpha: float, decision: int, candidates: int) -> int:
    """How many more originals the `decision`-th decision, on so many candidates, should have."""
    needed = min_originals(level_per_test(alpha, decision, candidates))
    return max(0, int(_MARGIN_FACTOR * needed + 0.5) - len(anchors.originals))


def select_early(traces: Sequence[Trace], anchors: AnchorSet, count: int) -> dict[str, Original]:
    """At most `count` of a run's first traces as originals, by trace id: one per prompt, in a fixed random order."""
    prompts = {case.prompt for case in anchors.originals} | {original.prompt for original in anchors.visible}
    selected: dict[str, Original] = {}
    for trace in sorted(traces, key=lambda trace: hashlib.sha256(trace.trace_id.encode()).digest()):
        prompt = as_text(trace.prompt)
        if len(selected) == count:
            break
        if prompt in prompts or not is_held_out(trace.trace_id):
            continue
        original = _as_original(trace)
        if original is not None and not any(_is_copy(original, other) for other in selected.values()):
            selected[trace.trace_id] = original
            prompts.add(prompt)
    return selected


def _as_original(trace: Trace) -> Original | None:
    """The trace as an original, or None if it can't be trusted."""
    prompt, text = as_text(trace.prompt), as_text(trace.completion).strip()
    reference = trace.reference or None
    longest = max(len(text), len(prompt), len(reference or ""))
    if trace.flags or not ends_properly(text) or longest > _MAX_CHARS or not prompt:
        return None
    name = hashlib.sha256(trace.trace_id.encode()).hexdigest()[:16]
    original = Original(id=f"early-{name}", prompt=prompt, completion=text, reference=reference)
    copies = (TRANSFORMS[kind](original, Random(name), ()) for kind in _MUST_CHANGE)  # noqa: S311 - a fixed choice
    return original if all(is_substantially_changed(text, copy) for copy in copies) else None


def _is_copy(one: Original, other: Original) -> bool:
    return copied_share(words(one.completion), words(other.completion), _COPY_WORDS) > _COPIED_SHARE
