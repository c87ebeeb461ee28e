"""Selects the agent pods to replace because the packages of their nodes have changed."""

from collections.abc import Iterable, Mapping

from infrasight_operator.model.quantities import resolve_max_unavailable
from infrasight_operator.status.node_probes import NodeView

# How long an agent may be disconnected before its pod is replaced without a report from it.
RECONNECT_SECONDS = 60.0
# How long a new pod stays at least. Policies that change packages again and again would otherwise
# keep the node from being recorded.
LEAST_POD_SECONDS = 300.0


def needs_new_pod(view: NodeView) -> bool:
    """Whether the node's pod started with other packages than the node's configuration has.

    A pod that received the current packages stays, whether they could be installed or not: a new
    pod would fail the same way.
    """
    if view.pod_packages_digest == view.configuration.packages_digest:
        return False
    packages = {(package.name, package.version) for package, _ in view.configuration.packages}
    if view.report is None:
        return bool(packages)
    if set(view.report.packages) != packages:
        return True
    # A package failure is about earlier packages, or the pod could not ask for its packages.
    return any(failure.is_package for failure in view.report.failures)


def nodes_to_restart(
    views: Iterable[NodeView],
    max_unavailable: int | str,
    disconnected_since: Mapping[str, float],
    restarted_at: Mapping[str, float],
    now: float,
) -> list[str]:
    """The nodes whose pods are to be deleted now.

    Args:
        views: The nodes that can run an agent.
        max_unavailable: The installation's `maxUnavailable`.
        disconnected_since: The time at which each disconnected node was first seen as such.
        restarted_at: The time at which each node's pod was last deleted.
        now: The time, from the same clock.
    """
    known = [view for view in views if view.report is not None or view.pod_packages_digest]
    limit = resolve_max_unavailable(max_unavailable, len(known))
    outdated = [view for view in known if needs_new_pod(view)]
    restarting = 0
    unavailable = 0
    for view in known:
        was_restarted = now - restarted_at.get(view.name, -RECONNECT_SECONDS) < RECONNECT_SECONDS
        if not view.connected:
            unavailable += 1
            restarting += was_restarted
        elif was_restarted and needs_new_pod(view):
            unavailable += 1  # the deleted pod's agent is still about to end
    # The packages may be what keeps an agent from connecting, so its pod is replaced although the
    # agent counts as unavailable. A network failure can disconnect many agents: the limit holds.
    lost = []
    connected = []
    for view in outdated:
        if view.connected:
            if now - restarted_at.get(view.name, -LEAST_POD_SECONDS) >= LEAST_POD_SECONDS:
                connected.append(view.name)
            continue
        since = max(disconnected_since[view.name], restarted_at.get(view.name, 0))
        if now - since >= RECONNECT_SECONDS:
            lost.append(view.name)
    chosen = sorted(lost)[: max(0, limit - restarting)]
    return chosen + sorted(connected)[: max(0, limit - unavailable)]
