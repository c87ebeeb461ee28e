"""Fixtures that several attackers share."""

from collections.abc import Iterator

import pytest
from infrasight_testbed.certified_site import Site, running_site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with mutual TLS, which attackers with certificates attack."""
    with running_site(tmp_path_factory.mktemp("site")) as running:
        yield running
