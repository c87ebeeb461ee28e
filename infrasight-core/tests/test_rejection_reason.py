"""Tests of the names of rejection reasons."""

from infrasight.v1.stream_pb2 import RejectionReason
from infrasight_core.net.rejection_reason import reason_name


def test_every_reason_has_a_short_name() -> None:
    """A reason is named without its prefix, in lower case, and no two names are equal."""
    assert reason_name(RejectionReason.REJECTION_REASON_TOO_LARGE) == "too_large"
    names = {reason_name(number) for number in RejectionReason.values()}
    assert len(names) == len(RejectionReason.values())


def test_unknown_reason_of_a_newer_server_is_unknown() -> None:
    """A number that the agent's version does not define raises nothing."""
    assert reason_name(4711) == "unknown"
