"""pytest plugin: spreads whole test files over the workers of pytest-xdist.

A file's tests stay together, because they share what a fixture has loaded. Files whose tests would
disturb each other carry the same `xdist_group` mark and run on one worker, one after the other.
"""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadGroupScheduling


class FileOrGroupScheduling(LoadGroupScheduling):  # type: ignore[misc] # xdist has no types
    """Schedules by group where a test has one, else by file."""

    def _split_scope(self, nodeid: str) -> str:
        scope: str = super()._split_scope(nodeid)
        return scope.partition("::")[0]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts all tests of the control plane into one group, so that only one is started."""
    for item in items:
        if "control_plane" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("cluster"))


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(
    config: pytest.Config, log: Producer
) -> FileOrGroupScheduling | None:
    """Provides the scheduler for `--dist loadgroup`."""
    return FileOrGroupScheduling(config, log) if config.option.dist == "loadgroup" else None
