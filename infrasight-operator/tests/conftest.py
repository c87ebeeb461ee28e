"""Fixtures: nodes of the installation, and agents that connect to its operator."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from infrasight_testbed.fake_agent import FakeAgent
from infrasight_testbed.operator_process import OperatorInstallation

AddNode = Callable[..., str]
ConnectAgent = Callable[..., FakeAgent]


@pytest.fixture
def node(add_node: AddNode, pool: str) -> AddNode:
    """Adds a node to the installation, with labels; returns its name in the cluster."""
    return lambda name, **labels: add_node(name, pool=pool, **labels)


@pytest.fixture
def connect_agent(installation: OperatorInstallation) -> Iterator[ConnectAgent]:
    """Connects an agent of a node to the operator; all are closed after the test."""
    agents: list[FakeAgent] = []

    def connect(node: str, **fields: Any) -> FakeAgent:
        agent = FakeAgent(installation.address, node, **fields)
        agents.append(agent)
        return agent

    yield connect
    for agent in agents:
        agent.close()
