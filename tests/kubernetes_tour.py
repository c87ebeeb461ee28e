"""The whole of InfraSight in a Kubernetes cluster, from an empty API server to an empty one again.

    make tour        as root; about a minute, the first time with the build of the cluster's tools

Real are: API server, controllers, scheduler, helm, the chart, the operator with its service account's token, the server, and
three agents that record this machine's kernel. kwok plays the nodes, so pods are processes of this machine. While programs are
executed all the time, policies and labels change, the operator is killed in every step, the API server once; every step waits
until what is wanted, what runs and what failed are told right, and in the end no event is missing and nothing is left.
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
from infrasight_testbed.system import execute

TOOLS = Path(__file__).parents[1] / "tools" / "cluster_tools.py"
ROLES = {"node-a": "web", "node-b": "db", "node-c": "spare"}
BUSY = {
    "nodeSelector": {
        "matchExpressions": [{"key": "role", "operator": "In", "values": ["web", "db"]}]
    }
}
VALUES = {
    "store": {"type": "embedded", "embedded": {"persistence": {"enabled": False}}},
    "agent": {"settings": {"blockMemory": "16Mi"}},
    "probePolicies": {
        "default": None,
        "files": None,
        "busy": {
            **BUSY,
            "probes": [
                {"name": "execve"},
                {"name": "chmod", "filters": {"includePath": ["/etc/"]}},
            ],
        },
        "web": {
            "nodeSelector": {"matchLabels": {"role": "web"}},
            "priority": 10,
            "probes": [
                {"name": "chmod", "enabled": False},
                {"name": "open", "filters": {"includePath": ["/etc/shadow"]}},
            ],
        },
    },
}
OWN = {"configmap/kube-root-ca.crt", "serviceaccount/default"}  # what every namespace has


@define
class Workload:
    """Executes numbered programs until it is stopped.

    Attributes:
        count: How many it has executed.
    """

    count: int = 0
    _stop: threading.Event = field(factory=threading.Event, init=False)

    def work(self) -> None:
        """Goes on until it is stopped."""
        while not self._stop.wait(0.01):
            execute("mark-tour", 1, self.count)
            self.count += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """Works meanwhile."""
        worker = threading.Thread(target=self.work, name="workload")
        worker.start()
        try:
            yield
        finally:
            self._stop.set()
            worker.join()


class Tour:
    """The steps.

    Args:
        control_plane: An empty cluster.
        chart: What is to be installed.
        say: Told what has been seen.
    """

    def __init__(
        self, control_plane: ControlPlane, chart: InstalledChart, say: Callable[[str], object]
    ) -> None:
        self._control_plane, self._chart, self._say = control_plane, chart, say
        self._agents: dict[str, int] = {}

    def run(self) -> None:
        """All of them."""
        for name, role in ROLES.items():
            self._control_plane.add_node(name, role=role)
        self._chart.install(VALUES)
        self._right(
            "installed",
            {"node-a": {"execve", "open"}, "node-b": {"execve", "chmod"}, "node-c": set()},
        )
        self._agents = {name: self._chart.kubelet.one("agent", name).process.pid for name in ROLES}
        workload = Workload()
        with workload.running():
            self._changes()
        self._complete(workload.count)
        assert self._agents == {
            name: self._chart.kubelet.one("agent", name).process.pid for name in ROLES
        }
        self._uninstalled()

    def _changes(self) -> None:
        everything = {
            "node-a": {"execve", "open"},
            "node-b": {"execve", "chmod", "accept"},
            "node-c": set[str](),
        }
        both = everything | {"node-a": {"execve", "open", "accept"}}
        probes = VALUES["probePolicies"]["busy"]["probes"]  # type: ignore[index]
        with self._operator_killed(0.02):
            self._policy("busy", [*probes, {"name": "accept"}])
        self._right("a policy changed", both)

        with self._operator_killed(0.1):
            self._control_plane.kubectl("label", "node", "node-c", "role=db", "--overwrite")
        self._right("a node relabelled", both | {"node-c": {"execve", "chmod", "accept"}})

        with self._operator_killed(0.3):
            self._policy("busy", [*probes, {"name": "accept"}, {"name": "nonsense"}])
        wrong = {name: {"nonsense": "no installed plugin is called 'nonsense'"} for name in ROLES}
        self._right(
            "a probe that nobody has", both | {"node-c": {"execve", "chmod", "accept"}}, wrong
        )

        self._control_plane.kill_api_server()
        with self._operator_killed(0.0):
            time.sleep(1)  # an operator that starts finds nobody, and waits
        self._control_plane.start_api_server()
        self._policy("busy", [*probes, {"name": "connect"}])
        last = {"node-a": {"execve", "open", "connect"}, "node-b": {"execve", "chmod", "connect"}}
        self._right(
            "the API server died and came back", last | {"node-c": {"execve", "chmod", "connect"}}
        )

    def _policy(self, name: str, probes: list[dict[str, Any]]) -> None:
        body = {
            "apiVersion": "infrasight.io/v1alpha1",
            "kind": "ProbePolicy",
            "metadata": {"name": name},
        }
        self._control_plane.apply({**body, "spec": {**BUSY, "probes": probes}}, namespace=NAMESPACE)

    @contextmanager
    def _operator_killed(self, seconds: float) -> Iterator[None]:
        """Does something, kills the operator so soon afterwards, and starts it again."""
        yield
        time.sleep(seconds)
        operator = self._chart.kubelet.one("operator")
        operator.process.kill()
        operator.start()

    def _right(
        self,
        step: str,
        wanted: Mapping[str, set[str]],
        failures: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Waits until nodes, policies and the installation say just that."""
        began, failed = time.monotonic(), failures or {}
        self._none(lambda: self._wrong(wanted, failed), step)
        self._say(f"{step}: right after {time.monotonic() - began:.1f} s")

    def _none(self, left: Callable[[], Collection[str]], step: str) -> None:
        """Waits until there is nothing left that is not as it should be; what that is in the end is said."""
        last: list[str] = []

        def done() -> bool:
            last[:] = left()
            return not last

        try:
            self._chart.until(done, step)
        except AssertionError as error:
            pods = [
                f"{name}:\n{pod.log()[-2000:]}" for name, pod in self._chart.kubelet.pods.items()
            ]
            raise AssertionError("\n".join([f"{error}; still wrong:", *last, *pods])) from error

    def _wrong(
        self, wanted: Mapping[str, set[str]], failures: Mapping[str, Mapping[str, str]]
    ) -> list[str]:
        """What is not (yet) said as it should be."""
        nodes = {
            body["metadata"]["name"]: body
            for body in self._control_plane.objects("nodeprobes", NAMESPACE)
        }
        if nodes.keys() != wanted.keys():
            return [f"nodes {sorted(nodes)}"]
        found = []
        for name, probes in wanted.items():
            spec, status = nodes[name]["spec"], nodes[name].get("status", {})
            state = "Failed" if name in failures and probes else "Running" if probes else "Idle"
            reasons = {failure["name"]: failure["reason"] for failure in status.get("failures", [])}
            expected = failures.get(name, {}) if probes else {}
            named = {probe["name"] for probe in spec.get("probes", [])}
            if (
                (status.get("state"), status.get("appliedDigest"), status.get("connected"))
                != (state, spec["digest"], True)
                or set(status.get("running", [])) != probes
                or named != probes | expected.keys()
                or reasons.keys() != expected.keys()
                or not all(words in reasons[probe] for probe, words in expected.items())
                or status.get("notStreaming")
            ):
                found.append(f"{name}: {spec} {status}")
        for policy in self._control_plane.objects("probepolicies", NAMESPACE):
            chosen = [
                name
                for name in nodes
                if policy["metadata"]["name"] in nodes[name]["spec"].get("policies", [])
            ]
            failed = (
                len([name for name in chosen if name in failures])
                if policy["metadata"]["name"] == "busy"
                else 0
            )
            counts = {
                "selected": len(chosen),
                "running": len(chosen) - failed,
                "pending": 0,
                "failed": failed,
            }
            if policy.get("status", {}).get("nodes") != counts:
                found.append(f"{policy['metadata']['name']}: {policy.get('status')}, not {counts}")
        installation = self._chart.get("infrasight", "infrasight").get("status", {})
        failing = len([name for name in failures if wanted[name]])
        if (installation.get("nodes"), installation.get("failing"), installation.get("ready")) != (
            3,
            failing,
            3 - failing,
        ):
            found.append(f"installation: {installation}")
        return found

    def _complete(self, count: int) -> None:
        """Every execution is in the table, once for each node that recorded executions all the time."""

        def numbers(node: str) -> list[int]:
            found = f"FROM execve_events WHERE node = '{node}' AND argv[2] = 'mark-tour'"
            sql = f"SELECT toInt32(argv[3]) AS n {found} ORDER BY n"
            return [int(row["n"]) for row in self._chart.command("query", sql)]

        expected = list(range(count))
        recorders = (
            "node-a",
            "node-b",
        )  # node-c has recorded executions only since it was relabelled
        self._chart.until(
            lambda: all(numbers(node) == expected for node in recorders),
            "all executions are stored",
            30,
        )
        accounts = self._chart.command("verify", "--format=json")
        assert {account["node"] for account in accounts} == set(ROLES), accounts
        assert all(account["difference"] == 0 for account in accounts), accounts
        self._say(
            f"{count} executions, each stored once for each of two nodes; verify: {len(accounts)} accounts, difference 0"
        )

    def _uninstalled(self) -> None:
        """Nothing of ours is left in the cluster, no process, no definition."""
        began = time.monotonic()
        self._control_plane.helm("uninstall", "infrasight", "-n", NAMESPACE, "--wait")
        crds = self._control_plane.kubectl("get", "crd", "-o", "name").split()
        self._control_plane.kubectl("delete", *crds)
        names = "-o", "name"
        kinds = self._control_plane.kubectl(
            "api-resources", "--namespaced", "--verbs=list", *names
        ).split()
        kinds = [kind for kind in kinds if not kind.startswith("events")]

        def left() -> set[str]:
            return (
                set(
                    self._control_plane.kubectl(
                        "get", ",".join(kinds), "-n", NAMESPACE, *names
                    ).split()
                )
                - OWN
            )

        self._none(lambda: left() | self._chart.kubelet.pods.keys(), "nothing is left")
        everywhere = "crd,clusterroles,clusterrolebindings,validatingwebhookconfigurations,mutatingwebhookconfigurations"
        assert "infrasight" not in self._control_plane.kubectl("get", everywhere, *names)
        self._say(f"uninstalled, nothing is left, after {time.monotonic() - began:.1f} s")


def tour(tools: Path, say: Callable[[str], object]) -> None:
    """Goes through all of it, in a cluster of its own."""
    with (
        running_control_plane(tools) as control_plane,
        tempfile.TemporaryDirectory(prefix="infrasight-tour-") as folder,
    ):
        say("an empty cluster answers")
        with installed_chart(control_plane, Path(folder)) as chart:
            Tour(control_plane, chart, say).run()


if __name__ == "__main__":
    built = subprocess.run(
        [sys.executable, TOOLS], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    started = time.monotonic()
    tour(
        Path(built), lambda text: print(f"{time.monotonic() - started:5.1f} s  {text}", flush=True)
    )
