"""The contract of the testing kit: the sample probe passes it; a probe without events fails it."""

import os

import infrasight_probe_sample.plugin as sample
import pytest
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.testing import ProbeContract


def sample_plugins() -> PluginManager:
    """Returns a manager with the sample probe, which no entry point names."""
    plugins = PluginManager()
    plugins.register("sample", sample)
    return plugins


class TestSample(ProbeContract):
    """The contract's tests."""

    probe = "sample"
    unfilled = frozenset({"exe"})  # the sample's program leaves it out to stay short

    @pytest.fixture
    def plugins(self) -> PluginManager:
        """A manager with the sample probe."""
        return sample_plugins()

    def make_event(self) -> None:
        """Opens a file."""
        os.close(os.open("/dev/null", os.O_RDONLY))


class WithoutEvents(ProbeContract):
    """A contract whose author has not overridden `make_event`."""

    probe = "sample"


class IdleEvents(ProbeContract):
    """A contract whose `make_event` does nothing that the probe could record."""

    probe = "sample"

    def make_event(self) -> None:
        """Does nothing."""


def test_contract_names_the_method_that_an_author_must_override() -> None:
    """Without an override the error names the class, the method and the probe."""
    with pytest.raises(
        NotImplementedError, match=r"WithoutEvents must .* make_event\(\).*'sample'"
    ):
        WithoutEvents().test_every_event_is_a_row_or_counted_as_dropped(sample_plugins())


def test_contract_fails_for_a_probe_that_records_no_events() -> None:
    """Zero rows for zero events prove nothing, and are a failure."""
    with pytest.raises(AssertionError, match=r"fewer events|have no row"):
        IdleEvents().test_every_event_is_a_row_or_counted_as_dropped(sample_plugins())
