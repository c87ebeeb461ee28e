"""pytest fixtures: a namespace for an operator in the real cluster, with nodes for one test."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from infrasight_testbed.control_plane import ControlPlane
from infrasight_testbed.operator_process import OperatorInstallation


@pytest.fixture
def pool() -> str:
    """The value of the label `pool` on the test's nodes."""
    return f"pool-{uuid.uuid4().hex[:8]}"  # without the prefix, 123e4567 is a number in YAML


@pytest.fixture
def installation(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, pool: str
) -> Iterator[OperatorInstallation]:
    """A namespace with the operator's rights; the operator is not started yet."""
    created = OperatorInstallation(control_plane, namespace, tmp_path, pool)
    yield created
    created.stop()
