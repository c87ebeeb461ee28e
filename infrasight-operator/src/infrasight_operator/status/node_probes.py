"""A NodeProbes object: what a node is to record, and what its agent says."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from attrs import frozen

from infrasight_operator.model.agent_report import Failure, Report
from infrasight_operator.model.installation import Installation
from infrasight_operator.model.resolution import Resolved
from infrasight_operator.status.conditions import Condition, conditions

LABELS = {"app.kubernetes.io/managed-by": "infrasight-operator"}


class State(StrEnum):
    """What a node does, in one word; see the CRD."""

    RUNNING = "Running"
    IDLE = "Idle"
    PENDING = "Pending"
    FAILED = "Failed"
    DISCONNECTED = "Disconnected"


@frozen
class NodeView:
    """A node as the operator sees it at this moment.

    Attributes:
        name: Its name.
        wanted: What it is to record.
        report: What its agent said last; None: nothing since the operator started.
        connected: Whether the agent's stream is open.
        packages_asked: Digest of the packages that its pod was told to install as it started; empty where that is not known.
    """

    name: str
    wanted: Resolved
    report: Report | None = None
    connected: bool = False
    packages_asked: str = ""

    def current(self) -> Report | None:
        """The report, where it speaks of what is wanted now."""
        report = self.report
        return (
            report
            if report is not None and self.connected and report.digest == self.wanted.digest
            else None
        )

    def failure(self, name: str, is_package: bool) -> str:
        """Why a wanted probe or package does not work; empty where it does, or where that is not known."""
        report = self.current()
        if report is None:
            return ""
        if report.rejected:
            return f"the agent rejected the configuration: {report.rejected}"
        found = [f.reason for f in report.failures if f.name == name and f.is_package == is_package]
        return found[0] if found else ""

    def works(self, name: str, is_package: bool) -> bool:
        """Whether a wanted probe or package is known to be as wanted."""
        report = self.current()
        if report is None or report.rejected or self.failure(name, is_package):
            return False
        if not is_package:
            return name in report.running
        return any(
            package.name == name and (name, package.version) in report.packages
            for package, _ in self.wanted.packages
        )

    def state(self) -> tuple[State, str, str]:
        """The state, a reason in one word, and one for people."""
        report = self.report
        if report is None:
            return (
                State.PENDING,
                "NotConnected",
                "no agent of this node has connected to the operator yet",
            )
        if not self.connected:
            return (
                State.DISCONNECTED,
                "Disconnected",
                f"the agent in pod {report.pod} is not connected to the operator",
            )
        if self.current() is None:
            return State.PENDING, "NotTaken", "the agent has not taken the newest configuration yet"
        if report.rejected:
            return (
                State.FAILED,
                "Rejected",
                f"the agent rejected the configuration: {report.rejected}",
            )
        if report.failures:
            return (
                State.FAILED,
                "Failures",
                "; ".join(f"{f.name}: {f.reason}" for f in report.failures),
            )
        wanted = [(probe.name, False) for probe, _ in self.wanted.probes] + [
            (p.name, True) for p, _ in self.wanted.packages
        ]
        if missing := [name for name, is_package in wanted if not self.works(name, is_package)]:
            return State.PENDING, "NotYet", f"not there yet: {', '.join(missing)}"
        if not self.wanted.probes:
            return State.IDLE, "NothingWanted", "no policy wants a probe on this node"
        return State.RUNNING, "Running", "everything that is wanted records"

    def ready(self) -> Condition:
        """Whether all that is wanted records and reaches the server."""
        state, reason, message = self.state()
        if state is State.RUNNING and self.report is not None and self.report.not_streaming:
            return Condition(
                "Ready",
                False,
                "NotStreaming",
                f"events do not reach the server: {self.report.not_streaming}",
            )
        return Condition("Ready", state in (State.RUNNING, State.IDLE), reason, message)


def spec_of(wanted: Resolved) -> dict[str, Any]:
    """The spec."""
    made: dict[str, Any] = {"digest": wanted.digest}
    if wanted.probes:
        made["probes"] = [
            {
                "name": probe.name,
                "policy": policy,
                **({"options": dict(probe.options)} if probe.options else {}),
                **(
                    {"filters": {kind: list(v) for kind, v in probe.filters.items()}}
                    if probe.filters
                    else {}
                ),
            }
            for probe, policy in wanted.probes
        ]
    if wanted.packages:
        made["packages"] = [
            {
                "name": package.name,
                "version": package.version,
                "policy": policy,
                **({"hashes": list(package.hashes)} if package.hashes else {}),
            }
            for package, policy in wanted.packages
        ]
    if wanted.policies:
        made["policies"] = list(wanted.policies)
    if wanted.conflicts:
        made["conflicts"] = [
            {c.kind: c.name, "policies": list(c.policies), "reason": c.reason}
            for c in wanted.conflicts
        ]
    return made


def manifest(installation: Installation, name: str, wanted: Resolved) -> dict[str, Any]:
    """The object without its status, for server-side apply."""
    return {
        "apiVersion": "infrasight.io/v1alpha1",
        "kind": "NodeProbes",
        "metadata": {
            "name": name,
            "namespace": installation.namespace,
            "labels": LABELS,
            "ownerReferences": [installation.owner()],
        },
        "spec": spec_of(wanted),
    }


def status_of(view: NodeView, before: Mapping[str, Any], now: str) -> dict[str, Any]:
    """The status; what an agent that has gone said last stays."""
    state, reason, message = view.state()
    connected = Condition(
        "Connected",
        view.connected,
        "Open" if view.connected else reason,
        "" if view.connected else message,
    )
    made: dict[str, Any] = {
        "state": str(state),
        "connected": view.connected,
        "conditions": conditions([view.ready(), connected], before.get("conditions") or (), now),
    }
    if view.packages_asked:
        made["packagesAsked"] = view.packages_asked
    if (report := view.report) is None:
        return made
    said = {
        "pod": report.pod,
        "agentVersion": report.agent_version,
        "appliedDigest": report.digest,
        "rejected": report.rejected,
        "running": list(report.running),
        "failures": [_failure(failure) for failure in report.failures],
        "installed": list(report.installed),
        "packages": [{"name": name, "version": version} for name, version in report.packages],
        "notStreaming": report.not_streaming,
    }
    return {**made, **{key: value for key, value in said.items() if value}}


def report_of(name: str, status: Mapping[str, Any]) -> Report | None:
    """What an agent said before this operator started, from the status that the former one wrote; None if nothing."""
    if not status.get("pod") and not status.get("agentVersion"):
        return None
    return Report(
        name,
        status.get("pod", ""),
        status.get("agentVersion", ""),
        status.get("appliedDigest", ""),
        status.get("rejected", ""),
        tuple(status.get("running") or ()),
        tuple(
            Failure(f["name"], f["reason"], f.get("package", False))
            for f in status.get("failures") or ()
        ),
        tuple(status.get("installed") or ()),
        status.get("notStreaming", ""),
        tuple((package["name"], package["version"]) for package in status.get("packages") or ()),
    )


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        "name": failure.name,
        "reason": failure.reason,
        **({"package": True} if failure.is_package else {}),
    }
