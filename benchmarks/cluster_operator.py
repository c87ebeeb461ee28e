"""Measures an operator with 200 nodes (simulated by kwok) and agents while one policy changes.

usage: cluster_operator.py [NODES]
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from infrasight_testbed.cluster_build import ClusterBuild
from infrasight_testbed.control_plane import running_control_plane
from infrasight_testbed.fake_agent import FakeAgent
from infrasight_testbed.operator_process import OperatorInstallation
from infrasight_testbed.process_cpu import cpu_seconds
from infrasight_testbed.system import Process
from rich.console import Console
from rich.table import Table

CRDS = Path(__file__).parent.parent / "helm/infrasight/crds"
CALLS = "infrasight_operator_api_calls_total"


def rss_mb(process: Process) -> float:
    """Resident memory in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return (
        int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))
        / 1024
    )


def seconds_until(done: Callable[[], bool]) -> float:
    """The seconds until a condition holds."""
    began = time.monotonic()
    while not done():
        time.sleep(0.01)
    return time.monotonic() - began


def measure(installation: OperatorInstallation, nodes: list[str], table: Table) -> None:
    """Fills the table."""
    installation.install()
    installation.policy("base", "execve")
    operator = installation.start()
    took = seconds_until(lambda: len(installation.node_probes()) == len(nodes))
    table.add_row("a fresh installation: ready, to the last NodeProbes", f"{took:.1f} s")
    table.add_row("memory with nobody connected", f"{rss_mb(operator):.0f} MB")
    agents = [FakeAgent(installation.address, node, pod=f"pod-{node}") for node in nodes]
    try:
        for agent in agents:
            agent.apply_next()
        running = 'infrasight_operator_nodes{state="Running"}'
        table.add_row(
            "all agents connected: to the last status",
            f"{seconds_until(lambda: operator.metric(running) == len(nodes)):.1f} s",
        )
        time.sleep(3)
        calls = operator.metric(CALLS)
        cpu = cpu_seconds(operator.pid)
        spread = [
            operator.metric(f"infrasight_operator_policy_spread_seconds_{part}")
            for part in ("sum", "count")
        ]
        installation.policy("base", "execve", "open")
        began = time.monotonic()
        came = [(agent, agent.next_configuration()) for agent in agents]
        table.add_row(
            "one policy changes: last agent has it, from kubectl's return",
            f"{max(time.monotonic() - began, 0) * 1000:.0f} ms",
        )
        seconds_until(
            lambda: operator.metric("infrasight_operator_policy_spread_seconds_count") > spread[1]
        )
        last = operator.metric("infrasight_operator_policy_spread_seconds_sum") - spread[0]
        table.add_row("from its being seen to the last NodeProbes written", f"{last:.2f} s")
        table.add_row("calls of the API for that", f"{operator.metric(CALLS) - calls:.0f}")
        for agent, configuration in came:
            agent.report(digest=configuration.digest, running=["execve", "open"])
        took = seconds_until(lambda: operator.metric(running) == len(nodes))
        time.sleep(2)
        table.add_row("all agents report: to the last status", f"{took:.1f} s")
        table.add_row(
            "calls of the API, the change and all reports", f"{operator.metric(CALLS) - calls:.0f}"
        )
        table.add_row(
            "CPU of the operator for all of it", f"{cpu_seconds(operator.pid) - cpu:.1f} s"
        )
        table.add_row("memory after it", f"{rss_mb(operator):.0f} MB")
        calls = operator.metric(CALLS)
        cpu = cpu_seconds(operator.pid)
        time.sleep(10)
        table.add_row(
            "at rest",
            f"{operator.metric(CALLS) - calls:.0f} calls, "
            f"{(cpu_seconds(operator.pid) - cpu) / 10:.1%} of one CPU",
        )
    finally:
        for agent in agents:
            agent.close()


def main() -> None:
    """Prints the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    table = Table("figure", "value", title=f"the operator, {count} nodes")
    build = ClusterBuild()
    build.start()
    build.wait(print)
    if build.folder is None:
        sys.exit(f"no control plane here: {build.reason}")
    with (
        running_control_plane(build.folder, [CRDS]) as cluster,
        tempfile.TemporaryDirectory() as folder,
    ):
        names = [f"node-{number:03}" for number in range(count)]
        labels = {"pool": "bench", "kubernetes.io/os": "linux"}
        nodes = [
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
            for name in names
        ]
        cluster.kubectl("create", "-f", "-", text=yaml.safe_dump_all(nodes))
        cluster.kubectl("create", "namespace", "bench")
        installation = OperatorInstallation(cluster, "bench", Path(folder), "bench")
        try:
            measure(installation, names, table)
        finally:
            installation.stop()
    Console().print(table)


if __name__ == "__main__":
    main()
