"""The status of the InfraSight object."""

from collections.abc import Mapping, Sequence
from typing import Any

from infrasight_operator.model.installation import Installation
from infrasight_operator.status.conditions import Condition, build_conditions
from infrasight_operator.status.node_probes import NodeState, NodeView


def installation_status(
    installation: Installation,
    views: Sequence[NodeView],
    rejection: str,
    previous: Mapping[str, Any],
    now: str,
) -> dict[str, Any]:
    """The status.

    Args:
        installation: The installation.
        views: Its nodes.
        rejection: Why the API server rejected an object of the installation; empty if it did not.
        previous: The previous status.
        now: The time, in the API's format.
    """
    ready = sum(view.ready().status for view in views)
    failing = [view for view in views if view.state().name is NodeState.FAILED]
    conditions = [
        _ready(views, ready, failing, rejection),
        _applied(rejection),
        _conflict(views),
    ]
    return {
        "observedGeneration": installation.generation,
        "nodes": len(views),
        "connected": sum(view.connected for view in views),
        "configured": sum(view.current_report() is not None for view in views),
        "ready": ready,
        "failing": len(failing),
        "conditions": build_conditions(
            conditions, previous.get("conditions") or (), now, installation.generation
        ),
    }


def _ready(
    views: Sequence[NodeView], ready: int, failing: Sequence[NodeView], rejection: str
) -> Condition:
    if rejection:
        return Condition("Ready", False, "NotApplied", rejection)
    if ready == len(views):
        return Condition("Ready", True, "Running", f"all {ready} nodes run their probes")
    not_ready = failing or [view for view in views if not view.ready().status]
    first = min(not_ready, key=lambda view: view.name)
    message = (
        f"{ready} of {len(views)} nodes run their probes; {first.name}: {first.ready().message}"
    )
    return Condition("Ready", False, "Failing" if failing else "Pending", message)


def _applied(rejection: str) -> Condition:
    if rejection:
        return Condition("Applied", False, "Rejected", rejection)
    return Condition("Applied", True, "Applied")


def _conflict(views: Sequence[NodeView]) -> Condition:
    in_conflict = [view for view in views if view.configuration.conflicts]
    if not in_conflict:
        return Condition("Conflict", False, "None")
    first = in_conflict[0].configuration.conflicts[0]
    message = f"on {len(in_conflict)} nodes; {first.reason}"
    return Condition("Conflict", True, "PoliciesDisagree", message)
