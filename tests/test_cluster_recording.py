"""From a policy in a real API server to rows in the store; only the node is simulated."""

import uuid
from collections.abc import Callable
from pathlib import Path

from infrasight_testbed.operator_process import OperatorInstallation
from infrasight_testbed.system import execute, running_system, until


def test_policy_becomes_rows(
    installation: OperatorInstallation, add_node: Callable[..., str], pool: str, tmp_path: Path
) -> None:
    """An agent records exactly while a policy selects a probe, and is never restarted.

    The statuses show what the agent does; an unknown probe fails alone.
    """
    node = add_node("real", pool=pool)
    installation.install()
    installation.start()
    until(lambda: node in installation.node_probes(), "the node has a configuration")
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
            "the agent is idle",
            120,
        )
        execute(marker, 5)
        installation.policy("base", "execve", "no_such_probe")
        until(
            lambda: installation.get("nodeprobes", node)["status"].get("running") == ["execve"],
            "the agent records",
            120,
        )
        execute(marker, 5, first=5)
        until(lambda: len(system.rows(marker)) == 5, "the rows are stored")
        assert [row["argv"][2] for row in system.rows(marker)] == [
            str(number) for number in range(5, 10)
        ]
        until(
            lambda: installation.get("probepolicy", "base")["status"].get("problems", []) != [],
            "the policy reports the problem",
        )
        (problem,) = installation.get("probepolicy", "base")["status"]["problems"]
        assert (problem["node"], problem["probe"]) == (node, "no_such_probe")
        installation.policy("base", "execve", "chmod")
        installation.until_condition("probepolicy", "base", "Ready", True)
        installation.delete("probepolicy", "base")
        until(
            lambda: installation.get("nodeprobes", node)["status"]["state"] == "Idle",
            "the agent is idle again",
        )
        execute(marker, 5, first=10)
        assert agent.stop() == 0
        assert len(system.rows(marker)) == 5
