"""Fixtures that several attackers share."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from infrasight_testbed.certified_site import Site, running_site


@pytest.hookimpl(tryfirst=True)  # before pytest selects tests by their markers
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Marks the attacks as slow: together they take minutes."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow(reason="the attacks take minutes"))


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with mutual TLS, which attackers with certificates attack."""
    with running_site(tmp_path_factory.mktemp("site")) as running:
        yield running
