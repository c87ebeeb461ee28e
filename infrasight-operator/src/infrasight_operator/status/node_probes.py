"""The NodeProbes object: a node's configuration as its spec, the agent's report as its status."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from attrs import frozen

from infrasight_operator.model.agent_report import Failure, Report
from infrasight_operator.model.installation import Installation
from infrasight_operator.model.policy import EntryKind
from infrasight_operator.model.resolution import MAX_PROBES, MAX_PROBES_BYTES, NodeConfiguration
from infrasight_operator.status.conditions import Condition, build_conditions

LABELS = {"app.kubernetes.io/managed-by": "infrasight-operator"}


class NodeState(StrEnum):
    """The state of a node in one word; the CRD documents the values."""

    RUNNING = "Running"
    IDLE = "Idle"
    PENDING = "Pending"
    FAILED = "Failed"
    DISCONNECTED = "Disconnected"


@frozen
class StateWithReason:
    """A node's state and its cause.

    Attributes:
        name: The state.
        reason: The cause, in one CamelCase word.
        message: The cause, in a sentence.
    """

    name: NodeState
    reason: str
    message: str


@frozen
class NodeView:
    """What the operator knows about a node: its configuration, and the report of its agent.

    Attributes:
        name: The node's name.
        configuration: The node's configuration.
        report: The agent's last report; None if there is none.
        connected: Whether the agent's stream is open.
        pod_packages_digest: Digest of the packages that the pod received when it started; empty if
            unknown.
    """

    name: str
    configuration: NodeConfiguration
    report: Report | None = None
    connected: bool = False
    pod_packages_digest: str = ""

    def current_report(self) -> Report | None:
        """The report, if the agent is connected and reports about the current configuration."""
        if self.report is None or not self.connected:
            return None
        if self.report.digest != self.configuration.digest:
            return None
        return self.report

    def failure(self, kind: EntryKind, name: str) -> str:
        """Why a probe or package does not work; empty if it works or its state is unknown."""
        if kind is EntryKind.PROBE and name in self.oversized():
            return (
                "the node's configuration has no room for it: it holds at most "
                f"{MAX_PROBES} probes with {MAX_PROBES_BYTES >> 10} KiB of options and filters"
            )
        report = self.current_report()
        if report is None:
            return ""
        if report.rejected:
            return f"the agent rejected the configuration: {report.rejected}"
        for failure in report.failures:
            if failure.name == name and failure.is_package == (kind is EntryKind.PACKAGE):
                return failure.reason
        return ""

    def oversized(self) -> list[str]:
        """The probes for which the node's configuration has no room."""
        return [probe.name for probe, _ in self.configuration.oversized]

    def works(self, kind: EntryKind, name: str) -> bool:
        """Whether the agent reports a probe as running, or a package as installed."""
        report = self.current_report()
        if report is None or report.rejected or self.failure(kind, name):
            return False
        if kind is EntryKind.PROBE:
            return name in report.running
        return any(
            package.name == name and (name, package.version) in report.packages
            for package, _ in self.configuration.packages
        )

    def state(self) -> StateWithReason:
        """The node's state and its cause."""
        report = self.report
        if report is None:
            return StateWithReason(
                NodeState.PENDING,
                "NotConnected",
                "no agent of this node has connected to the operator yet",
            )
        if not self.connected:
            return StateWithReason(
                NodeState.DISCONNECTED,
                "Disconnected",
                f"the agent in pod {report.pod} is not connected to the operator",
            )
        if self.current_report() is None:
            return StateWithReason(
                NodeState.PENDING,
                "ConfigurationPending",
                "the agent has not applied the current configuration yet",
            )
        if report.rejected:
            message = f"the agent rejected the configuration: {report.rejected}"
            return StateWithReason(NodeState.FAILED, "Rejected", message)
        if report.failures:
            message = "; ".join(f"{f.name}: {f.reason}" for f in report.failures)
            return StateWithReason(NodeState.FAILED, "Failures", message)
        oversized = self.oversized()
        if oversized:
            message = f"no room in the configuration for {', '.join(oversized)}"
            return StateWithReason(NodeState.FAILED, "Oversized", message)
        pending = [
            name for kind, name in self.configuration.entries() if not self.works(kind, name)
        ]
        if pending:
            message = f"not running or installed yet: {', '.join(pending)}"
            return StateWithReason(NodeState.PENDING, "Starting", message)
        if not self.configuration.probes:
            return StateWithReason(
                NodeState.IDLE, "NoProbes", "no policy enables a probe on this node"
            )
        return StateWithReason(NodeState.RUNNING, "Running", "all probes of the policies record")

    def ready(self) -> Condition:
        """The Ready condition: everything works, and events reach the server."""
        state = self.state()
        if state.name is NodeState.RUNNING and self.report and self.report.not_streaming:
            message = f"events do not reach the server: {self.report.not_streaming}"
            return Condition("Ready", False, "NotStreaming", message)
        is_ready = state.name in (NodeState.RUNNING, NodeState.IDLE)
        return Condition("Ready", is_ready, state.reason, state.message)


def node_probes_spec(configuration: NodeConfiguration) -> dict[str, Any]:
    """The spec of a NodeProbes object."""
    spec: dict[str, Any] = {"digest": configuration.digest}
    probes = []
    for probe, policy in configuration.probes:
        probe_entry: dict[str, Any] = {"name": probe.name, "policy": policy}
        if probe.options:
            probe_entry["options"] = dict(probe.options)
        if probe.filters:
            probe_entry["filters"] = {name: list(values) for name, values in probe.filters.items()}
        probes.append(probe_entry)
    packages = []
    for package, policy in configuration.packages:
        package_entry: dict[str, Any] = {
            "name": package.name,
            "version": package.version,
            "policy": policy,
        }
        if package.hashes:
            package_entry["hashes"] = list(package.hashes)
        packages.append(package_entry)
    conflicts = [
        {
            str(conflict.kind): conflict.name,
            "policies": list(conflict.policies),
            "reason": conflict.reason,
        }
        for conflict in configuration.conflicts
    ]
    optional = {
        "probes": probes,
        "packages": packages,
        "policies": list(configuration.policies),
        "conflicts": conflicts,
    }
    spec.update({key: value for key, value in optional.items() if value})
    return spec


def node_probes_manifest(
    installation: Installation, node: str, configuration: NodeConfiguration
) -> dict[str, Any]:
    """A NodeProbes object without its status, for server-side apply."""
    return {
        "apiVersion": "infrasight.io/v1alpha1",
        "kind": "NodeProbes",
        "metadata": {
            "name": node,
            "namespace": installation.namespace,
            "labels": LABELS,
            "ownerReferences": [installation.owner_reference()],
        },
        "spec": node_probes_spec(configuration),
    }


def node_probes_status(view: NodeView, previous: Mapping[str, Any], now: str) -> dict[str, Any]:
    """The status of a NodeProbes object. After an agent disconnects, its last report stays."""
    state = view.state()
    if view.connected:
        connected = Condition("Connected", True, "Open")
    else:
        connected = Condition("Connected", False, state.reason, state.message)
    status: dict[str, Any] = {
        "state": str(state.name),
        "connected": view.connected,
        "conditions": build_conditions(
            [view.ready(), connected], previous.get("conditions") or (), now
        ),
    }
    if view.pod_packages_digest:
        status["podPackagesDigest"] = view.pod_packages_digest
    report = view.report
    if report is None:
        return status
    reported = {
        "pod": report.pod,
        "agentVersion": report.agent_version,
        "appliedDigest": report.digest,
        "rejected": report.rejected,
        "running": list(report.running),
        "failures": [_failure_entry(failure) for failure in report.failures],
        "installed": list(report.installed),
        "packages": [{"name": name, "version": version} for name, version in report.packages],
        "notStreaming": report.not_streaming,
    }
    status.update({key: value for key, value in reported.items() if value})
    return status


def report_from_status(node: str, status: Mapping[str, Any]) -> Report | None:
    """Restores the report that a previous operator wrote into a status; None if there is none."""
    if not status.get("pod") and not status.get("agentVersion"):
        return None
    failures = tuple(
        Failure(entry["name"], entry["reason"], entry.get("package", False))
        for entry in status.get("failures") or ()
    )
    packages = tuple((entry["name"], entry["version"]) for entry in status.get("packages") or ())
    return Report(
        node=node,
        pod=status.get("pod", ""),
        agent_version=status.get("agentVersion", ""),
        digest=status.get("appliedDigest", ""),
        rejected=status.get("rejected", ""),
        running=tuple(status.get("running") or ()),
        failures=failures,
        installed=tuple(status.get("installed") or ()),
        not_streaming=status.get("notStreaming", ""),
        packages=packages,
    )


def _failure_entry(failure: Failure) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": failure.name, "reason": failure.reason}
    if failure.is_package:
        entry["package"] = True
    return entry
