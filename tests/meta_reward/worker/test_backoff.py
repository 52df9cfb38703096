"""Backoff of a lineage whose cycles fail."""

from services.meta_reward.worker.backoff import Backoff


def test_backoff_doubles_to_five_minutes_and_starts_again_after_a_success() -> None:
    backoff = Backoff()
    assert backoff.is_over(0.0)
    for longest in (1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300):
        backoff.failed(1_000.0)
        assert not backoff.is_over(1_000.0 + longest / 2 - 0.01)
        assert backoff.is_over(1_000.0 + longest)
    backoff.succeeded()
    assert backoff.is_over(0.0)
    backoff.failed(0.0)
    assert backoff.is_over(1.0)
