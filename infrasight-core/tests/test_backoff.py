"""The pauses between attempts."""

from infrasight_core.net.backoff import Backoff


def test_backoff_doubles_up_to_the_limit_and_begins_again_after_a_reset() -> None:
    """Each pause is at most its share of the doubling, and at most a quarter shorter."""
    backoff = Backoff(first=1, longest=5)
    for limit in (1, 2, 4, 5, 5):
        assert 0.75 * limit <= backoff.next_pause() <= limit
    backoff.reset()
    assert 0.75 <= backoff.next_pause() <= 1
