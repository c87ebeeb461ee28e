"""The status of a ProbePolicy object, summed over the nodes that the policy selects."""

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from infrasight_operator.model.blind_filters import describe_blindness
from infrasight_operator.model.policy import Policy
from infrasight_operator.status.conditions import Condition, build_conditions
from infrasight_operator.status.node_probes import NodeView

MAX_PROBLEMS = 50


@frozen
class _NodeCounts:
    """How many nodes a policy selects, and how many of these are in each state."""

    selected: int
    running: int
    pending: int
    failed: int


def policy_status(
    policy: Policy, views: Sequence[NodeView], previous: Mapping[str, Any], now: str
) -> dict[str, Any]:
    """The status of a policy.

    Args:
        policy: The policy.
        views: All nodes of the installation.
        previous: The previous status.
        now: The time, in the API's format.
    """
    selected = [view for view in views if policy.name in view.configuration.policies]
    problems: list[dict[str, str]] = []
    running = 0
    failed = 0
    for view in sorted(selected, key=lambda view: view.name):
        entries = list(view.configuration.entries(policy.name))
        node_problems = []
        for kind, name in entries:
            reason = view.failure(kind, name)
            if reason:
                node_problems.append({"node": view.name, str(kind): name, "reason": reason})
        problems += node_problems
        if node_problems:
            failed += 1
        elif all(view.works(kind, name) for kind, name in entries):
            running += 1
    pending = len(selected) - running - failed
    counts = _NodeCounts(len(selected), running, pending, failed)
    status: dict[str, Any] = {
        "observedGeneration": policy.generation,
        "nodes": {
            "selected": counts.selected,
            "running": counts.running,
            "pending": counts.pending,
            "failed": counts.failed,
        },
        "conditions": build_conditions(
            [
                _ready(policy, counts, problems),
                _accepted(policy),
                _conflict(policy.name, selected),
                _overridden(policy.name, selected),
                _records_nothing(policy),
            ],
            previous.get("conditions") or (),
            now,
            policy.generation,
        ),
    }
    if problems:
        status["problems"] = problems[:MAX_PROBLEMS]
    if len(problems) > MAX_PROBLEMS:
        status["moreProblems"] = len(problems) - MAX_PROBLEMS
    return status


def ineffective_status(
    generation: int, reason: str, message: str, previous: Mapping[str, Any], now: str
) -> dict[str, Any]:
    """The status of an object without effect: it is invalid, or there is no installation."""
    ready = Condition("Ready", False, reason, message)
    previous_conditions = previous.get("conditions") or ()
    return {
        "observedGeneration": generation,
        "conditions": build_conditions([ready], previous_conditions, now, generation),
    }


def _ready(policy: Policy, counts: _NodeCounts, problems: Sequence[Mapping[str, str]]) -> Condition:
    if policy.rejections:
        return Condition("Ready", False, "Rejected", _describe_rejections(policy))
    if counts.failed:
        first = problems[0]
        name = first.get("probe") or first.get("package")
        message = (
            f"{counts.failed} of {counts.selected} nodes failed; "
            f"{first['node']}: {name}: {first['reason']}"
        )
        return Condition("Ready", False, "Failed", message)
    if counts.pending:
        message = f"runs on {counts.running} of {counts.selected} nodes"
        return Condition("Ready", False, "Pending", message)
    if not counts.selected:
        message = "nodeSelector matches no node of the installation"
        return Condition("Ready", True, "NoNodes", message)
    return Condition("Ready", True, "Running", f"runs on {counts.selected} nodes")


def _accepted(policy: Policy) -> Condition:
    if policy.rejections:
        return Condition("Accepted", False, "Rejected", _describe_rejections(policy))
    return Condition("Accepted", True, "Valid")


def _describe_rejections(policy: Policy) -> str:
    reasons = [f"{entry.kind} {entry.name}: {entry.reason}" for entry in policy.rejections]
    return f"not used, unlike the rest of the policy: {'; '.join(reasons)}"


def _records_nothing(policy: Policy) -> Condition:
    """Whether the filters of a probe exclude every event."""
    reasons = []
    for probe in policy.spec.probes:
        reason = describe_blindness(probe.filters) if probe.enabled else ""
        if reason:
            reasons.append(f"probe {probe.name} records nothing: {reason}")
    if not reasons:
        return Condition("RecordsNothing", False, "None")
    return Condition("RecordsNothing", True, "FiltersExcludeEverything", "; ".join(reasons))


def _overridden(policy: str, selected: Sequence[NodeView]) -> Condition:
    overrides = [
        (view.name, override)
        for view in selected
        for override in view.configuration.overrides
        if override.policy == policy
    ]
    if not overrides:
        return Condition("Overridden", False, "None")
    nodes = {node for node, _ in overrides}
    reasons = dict.fromkeys(override.reason for _, override in overrides)
    message = f"on {len(nodes)} nodes; {'; '.join(reasons)}"
    return Condition("Overridden", True, "HigherPriority", message)


def _conflict(policy: str, selected: Sequence[NodeView]) -> Condition:
    overruled = [
        (view.name, conflict)
        for view in selected
        for conflict in view.configuration.conflicts
        if policy in conflict.policies[1:]
    ]
    if not overruled:
        return Condition("Conflict", False, "None")
    nodes = {node for node, _ in overruled}
    _, first = overruled[0]
    return Condition("Conflict", True, "Overruled", f"on {len(nodes)} nodes; {first.reason}")
