"""What became of the installation."""

from collections.abc import Mapping, Sequence
from typing import Any

from infrasight_operator.model.installation import Installation
from infrasight_operator.status.conditions import Condition, conditions
from infrasight_operator.status.node_probes import NodeView, State


def installation_status(
    installation: Installation,
    views: Sequence[NodeView],
    rejected: str,
    before: Mapping[str, Any],
    now: str,
) -> dict[str, Any]:
    """The status.

    Args:
        installation: The installation.
        views: Its nodes.
        rejected: Why the API server does not take what was made of it; empty where it does.
        before: The status so far.
        now: The time, as the API writes it.
    """
    ready = sum(view.ready().status for view in views)
    failing = [view for view in views if view.state()[0] is State.FAILED]
    return {
        "observedGeneration": installation.generation,
        "nodes": len(views),
        "connected": sum(view.connected for view in views),
        "configured": sum(view.current() is not None for view in views),
        "ready": ready,
        "failing": len(failing),
        "conditions": conditions(
            [_ready(views, ready, failing, rejected), _applied(rejected), _conflict(views)],
            before.get("conditions") or (),
            now,
            installation.generation,
        ),
    }


def _ready(
    views: Sequence[NodeView], ready: int, failing: Sequence[NodeView], rejected: str
) -> Condition:
    if rejected:
        return Condition("Ready", False, "NotApplied", rejected)
    if ready == len(views):
        return Condition("Ready", True, "Running", f"all {ready} nodes record what is wanted")
    first = min(
        failing or (view for view in views if not view.ready().status), key=lambda view: view.name
    )
    message = f"{ready} of {len(views)} nodes record what is wanted; {first.name}: {first.ready().message}"
    return Condition("Ready", False, "Failing" if failing else "Pending", message)


def _applied(rejected: str) -> Condition:
    return (
        Condition("Applied", False, "Rejected", rejected)
        if rejected
        else Condition("Applied", True, "Applied", "")
    )


def _conflict(views: Sequence[NodeView]) -> Condition:
    found = [view for view in views if view.wanted.conflicts]
    if not found:
        return Condition("Conflict", False, "None", "")
    return Condition(
        "Conflict",
        True,
        "PoliciesDisagree",
        f"on {len(found)} nodes; {found[0].wanted.conflicts[0].reason}",
    )
