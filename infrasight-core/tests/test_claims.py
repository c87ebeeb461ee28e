"""Claims of containers: only a runtime of the user who made the cgroup confirms one."""

import os
from collections.abc import Sequence
from contextlib import closing

import pytest
from infrasight.v1.stream_pb2 import Container
from infrasight_core.containers.cgroup_index import Claim
from infrasight_core.containers.metadata_lookup import MetadataLookup
from infrasight_core.containers.options import ContainerOptions
from infrasight_testbed.fake_docker import fake_docker
from infrasight_testbed.system import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changing a socket's owner needs root")
USER = 1000
KNOWN = "a" * 64
OTHER = "b" * 64


def publish(_: Sequence[Container]) -> None:
    """Ignores updates."""


@pytest.mark.parametrize("owner", [0, USER])
def test_claim_is_confirmed_by_a_runtime_of_its_maker(owner: int) -> None:
    """Root's runtime knows the container, too, but not that this cgroup is the container's."""
    claims = [Claim(KNOWN, USER), Claim(OTHER, USER), Claim(KNOWN, USER + 1), Claim(KNOWN, 0)]
    with fake_docker({KNOWN: {}}) as path:
        os.chown(path, owner, owner)
        options = ContainerOptions(sockets=(str(path),), wait=5.0)
        with closing(MetadataLookup(options, publish)) as lookup:
            until(lambda: lookup.look_up([KNOWN]) != [None], "the runtime reports the container")
            confirmed = lookup.confirm(claims)
    assert confirmed == (frozenset() if owner == 0 else {claims[0]})
