"""What became of a policy, over all nodes that it selects."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from infrasight_operator.model.policy import Policy
from infrasight_operator.status.conditions import Condition, conditions
from infrasight_operator.status.node_probes import NodeView

PROBLEMS = 50


def policy_status(
    policy: Policy, views: Sequence[NodeView], before: Mapping[str, Any], now: str
) -> dict[str, Any]:
    """The status of one policy.

    Args:
        policy: The policy.
        views: All nodes of the installation.
        before: Its status so far.
        now: The time, as the API writes it.
    """
    selected = [view for view in views if policy.name in view.wanted.policies]
    problems: list[dict[str, str]] = []
    running = failed = 0
    for view in sorted(selected, key=lambda v: v.name):
        mine = list(_held(policy.name, view))
        found = [
            (kind, name, reason)
            for kind, name in mine
            if (reason := view.failure(name, kind == "package"))
        ]
        problems += [
            {"node": view.name, kind: name, "reason": reason} for kind, name, reason in found
        ]
        failed += bool(found)
        running += not found and all(view.works(name, kind == "package") for kind, name in mine)
    pending = len(selected) - running - failed
    status: dict[str, Any] = {
        "observedGeneration": policy.generation,
        "nodes": {
            "selected": len(selected),
            "running": running,
            "pending": pending,
            "failed": failed,
        },
        "conditions": conditions(
            [
                _ready(len(selected), running, pending, failed, problems),
                _conflict(policy.name, selected),
            ],
            before.get("conditions") or (),
            now,
            policy.generation,
        ),
    }
    if problems:
        status["problems"] = problems[:PROBLEMS]
    if len(problems) > PROBLEMS:
        status["moreProblems"] = len(problems) - PROBLEMS
    return status


def unused_status(
    generation: int, reason: str, message: str, before: Mapping[str, Any], now: str
) -> dict[str, Any]:
    """The status of an object that has no effect: it cannot be read, or there is nothing that it could be about."""
    condition = Condition("Ready", False, reason, message)
    return {
        "observedGeneration": generation,
        "conditions": conditions([condition], before.get("conditions") or (), now, generation),
    }


def _held(policy: str, view: NodeView) -> Iterable[tuple[str, str]]:
    """What this policy holds for on a node."""
    yield from (("probe", probe.name) for probe, of in view.wanted.probes if of == policy)
    yield from (("package", package.name) for package, of in view.wanted.packages if of == policy)


def _ready(
    selected: int, running: int, pending: int, failed: int, problems: Sequence[Mapping[str, str]]
) -> Condition:
    if failed:
        first = problems[0]
        what = first.get("probe") or first.get("package")
        return Condition(
            "Ready",
            False,
            "Failed",
            f"{failed} of {selected} nodes failed; {first['node']}: {what}: {first['reason']}",
        )
    if pending:
        return Condition("Ready", False, "Pending", f"{running} of {selected} nodes run it")
    if not selected:
        return Condition("Ready", True, "NoNodes", "the selector fits no node of the installation")
    return Condition("Ready", True, "Running", f"runs on {selected} nodes")


def _conflict(policy: str, selected: Sequence[NodeView]) -> Condition:
    found = [
        (view.name, conflict)
        for view in selected
        for conflict in view.wanted.conflicts
        if policy in conflict.policies[1:]
    ]
    if not found:
        return Condition("Conflict", False, "None", "")
    first = found[0][1]
    nodes = len({node for node, _ in found})
    return Condition("Conflict", True, "Overruled", f"on {nodes} nodes; {first.reason}")
