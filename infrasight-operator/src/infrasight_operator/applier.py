"""Makes one write pass: applies every object and status that differs from the desired state."""

import asyncio
import time
from collections.abc import Awaitable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog
from infrasight_core.errors import InfraSightError

from infrasight_operator.applied_state import AppliedState
from infrasight_operator.control.agent_registry import AgentRegistry
from infrasight_operator.desired_state import DesiredState
from infrasight_operator.errors import ClusterError, ClusterUnavailableError
from infrasight_operator.kube.client import KubeClient
from infrasight_operator.kube.events import KubeEvent, event_manifest, node_events, policy_events
from infrasight_operator.kube.object_cache import Body, ObjectCache
from infrasight_operator.kube.resources import Kind
from infrasight_operator.manifests import daemonset
from infrasight_operator.metrics import KUBE_EVENTS_DROPPED, NODES, POD_RESTARTS
from infrasight_operator.model.installation import NAME, Installation
from infrasight_operator.model.policy import Policy
from infrasight_operator.rollout import nodes_to_restart
from infrasight_operator.status.installation_status import installation_status
from infrasight_operator.status.node_probes import (
    NodeState,
    NodeView,
    node_probes_manifest,
    node_probes_status,
    report_from_status,
)
from infrasight_operator.status.policy_status import ineffective_status, policy_status

log = structlog.get_logger(__name__)
MAX_EVENTS_PER_PASS = 50


class Applier:
    """Writes the desired state to the cluster.

    Args:
        client: The Kubernetes API.
        cache: The objects of the cluster.
        agents: The connected agents and their reports.
        operator_address: The operator's host:port, as agents reach it.
    """

    def __init__(
        self,
        client: KubeClient,
        cache: ObjectCache,
        agents: AgentRegistry,
        operator_address: str,
    ) -> None:
        self._client = client
        self._cache = cache
        self._agents = agents
        self._operator_address = operator_address
        self._applied = AppliedState()
        self._disconnected_since: dict[str, float] = {}
        self._restarted_at: dict[str, float] = {}
        self._events: list[tuple[Kind, Body, KubeEvent]] = []

    async def run(self, desired: DesiredState) -> list[str]:
        """Makes one pass; returns the problems, one message per failed call."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        errors = await _run_all(
            self._write_invalid(kind, name, reason, now)
            for (kind, name), reason in desired.invalid_objects.items()
        )
        if desired.installation is None:
            _count_states([])
            errors += await _run_all(
                self._write_without_installation(policy, now)
                for policy in desired.policies.values()
            )
        else:
            errors += await self._write_installation(desired, desired.installation, now)
        return [str(error) for error in errors]

    async def _write_installation(
        self, desired: DesiredState, installation: Installation, now: str
    ) -> list[InfraSightError]:
        """Writes everything that belongs to an installation."""
        views = self._view_nodes(desired)
        daemon_set = daemonset.daemon_set(installation, self._operator_address)
        errors = await _run_all([self._apply(Kind.DAEMON_SET, daemon_set)])
        errors += await _run_all(self._write_node(installation, view, now) for view in views)
        obsolete = self._cache.all(Kind.NODE_PROBES).keys() - desired.configurations.keys()
        errors += await _run_all(self._delete_node_probes(name) for name in obsolete)
        rejections = [str(error) for error in errors if isinstance(error, ClusterError)]
        errors += await _run_all(
            self._write_policy_status(policy, views, now) for policy in desired.policies.values()
        )
        errors += await _run_all(
            [self._write_installation_status(installation, views, "; ".join(rejections[:3]), now)]
        )
        restarts = self._choose_restarts(desired, installation, views)
        errors += await _run_all(self._restart_agent(node) for node in restarts)
        await self._post_events(now)
        return errors

    def _view_nodes(self, desired: DesiredState) -> list[NodeView]:
        """Combines each node's configuration with its agent's report."""
        views = []
        for name, configuration in desired.configurations.items():
            status = self._status(Kind.NODE_PROBES, name)
            report = self._agents.report(name) or report_from_status(name, status)
            packages = self._agents.pod_packages(name) or status.get("podPackagesDigest", "")
            connected = self._agents.is_connected(name)
            views.append(NodeView(name, configuration, report, connected, packages))
        _count_states([view.state().name for view in views])
        return views

    def _status(self, kind: Kind, name: str) -> Mapping[str, Any]:
        body = self._cache.get(kind, name) or {}
        return body.get("status") or {}

    async def _apply(self, kind: Kind, desired: dict[str, Any]) -> None:
        """Applies an object if it differs."""
        cached = self._cache.get(kind, desired["metadata"]["name"])
        if self._applied.object_differs(kind, desired, cached):
            applied = await self._client.apply(kind, desired)
            self._applied.record_object(kind, desired, applied)
            self._cache.store(kind, applied, own_write=True)

    async def _apply_status(self, kind: Kind, name: str, desired: dict[str, Any]) -> bool:
        """Applies a status if it differs; returns whether it did."""
        cached = self._cache.get(kind, name)
        if cached is None:
            return False
        if not self._applied.status_differs(kind, name, desired, cached.get("status") or {}):
            return False
        applied = await self._client.apply_status(kind, name, desired)
        self._applied.record_status(kind, name, desired, applied)
        self._cache.store(kind, applied, own_write=True)
        return True

    async def _write_node(self, installation: Installation, view: NodeView, now: str) -> None:
        manifest = node_probes_manifest(installation, view.name, view.configuration)
        await self._apply(Kind.NODE_PROBES, manifest)
        before = self._status(Kind.NODE_PROBES, view.name)
        after = node_probes_status(view, before, now)
        if await self._apply_status(Kind.NODE_PROBES, view.name, after):
            self._queue_events(Kind.NODE_PROBES, view.name, node_events(before, after))

    async def _write_policy_status(self, policy: Policy, views: list[NodeView], now: str) -> None:
        before = self._status(Kind.POLICY, policy.name)
        after = policy_status(policy, views, before, now)
        if await self._apply_status(Kind.POLICY, policy.name, after):
            self._queue_events(Kind.POLICY, policy.name, policy_events(before, after))

    async def _write_installation_status(
        self, installation: Installation, views: list[NodeView], rejection: str, now: str
    ) -> None:
        before = self._status(Kind.INFRASIGHT, NAME)
        after = installation_status(installation, views, rejection, before, now)
        await self._apply_status(Kind.INFRASIGHT, NAME, after)

    async def _write_invalid(self, kind: Kind, name: str, reason: str, now: str) -> None:
        """Writes the status of an object that cannot be parsed."""
        metadata = (self._cache.get(kind, name) or {}).get("metadata") or {}
        generation = metadata.get("generation", 0)
        before = self._status(kind, name)
        status = ineffective_status(generation, "Invalid", reason, before, now)
        await self._apply_status(kind, name, status)

    async def _write_without_installation(self, policy: Policy, now: str) -> None:
        """Writes the status of a policy while there is no installation."""
        message = f"there is no valid InfraSight object `{NAME}` in this namespace"
        before = self._status(Kind.POLICY, policy.name)
        status = ineffective_status(policy.generation, "NoInstallation", message, before, now)
        await self._apply_status(Kind.POLICY, policy.name, status)

    async def _delete_node_probes(self, node: str) -> None:
        await self._client.delete(Kind.NODE_PROBES, node)
        self._applied.forget(Kind.NODE_PROBES, node)
        log.info("deleted the NodeProbes of a node without an agent", node=node)

    def _choose_restarts(
        self, desired: DesiredState, installation: Installation, views: list[NodeView]
    ) -> list[str]:
        """The nodes whose pods are to be replaced now."""
        now = time.monotonic()
        self._disconnected_since = {
            view.name: self._disconnected_since.get(view.name, now)
            for view in views
            if not view.connected
        }
        self._restarted_at = {
            node: restarted_at
            for node, restarted_at in self._restarted_at.items()
            if node in desired.configurations
        }
        ready = [view for view in views if desired.nodes[view.name].ready]
        max_unavailable = installation.spec.agent.max_unavailable
        return nodes_to_restart(
            ready, max_unavailable, self._disconnected_since, self._restarted_at, now
        )

    async def _restart_agent(self, node: str) -> None:
        """Deletes the agent pods of a node; the DaemonSet creates new ones."""
        self._restarted_at[node] = time.monotonic()
        pods, _ = await self._client.list(
            Kind.POD, labels=daemonset.LABELS, fields={"spec.nodeName": node}
        )
        for pod in pods:
            if pod["metadata"].get("deletionTimestamp"):
                continue
            name = pod["metadata"]["name"]
            await self._client.delete(Kind.POD, name)
            POD_RESTARTS.inc()
            log.info("replacing an agent pod: its node's packages changed", node=node, pod=name)
            message = f"pod {name} is being replaced: the packages changed"
            event = KubeEvent("PodRestarted", message, is_warning=False)
            self._queue_events(Kind.NODE_PROBES, node, [event])

    def _queue_events(self, kind: Kind, name: str, events: list[KubeEvent]) -> None:
        """Queues Events about an object that the cache holds."""
        body = self._cache.get(kind, name)
        if body is not None:
            self._events += [(kind, body, event) for event in events]

    async def _post_events(self, now: str) -> None:
        """Posts queued Events, up to a limit. Failures are only logged: statuses show the same."""
        events = self._events
        self._events = []
        KUBE_EVENTS_DROPPED.inc(max(0, len(events) - MAX_EVENTS_PER_PASS))
        manifests = [
            event_manifest(event, kind, body, now)
            for kind, body, event in events[:MAX_EVENTS_PER_PASS]
        ]
        errors = await _run_all(self._client.create(Kind.EVENT, manifest) for manifest in manifests)
        for error in errors:
            log.warning("cannot post a Kubernetes Event", reason=str(error))


def _count_states(states: list[NodeState]) -> None:
    for state in NodeState:
        NODES.labels(str(state)).set(states.count(state))


async def _run_all(calls: Iterable[Awaitable[Any]]) -> list[InfraSightError]:
    """Runs calls concurrently; returns the errors of the failed ones."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors: list[InfraSightError] = []
    for result in results:
        if isinstance(result, ClusterError | ClusterUnavailableError):
            errors.append(result)
        elif isinstance(result, BaseException):
            raise result
    return errors
