"""A policy in a real cluster's API becomes rows in the store: operator, agent, kernel, server; only the node is kwok's."""

import uuid
from collections.abc import Callable
from pathlib import Path

from infrasight_testbed.operator_process import OperatorInstallation
from infrasight_testbed.system import execute, running_system, until


def test_a_policy_becomes_rows(
    installation: OperatorInstallation, add_node: Callable[..., str], pool: str, tmp_path: Path
) -> None:
    """An agent records nothing until a policy says so, then what it says, and stops when the policy goes; nothing is restarted.

    The statuses say what the agent does: a probe that it does not have fails alone.
    """
    node = add_node("real", pool=pool)
    installation.install()
    installation.start()
    until(lambda: node in installation.node_probes(), "the node is known")
    marker = uuid.uuid4().hex
    with running_system(tmp_path) as system:
        system.start_server()
        agent = system.start_agent(
            *("--node", node),
            every_probe=True,
            ready=False,
            environment={
                "INFRASIGHT_AGENT_OPERATOR": installation.address,
                "INFRASIGHT_AGENT_STATE": str(tmp_path / "state"),
            },
        )
        until(
            lambda: installation.get("nodeprobes", node).get("status", {}).get("state") == "Idle",
            "it waits",
            120,
        )
        execute(marker, 5)
        installation.policy("base", "execve", "no_such_probe")
        until(
            lambda: installation.get("nodeprobes", node)["status"].get("running") == ["execve"],
            "it records",
            120,
        )
        execute(marker, 5, first=5)
        until(lambda: len(system.rows(marker)) == 5, "the rows are there")
        assert [row["argv"][2] for row in system.rows(marker)] == [
            str(number) for number in range(5, 10)
        ]
        until(
            lambda: installation.get("probepolicy", "base")["status"].get("problems", []) != [],
            "the problem is told",
        )
        (problem,) = installation.get("probepolicy", "base")["status"]["problems"]
        assert (problem["node"], problem["probe"]) == (node, "no_such_probe")
        installation.policy("base", "execve", "chmod")
        until(
            lambda: installation.condition("probepolicy", "base", "Ready").get("status") == "True",
            "all of it runs",
        )
        installation.delete("probepolicy", "base")
        until(
            lambda: installation.get("nodeprobes", node)["status"]["state"] == "Idle",
            "it waits again",
        )
        execute(marker, 5, first=10)
        assert agent.stop() == 0
        assert len(system.rows(marker)) == 5
