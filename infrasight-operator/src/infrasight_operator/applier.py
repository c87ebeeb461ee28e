"""One pass: what differs is written, a bounded number of calls at once."""

import asyncio
import time
from collections.abc import Awaitable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog
from infrasight_core.errors import InfraSightError

from infrasight_operator.applied_state import AppliedState
from infrasight_operator.control.agents import Agents
from infrasight_operator.desired_state import DesiredState
from infrasight_operator.errors import ClusterError, ClusterUnavailableError
from infrasight_operator.kube import events
from infrasight_operator.kube.client import Cluster
from infrasight_operator.kube.object_cache import ObjectCache
from infrasight_operator.kube.resources import Kind
from infrasight_operator.manifests import daemonset
from infrasight_operator.metrics import KUBE_EVENTS_DROPPED, NODES, RESTARTS
from infrasight_operator.model.installation import NAME, Installation
from infrasight_operator.model.policy import Policy
from infrasight_operator.rollout import to_restart
from infrasight_operator.status import installation_status, node_probes, policy_status
from infrasight_operator.status.node_probes import NodeView, State

log = structlog.get_logger(__name__)
EVENTS_AT_ONCE = 50


class Applier:
    """Brings the cluster to what is wanted, as far as it goes.

    Args:
        cluster: Where it is written.
        seen: What is there.
        agents: What agents say.
        address: Where agents reach the operator.
    """

    def __init__(self, cluster: Cluster, seen: ObjectCache, agents: Agents, address: str) -> None:
        self._cluster, self._seen, self._agents = cluster, seen, agents
        self._address = address
        self._written = AppliedState()
        self._away: dict[str, float] = {}
        self._restarted: dict[str, float] = {}
        self._notices: list[tuple[Kind, Mapping[str, Any], events.KubeEvent]] = []

    async def run(self, world: DesiredState) -> list[str]:
        """One pass; what could not be written, and why."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        failed = await _all(
            self._broken(kind, name, reason, now) for (kind, name), reason in world.broken.items()
        )
        if world.installation is None:
            _count([])
            failed += await _all(self._waiting(policy, now) for policy in world.policies.values())
            return [str(error) for error in failed]
        installation, views = world.installation, self._views(world)
        written = await _all(
            [self._apply(Kind.DAEMON_SET, daemonset.daemon_set(installation, self._address))]
        )
        written += await _all(self._node(installation, view, now) for view in views)
        gone = self._seen.all(Kind.NODE_PROBES).keys() - world.wanted.keys()
        written += await _all(self._delete(name) for name in gone)
        rejected = [str(error) for error in written if isinstance(error, ClusterError)]
        failed += written
        failed += await _all(self._policy(name, world, views, now) for name in world.policies)
        failed += await _all(
            [self._installation(installation, views, "; ".join(rejected[:3]), now)]
        )
        failed += await _all(self._restart(name) for name in self._due(world, views))
        await self._post(now)
        return [str(error) for error in failed]

    def _views(self, world: DesiredState) -> list[NodeView]:
        views = []
        for name, wanted in world.wanted.items():
            body = self._seen.get(Kind.NODE_PROBES, name) or {}
            status = body.get("status") or {}
            report = self._agents.report(name) or node_probes.report_of(name, status)
            asked = self._agents.packages_asked(name) or status.get("packagesAsked", "")
            views.append(NodeView(name, wanted, report, self._agents.is_connected(name), asked))
        _count([view.state()[0] for view in views])
        return views

    async def _apply(self, kind: Kind, wanted: dict[str, Any]) -> None:
        """Applies an object where it differs."""
        if self._written.object_differs(
            kind, wanted, self._seen.get(kind, wanted["metadata"]["name"])
        ):
            answer = await self._cluster.apply(kind, wanted)
            self._written.object_written(kind, wanted, answer)
            self._seen.put(kind, answer, ours=True)

    async def _node(self, installation: Installation, view: NodeView, now: str) -> None:
        await self._apply(
            Kind.NODE_PROBES, node_probes.manifest(installation, view.name, view.wanted)
        )
        body = self._seen.get(Kind.NODE_PROBES, view.name) or {}
        before = body.get("status") or {}
        after = node_probes.status_of(view, before, now)
        if await self._status(Kind.NODE_PROBES, view.name, after):
            self._notices += [
                (Kind.NODE_PROBES, body, notice) for notice in events.of_node(before, after)
            ]

    async def _policy(
        self, name: str, world: DesiredState, views: list[NodeView], now: str
    ) -> None:
        body = self._seen.get(Kind.POLICY, name) or {}
        before = body.get("status") or {}
        after = policy_status.policy_status(world.policies[name], views, before, now)
        if await self._status(Kind.POLICY, name, after):
            self._notices += [
                (Kind.POLICY, body, notice) for notice in events.of_policy(before, after)
            ]

    async def _installation(
        self, installation: Installation, views: list[NodeView], rejected: str, now: str
    ) -> None:
        before = (self._seen.get(Kind.INFRASIGHT, NAME) or {}).get("status") or {}
        after = installation_status.installation_status(installation, views, rejected, before, now)
        await self._status(Kind.INFRASIGHT, NAME, after)

    async def _broken(self, kind: Kind, name: str, reason: str, now: str) -> None:
        body = self._seen.get(kind, name) or {}
        before, generation = (
            body.get("status") or {},
            (body.get("metadata") or {}).get("generation", 0),
        )
        await self._status(
            kind, name, policy_status.unused_status(generation, "Invalid", reason, before, now)
        )

    async def _waiting(self, policy: Policy, now: str) -> None:
        """A policy without an installation."""
        before = (self._seen.get(Kind.POLICY, policy.name) or {}).get("status") or {}
        reason = f"there is no InfraSight object `{NAME}` in this namespace, or it cannot be read"
        status = policy_status.unused_status(
            policy.generation, "NoInstallation", reason, before, now
        )
        await self._status(Kind.POLICY, policy.name, status)

    async def _status(self, kind: Kind, name: str, wanted: dict[str, Any]) -> bool:
        """Applies a status where it differs; whether it did."""
        body = self._seen.get(kind, name)
        if body is None or not self._written.status_differs(
            kind, name, wanted, body.get("status") or {}
        ):
            return False
        answer = await self._cluster.apply_status(kind, name, wanted)
        self._written.status_written(kind, name, wanted, answer)
        self._seen.put(kind, answer, ours=True)
        return True

    async def _delete(self, name: str) -> None:
        await self._cluster.delete(Kind.NODE_PROBES, name)
        self._written.forget(Kind.NODE_PROBES, name)
        log.info("a node has gone or has no agent any more", node=name)

    def _due(self, world: DesiredState, views: list[NodeView]) -> list[str]:
        """The nodes whose pods are to be replaced now."""
        now = time.monotonic()
        there = {view.name for view in views if not view.connected}
        self._away = {name: self._away.get(name, now) for name in there}
        self._restarted = {
            name: when for name, when in self._restarted.items() if name in world.wanted
        }
        alive = [view for view in views if world.nodes[view.name].ready]
        limit = world.installation.spec.agent.max_unavailable if world.installation else 1
        return to_restart(alive, limit, self._away, self._restarted, now)

    async def _restart(self, node: str) -> None:
        self._restarted[node] = time.monotonic()
        pods, _ = await self._cluster.list(
            Kind.POD, labels=daemonset.LABELS, fields={"spec.nodeName": node}
        )
        for pod in pods:
            if pod["metadata"].get("deletionTimestamp"):
                continue
            name = pod["metadata"]["name"]
            await self._cluster.delete(Kind.POD, name)
            RESTARTS.inc()
            log.info(
                "an agent's pod is replaced, its node's packages have changed", node=node, pod=name
            )
            if (body := self._seen.get(Kind.NODE_PROBES, node)) is not None:
                notice = events.KubeEvent(
                    "PodRestarted",
                    f"pod {name} is replaced: the packages have changed",
                    warning=False,
                )
                self._notices.append((Kind.NODE_PROBES, body, notice))

    async def _post(self, now: str) -> None:
        """Posts what is worth it; an event that cannot be posted is logged, since the status says the same."""
        posting, self._notices = self._notices[:EVENTS_AT_ONCE], self._notices[EVENTS_AT_ONCE:]
        KUBE_EVENTS_DROPPED.inc(len(self._notices))
        self._notices = []
        events = [events.event(notice, kind, body, now) for kind, body, notice in posting if body]
        for error in await _all(self._cluster.create(Kind.EVENT, event) for event in events):
            log.warning("a Kubernetes Event could not be posted", reason=str(error))


def _count(states: list[State]) -> None:
    for state in State:
        NODES.labels(str(state)).set(states.count(state))


async def _all(calls: Iterable[Awaitable[Any]]) -> list[InfraSightError]:
    """Makes calls side by side; why those failed that did."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    failed: list[InfraSightError] = []
    for answer in answers:
        if isinstance(answer, ClusterError | ClusterUnavailableError):
            failed.append(answer)
        elif isinstance(answer, BaseException):
            raise answer
    return failed
