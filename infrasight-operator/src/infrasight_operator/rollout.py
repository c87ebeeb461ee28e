"""Which agents' pods are to be replaced because their node's packages have changed; a few at a time."""

from collections.abc import Iterable, Mapping

from infrasight_operator.model.quantities import at_once
from infrasight_operator.status.node_probes import NodeView

PATIENCE = 60.0  # seconds for which an agent may be away before its pod is replaced without hearing from it


def needs_packages(view: NodeView) -> bool:
    """Whether the node's pod started with other packages than are wanted.

    A pod that was told to install just these is left alone, whatever became of it: it would fail the same way again.
    """
    if view.packages_asked == view.wanted.packages_digest:
        return False
    wanted = {(package.name, package.version) for package, _ in view.wanted.packages}
    if view.report is None:
        return bool(wanted)
    # A failure is of packages that were wanted then, or says that the pod could not ask.
    return set(view.report.packages) != wanted or any(
        failure.is_package for failure in view.report.failures
    )


def to_restart(
    views: Iterable[NodeView],
    max_unavailable: int | str,
    away: Mapping[str, float],
    restarted: Mapping[str, float],
    now: float,
) -> list[str]:
    """The nodes whose pod is to be deleted now.

    Args:
        views: All nodes that can have a running agent.
        max_unavailable: As in the installation.
        away: Since when each node that is not connected has been so.
        restarted: When a node's pod was last deleted.
        now: The time, of the same clock.
    """
    known = [view for view in views if view.report is not None or view.packages_asked]
    limit = at_once(max_unavailable, len(known))
    waiting = [view for view in known if needs_packages(view)]
    # An agent that does not come, perhaps because of its packages, is away anyway; but many can be away because of the network.
    lost = sorted(
        v.name
        for v in waiting
        if not v.connected and now - max(away[v.name], restarted.get(v.name, 0)) >= PATIENCE
    )
    in_progress = sum(
        not v.connected and now - restarted.get(v.name, -PATIENCE) < PATIENCE for v in known
    )
    chosen = lost[: max(0, limit - in_progress)]
    unavailable = sum(not view.connected for view in known)
    there = sorted(view.name for view in waiting if view.connected)
    return chosen + there[: max(0, limit - unavailable)]
