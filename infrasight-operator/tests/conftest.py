"""An operator in a real cluster, with nodes of the test's own."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from infrasight_testbed.follower import Follower
from infrasight_testbed.operator_process import Installed

MakeNode = Callable[..., str]
Follow = Callable[..., Follower]


@pytest.fixture
def node(add_node: MakeNode, pool: str) -> MakeNode:
    """Adds a node of the installation, with labels."""
    return lambda name, **labels: add_node(name, pool=pool, **labels)


@pytest.fixture
def follow(installed: Installed) -> Iterator[Follow]:
    """Opens streams to the operator, and closes them in the end."""
    opened: list[Follower] = []

    def open_(node: str, **said: Any) -> Follower:
        opened.append(Follower(installed.address, node, **said))
        return opened[-1]

    yield open_
    for follower in opened:
        follower.close()
