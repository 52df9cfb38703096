"""Early completions as anchors: what a run wrote before it could learn to please, as far as it can be trusted. Pure.

The more decisions have been made on the same anchors, the more originals the next one takes (`power.py`). They come
from the policy's own first steps: not flagged or truncated, finished, and really changed by the transforms that damage
them. Decisions go on being counted as before: more originals are more power, not a new error level.
"""

import hashlib
from collections.abc import Sequence
from difflib import SequenceMatcher
from random import Random

from regrade.contracts import Trace, as_text
from regrade.tasks.anchors import TRANSFORMS, AnchorSet, is_held_out, is_substantially_changed
from regrade.tasks.pack import Original
from services.kit.text.features import ends_properly, words
from services.meta_reward.gate.alpha_spending import decision_alpha, min_originals

_MARGIN_FACTOR = 1.5
"""So many times as many originals as are needed at all: with the fewest only one better on every single one passes."""
_WAYS_TO_GAIN = 2
_MAX_CHARS = 20_000
_MUST_CHANGE = ("first_line", "cut_off", "repeated")
_COPY_RATIO = 0.9


def missing_originals(anchors: AnchorSet, alpha: float, decision: int, candidates: int) -> int:
    """How many more originals the `decision`-th decision, on so many candidates, would do well to have."""
    needed = min_originals(decision_alpha(alpha, decision) / (_WAYS_TO_GAIN * candidates))
    return max(0, int(_MARGIN_FACTOR * needed + 0.5) - len(anchors.originals))


def select_early(traces: Sequence[Trace], anchors: AnchorSet, count: int) -> dict[str, Original]:
    """At most `count` of a run's first traces as originals, by trace id: one for a prompt, in an order by lot."""
    known = {case.prompt for case in anchors.originals} | {original.prompt for original in anchors.visible}
    found: dict[str, Original] = {}
    for trace in sorted(traces, key=lambda trace: hashlib.sha256(trace.trace_id.encode()).digest()):
        prompt = as_text(trace.prompt)
        if len(found) == count:
            break
        if prompt in known or not is_held_out(trace.trace_id):
            continue
        original = _trusted(trace)
        if original is not None and not any(_is_copy(original, other) for other in found.values()):
            found[trace.trace_id] = original
            known.add(prompt)
    return found


def _trusted(trace: Trace) -> Original | None:
    prompt, text = as_text(trace.prompt), as_text(trace.completion).strip()
    reference = trace.reference or None
    longest = max(len(text), len(prompt), len(reference or ""))
    if trace.flags or not ends_properly(text) or longest > _MAX_CHARS or not prompt:
        return None
    name = hashlib.sha256(trace.trace_id.encode()).hexdigest()[:16]
    original = Original(id=f"early-{name}", prompt=prompt, completion=text, reference=reference)
    twins = (TRANSFORMS[kind](original, Random(name), ()) for kind in _MUST_CHANGE)  # noqa: S311 - a fixed choice
    return original if all(is_substantially_changed(text, twin) for twin in twins) else None


def _is_copy(one: Original, other: Original) -> bool:
    """Whether two answers are one text: then the policy answers nothing."""
    return SequenceMatcher(None, words(one.completion), words(other.completion), autojunk=False).ratio() > _COPY_RATIO
