"""The wait before a retry: doubled each time, bounded, and drawn at random from its upper half."""

from regrade.backoff import backoff_s


def test_waits_double_up_to_the_bound_and_differ() -> None:
    for failures, longest in ((1, 0.5), (2, 1.0), (3, 2.0), (4, 3.0), (1_000, 3.0)):
        waits = [backoff_s(failures, first_s=0.5, max_s=3.0) for _ in range(100)]
        assert all(longest / 2 <= wait <= longest for wait in waits)
        assert len(set(waits)) > 1
