"""Runs all of InfraSight in a Kubernetes cluster, from an empty API server to an empty one again.

    make tour        as root; takes about a minute, plus once the build of the cluster tools

API server, controllers, scheduler, helm, the chart, the operator with its service account's token,
the server and three agents are real; the agents record this machine's kernel. kwok simulates the
nodes, and pods are local processes. While programs are executed all the time, policies and labels
change, the operator is killed in every step and the API server once. Each step waits until specs
and statuses are correct. At the end no event is missing, and no object is left.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field
from infrasight_testbed.control_plane import ControlPlane, running_control_plane
from infrasight_testbed.installed_chart import NAMESPACE, InstalledChart, installed_chart
from infrasight_testbed.kubelet import Pod
from infrasight_testbed.system import execute, until

TOOLS = Path(__file__).parents[1] / "tools" / "cluster_tools.py"
ROLES = {"node-a": "web", "node-b": "db", "node-c": "spare"}
IS_BUSY = {"key": "role", "operator": "In", "values": ["web", "db"]}
BUSY_NODES = {"nodeSelector": {"matchExpressions": [IS_BUSY]}}
BUSY_PROBES: list[dict[str, Any]] = [
    {"name": "execve"},
    {"name": "chmod", "filters": {"includePath": ["/etc/"]}},
]
WEB_PROBES: list[dict[str, Any]] = [
    {"name": "chmod", "enabled": False},
    {"name": "open", "filters": {"includePath": ["/etc/shadow"]}},
]
VALUES: dict[str, Any] = {
    "store": {"type": "embedded", "embedded": {"persistence": {"enabled": False}}},
    "agent": {"settings": {"blockMemory": "16Mi"}},
    "probePolicies": {
        "default": None,
        "files": None,
        "busy": {**BUSY_NODES, "probes": BUSY_PROBES},
        "web": {
            "nodeSelector": {"matchLabels": {"role": "web"}},
            "priority": 10,
            "probes": WEB_PROBES,
        },
    },
}
IN_EVERY_NAMESPACE = {"configmap/kube-root-ca.crt", "serviceaccount/default"}


@define
class Workload:
    """Executes numbered programs until it is stopped.

    Attributes:
        count: How many programs it has executed.
    """

    count: int = 0
    _stop: threading.Event = field(factory=threading.Event, init=False)

    def work(self) -> None:
        """Executes programs until it is stopped."""
        while not self._stop.wait(0.01):
            execute("mark-tour", 1, self.count)
            self.count += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """Executes programs in a thread."""
        worker = threading.Thread(target=self.work, name="workload")
        worker.start()
        try:
            yield
        finally:
            self._stop.set()
            worker.join()


class Tour:
    """The steps of the tour.

    Args:
        control_plane: An empty cluster.
        chart: The chart to install.
        report: Called with a line of text after each step.
    """

    def __init__(
        self, control_plane: ControlPlane, chart: InstalledChart, report: Callable[[str], object]
    ) -> None:
        self._control_plane = control_plane
        self._chart = chart
        self._report = report

    def run(self) -> None:
        """Runs all steps."""
        for name, role in ROLES.items():
            self._control_plane.add_node(name, role=role)
        self._chart.install(VALUES)
        installed = {
            "node-a": {"execve", "open"},
            "node-b": {"execve", "chmod"},
            "node-c": set[str](),
        }
        self._await_statuses("installed", installed)
        agents = self._agent_pids()
        workload = Workload()
        with workload.running():
            self._change_policies_and_nodes()
        self._check_events(workload.count)
        assert self._agent_pids() == agents, "an agent was restarted"
        self._uninstall()

    def _agent_pids(self) -> dict[str, int]:
        return {name: self._chart.kubelet.pod("agent", name).process.pid for name in ROLES}

    def _change_policies_and_nodes(self) -> None:
        with_accept = {
            "node-a": {"execve", "open", "accept"},
            "node-b": {"execve", "chmod", "accept"},
            "node-c": set[str](),
        }
        with self._then_kill_operator(0.02):
            self._apply_busy_policy([*BUSY_PROBES, {"name": "accept"}])
        self._await_statuses("policy changed", with_accept)

        with_node_c = with_accept | {"node-c": {"execve", "chmod", "accept"}}
        with self._then_kill_operator(0.1):
            self._control_plane.kubectl("label", "node", "node-c", "role=db", "--overwrite")
        self._await_statuses("node relabelled", with_node_c)

        with self._then_kill_operator(0.3):
            self._apply_busy_policy([*BUSY_PROBES, {"name": "accept"}, {"name": "nonsense"}])
        failures = {"nonsense": "no installed plugin is called 'nonsense'"}
        self._await_statuses(
            "policy with an unknown probe", with_node_c, dict.fromkeys(ROLES, failures)
        )

        self._control_plane.kill_api_server()
        message = "the Kubernetes API is unavailable"
        logged = self._chart.kubelet.pod("operator").log().count(message)
        operator = self._kill_and_restart_operator()
        until(lambda: operator.log().count(message) > logged, "the operator waits for the API")
        self._control_plane.start_api_server()
        self._apply_busy_policy([*BUSY_PROBES, {"name": "connect"}])
        with_connect = {
            "node-a": {"execve", "open", "connect"},
            "node-b": {"execve", "chmod", "connect"},
            "node-c": {"execve", "chmod", "connect"},
        }
        self._await_statuses("API server killed and restarted", with_connect)

    def _apply_busy_policy(self, probes: list[dict[str, Any]]) -> None:
        policy = {
            "apiVersion": "infrasight.io/v1alpha1",
            "kind": "ProbePolicy",
            "metadata": {"name": "busy"},
            "spec": {**BUSY_NODES, "probes": probes},
        }
        self._control_plane.apply(policy, namespace=NAMESPACE)

    @contextmanager
    def _then_kill_operator(self, seconds: float) -> Iterator[None]:
        """Kills and restarts the operator some time after the body of the `with` statement."""
        yield
        time.sleep(seconds)
        self._kill_and_restart_operator()

    def _kill_and_restart_operator(self) -> Pod:
        operator = self._chart.kubelet.pod("operator")
        operator.process.kill()
        operator.start()
        return operator

    def _await_statuses(
        self,
        step: str,
        probes: Mapping[str, set[str]],
        failures: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Waits until the specs and statuses of all objects are as expected.

        Args:
            step: The step, for the report.
            probes: The running probes of each node.
            failures: The failed probes of each node, each with a part of its reason.
        """
        began = time.monotonic()
        expected_failures = failures or {}
        self._await_empty(lambda: self._find_deviations(probes, expected_failures), step)
        self._report(f"{step}: status correct after {time.monotonic() - began:.1f} s")

    def _await_empty(self, find: Callable[[], Collection[str]], step: str) -> None:
        """Waits until `find` returns nothing; a failure shows what it returned last."""
        last: list[str] = []

        def is_empty() -> bool:
            last[:] = find()
            return not last

        try:
            self._chart.until(is_empty, step)
        except AssertionError as error:
            pods = self._chart.kubelet.pods
            logs = [f"{name}:\n{pod.log()[-2000:]}" for name, pod in pods.items()]
            raise AssertionError("\n".join([f"{error}; remaining:", *last, *logs])) from error

    def _find_deviations(
        self, probes: Mapping[str, set[str]], failures: Mapping[str, Mapping[str, str]]
    ) -> list[str]:
        """Describes the objects that are not (yet) as expected."""
        node_probes = {
            body["metadata"]["name"]: body
            for body in self._control_plane.objects("nodeprobes", NAMESPACE)
        }
        if node_probes.keys() != probes.keys():
            return [f"NodeProbes exist for {sorted(node_probes)}"]
        deviations = []
        for name, running in probes.items():
            node_failures = failures.get(name, {}) if running else {}
            if not _matches(node_probes[name], running, node_failures):
                spec = node_probes[name]["spec"]
                deviations.append(f"{name}: {spec} {node_probes[name].get('status')}")
        for policy in self._control_plane.objects("probepolicies", NAMESPACE):
            policy_name = policy["metadata"]["name"]
            selected = [
                name
                for name, body in node_probes.items()
                if policy_name in body["spec"].get("policies", [])
            ]
            failed = 0
            if policy_name == "busy":
                failed = sum(name in failures for name in selected)
            counts = {
                "selected": len(selected),
                "running": len(selected) - failed,
                "pending": 0,
                "failed": failed,
            }
            if policy.get("status", {}).get("nodes") != counts:
                deviations.append(f"{policy_name}: {policy.get('status')}, not {counts}")
        status = self._chart.get("infrasight", "infrasight").get("status", {})
        failing = sum(bool(probes[name]) for name in failures)
        expected = {"nodes": len(ROLES), "failing": failing, "ready": len(ROLES) - failing}
        if {key: status.get(key) for key in expected} != expected:
            deviations.append(f"installation: {status}, not {expected}")
        return deviations

    def _check_events(self, count: int) -> None:
        """Checks that each execution is stored exactly once per node that recorded all the time."""

        def stored_numbers(node: str) -> list[int]:
            sql = (
                "SELECT toInt32(argv[3]) AS n FROM execve_events "
                f"WHERE node = '{node}' AND argv[2] = 'mark-tour' ORDER BY n"
            )
            return [int(row["n"]) for row in self._chart.run_command("query", sql)]

        executed = list(range(count))
        # node-c records executions only since it was relabelled.
        self._chart.until(
            lambda: stored_numbers("node-a") == stored_numbers("node-b") == executed,
            "all executions are stored",
            30,
        )
        accounts = self._chart.run_command("verify", "--format=json")
        assert {account["node"] for account in accounts} == set(ROLES), accounts
        assert all(account["difference"] == 0 for account in accounts), accounts
        self._report(
            f"{count} executions, each stored exactly once for each of two nodes; "
            f"verify: {len(accounts)} accounts, difference 0"
        )

    def _uninstall(self) -> None:
        """Uninstalls the chart and checks that no object, process or definition is left."""
        began = time.monotonic()
        kubectl = self._control_plane.kubectl
        self._control_plane.helm("uninstall", "infrasight", "-n", NAMESPACE, "--wait")
        definitions = kubectl("get", "crd", "-o", "name").split()
        kubectl("delete", *definitions)
        all_kinds = kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
        kinds = ",".join(kind for kind in all_kinds if not kind.startswith("events"))

        def leftovers() -> set[str]:
            objects = kubectl("get", kinds, "-n", NAMESPACE, "-o", "name").split()
            return (set(objects) - IN_EVERY_NAMESPACE) | self._chart.kubelet.pods.keys()

        self._await_empty(leftovers, "no objects are left")
        cluster_wide = (
            "crd,clusterroles,clusterrolebindings,"
            "validatingwebhookconfigurations,mutatingwebhookconfigurations"
        )
        assert "infrasight" not in kubectl("get", cluster_wide, "-o", "name")
        self._report(f"uninstalled: no objects left after {time.monotonic() - began:.1f} s")


def _matches(
    node_probes: Mapping[str, Any], running: set[str], failures: Mapping[str, str]
) -> bool:
    """Whether a NodeProbes object has these running probes and failures."""
    spec = node_probes["spec"]
    status = node_probes.get("status", {})
    if failures:
        state = "Failed"
    elif running:
        state = "Running"
    else:
        state = "Idle"
    configured = {probe["name"] for probe in spec.get("probes", [])}
    reasons = {failure["name"]: failure["reason"] for failure in status.get("failures", [])}
    return (
        status.get("state") == state
        and status.get("appliedDigest") == spec["digest"]
        and status.get("connected") is True
        and set(status.get("running", [])) == running
        and configured == running | failures.keys()
        and reasons.keys() == failures.keys()
        and all(text in reasons[probe] for probe, text in failures.items())
        and not status.get("notStreaming")
    )


def run_tour(tools: Path, report: Callable[[str], object]) -> None:
    """Runs the tour in a new cluster."""
    with (
        running_control_plane(tools) as control_plane,
        tempfile.TemporaryDirectory(prefix="infrasight-tour-") as folder,
    ):
        report("the API server of an empty cluster is ready")
        with installed_chart(control_plane, Path(folder)) as chart:
            Tour(control_plane, chart, report).run()


def main() -> None:
    """Builds the cluster tools if necessary, and runs the tour."""
    command: list[str | Path] = [sys.executable, TOOLS]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    started = time.monotonic()

    def report(text: str) -> None:
        print(f"{time.monotonic() - started:5.1f} s  {text}", flush=True)

    run_tour(Path(done.stdout.strip()), report)


if __name__ == "__main__":
    main()
