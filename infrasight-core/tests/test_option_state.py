"""State that is rebuilt when the options of its enricher change."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from attrs import frozen
from infrasight.v1.stream_pb2 import Container
from infrasight_core import ConfigError, EnrichContext
from infrasight_core.enrichers.option_state import OptionState


@frozen
class Options:
    """Options with one key."""

    size: int = 1


class State:
    """State that records whether it was closed."""

    def __init__(self, options: Options, publish: object) -> None:
        self.size = options.size
        self.closed = threading.Event()

    def close(self) -> None:
        """Records the call."""
        self.closed.set()


def ignore(containers: Sequence[Container]) -> None:
    """Ignores updates."""


def context(**fields: Any) -> EnrichContext:
    """Returns the context of a batch on the agent."""
    return EnrichContext("agent", "execve", "here", **fields)


def test_state_is_shared_by_batches_with_equal_options() -> None:
    """Equal options give the same state; other options build a new one and close the old one."""
    states = OptionState("test", Options, State)
    assert states.current is None
    first = states.of(context(options={"size": 2}))
    assert states.of(context(options={"size": 2})) is first is states.current
    second = states.of(context(options={"size": 3}))
    assert (first.size, second.size) == (2, 3)
    assert first.closed.wait(60)
    assert not second.closed.is_set()


def test_state_is_rebuilt_for_another_receiver_of_updates() -> None:
    """The state publishes to the receiver of the current batch."""
    states = OptionState("test", Options, State)
    first = states.of(context())
    second = states.of(context(publish=ignore))
    assert second is not first
    assert first.closed.wait(60)


def test_invalid_options_leave_the_state_unchanged() -> None:
    """An unknown option is an error, and the previous state stays open."""
    states = OptionState("test", Options, State)
    first = states.of(context())
    with pytest.raises(ConfigError, match=r"unknown key options\.test\.sise"):
        states.of(context(options={"sise": 3}))
    assert states.current is first
    assert not first.closed.is_set()
