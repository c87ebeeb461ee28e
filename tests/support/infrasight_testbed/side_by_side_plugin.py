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
def pytest_xdist_make_scheduler(
    config: pytest.Config, log: Producer
) -> FileOrGroupScheduling | None:
    """Provides the scheduler for `--dist loadgroup`."""
    return FileOrGroupScheduling(config, log) if config.option.dist == "loadgroup" else None
