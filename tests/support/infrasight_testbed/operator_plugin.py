"""pytest: an operator's place in the real cluster, with nodes of the test's own."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from infrasight_testbed.control_plane import ControlPlane
from infrasight_testbed.operator_process import Installed


@pytest.fixture
def pool() -> str:
    """The value of the label `pool` that the test's nodes have."""
    return f"pool-{uuid.uuid4().hex[:8]}"  # not all digits and an e: that would be a number in YAML


@pytest.fixture
def installed(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, pool: str
) -> Iterator[Installed]:
    """A namespace with the operator's rights; nothing runs yet."""
    made = Installed(control_plane, namespace, tmp_path, pool)
    yield made
    made.stop()
