"""The spread rule of automatic rollbacks, on traces in memory."""

from services.meta_reward.monitoring.rollback import spread_collapse_reason
from tests.support.builders import trace


def test_a_collapse_of_spread_is_a_reason() -> None:
    spread = [trace(str(n), reward=n / 10, group=f"g{n // 2}") for n in range(8)]
    flat = [trace(str(n), reward=0.5, group=f"g{n // 2}") for n in range(8)]
    flagged = [trace(str(n), reward=0.0, group=f"g{n // 2}", flags=("empty",)) for n in range(8)]
    assert spread_collapse_reason(spread, spread) is None
    assert "spread collapsed" in (spread_collapse_reason(spread, flat) or "")
    assert spread_collapse_reason(spread, flagged) is None
    assert spread_collapse_reason(flat, flat) is None
    alone = [trace(str(n), reward=n / 10, group=f"g{n}") for n in range(8)]
    assert spread_collapse_reason([], flat) is None, "an unknown past is not a better one"
    assert spread_collapse_reason(alone, flat) is None, "without groups its spread is unknown"


def test_what_a_check_takes_out_of_a_group_is_spread() -> None:
    """Half of each group is bad, and the good half scores alike: before and after say the same."""
    split = [
        trace(str(n), reward=0.3 if n % 2 else 0.9, group=f"g{n // 8}", flags=("empty",) if n % 2 else ())
        for n in range(32)
    ]
    assert spread_collapse_reason(split, split) is None


def test_a_tied_pair_shows_nothing() -> None:
    spread = [trace(str(n), reward=n / 10, group=f"g{n // 2}") for n in range(8)]
    flagged = [trace(f"f{n}", reward=0.0, group=f"f{n // 2}", flags=("empty",)) for n in range(62)]
    tied = [trace(f"t{n}", reward=0.5, group="t") for n in range(2)]
    assert spread_collapse_reason(spread, [*flagged, *tied]) is None
    assert spread_collapse_reason(spread[:2], tied * 4) is None
