"""Evidence: what a window of traces shows, measured without an LLM. Pure."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import correlation, fmean, pstdev

from regrade.contracts import Evidence, Flag, Purpose, Trace, as_text
from services.kit import text as surface

SATURATED = 0.95
_EQUAL = 1e-6

# An alarm is raised when its figure passes the limit.
_MAX_DRIFT = {"words": -0.3, "distinct_4": -0.15, "topic_overlap": -0.2, "ends_properly": -0.2}
_MAX_CORRELATION = 0.7
_MAX_ZERO_VARIANCE = 0.5
_MAX_SATURATED = 0.5


def features(trace: Trace) -> dict[str, float]:
    """Surface features of one completion; shares are in [0, 1], `words` is a count."""
    completion = as_text(trace.completion)
    tokens = surface.words(completion)
    prompt = surface.words(as_text(trace.prompt))
    return {
        "words": float(len(tokens)),
        "distinct_4": surface.distinct_share(tokens, 4),
        "compression": surface.compression_ratio(completion),
        "topic_overlap": surface.topic_overlap(tokens, prompt),
        "prompt_copied": surface.copied_share(tokens, prompt),
        "ends_properly": float(surface.ends_properly(completion)),
        "truncated": float(Flag.TRUNCATED in trace.flags),
    }


def is_evidence(trace: Trace) -> bool:
    """Only training items feed evidence and triggers."""
    return trace.purpose is Purpose.TRAIN


def by_group(traces: Sequence[Trace]) -> list[list[Trace]]:
    """Traces whose rewards were compared with each other, in groups of two or more."""
    groups: defaultdict[tuple[str | None, int | None, str], list[Trace]] = defaultdict(list)
    for trace in traces:
        groups[trace.run, trace.step, trace.group].append(trace)
    return [group for group in groups.values() if len(group) > 1]


def zero_variance_share(traces: Sequence[Trace]) -> float:
    """Share of groups whose rewards are all equal: those teach the policy nothing."""
    groups = by_group(traces)
    flat = sum(max(t.reward for t in g) - min(t.reward for t in g) < _EQUAL for g in groups)
    return flat / len(groups) if groups else 0.0


def measure(traces: Sequence[Trace], baseline: Sequence[Trace], window: tuple[str, str]) -> Evidence:
    """The evidence of a window against the run's first steps. `traces` must not be empty."""
    rows = [features(trace) for trace in traces]
    rewards = [trace.reward for trace in traces]
    means = _means(rows)
    first = _means([features(trace) for trace in baseline]) if baseline else means
    steps = [trace.step for trace in traces if trace.step is not None]
    correlations = {name: _correlation([row[name] for row in rows], rewards) for name in means}
    drift = {name: means[name] - first[name] for name in means}
    saturated = sum(reward >= SATURATED for reward in rewards) / len(rewards)
    zero_variance = zero_variance_share(traces)
    return Evidence(
        window=window,
        traces=len(traces),
        groups=len(by_group(traces)),
        first_step=min(steps, default=None),
        last_step=max(steps, default=None),
        means=means,
        drift=drift,
        correlation=correlations,
        reward_mean=fmean(rewards),
        reward_std=pstdev(rewards),
        saturated_share=saturated,
        zero_variance_groups=zero_variance,
        flagged_share=sum(bool(trace.flags) for trace in traces) / len(traces),
        flag_shares={flag: count / len(traces) for flag, count in sorted(_flags(traces).items())},
        alarms=tuple(_alarms(first, drift, correlations, saturated, zero_variance)),
    )


def _alarms(
    first: Mapping[str, float],
    drift: Mapping[str, float],
    correlations: Mapping[str, float],
    saturated: float,
    zero_variance: float,
) -> list[str]:
    alarms = []
    for name, limit in _MAX_DRIFT.items():
        scale = first[name] if name == "words" else 1.0
        if scale > 0.0 and drift[name] / scale < limit:
            alarms.append(f"{name}_fell")
    alarms.extend(f"reward_follows_{name}" for name, r in correlations.items() if abs(r) > _MAX_CORRELATION)
    if saturated > _MAX_SATURATED:
        alarms.append("reward_saturated")
    if zero_variance > _MAX_ZERO_VARIANCE:
        alarms.append("groups_without_spread")
    return alarms


def _flags(traces: Sequence[Trace]) -> Counter[str]:
    """How many traces raised each flag: what the policy is trying."""
    return Counter(flag for trace in traces for flag in trace.flags)


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: fmean(row[name] for row in rows) for name in rows[0]}


def _correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    if len(xs) < 3 or pstdev(xs) < _EQUAL or pstdev(ys) < _EQUAL:
        return 0.0
    return max(-1.0, min(1.0, correlation(xs, ys)))
