"""Reacts to changes: sends new configurations to agents at once, then schedules a write pass."""

import asyncio
import time

import structlog
from infrasight_core.net.backoff import Backoff

from infrasight_operator.applier import Applier
from infrasight_operator.control.agent_registry import AgentRegistry
from infrasight_operator.desired_state import DesiredState, compute_desired_state
from infrasight_operator.errors import ClusterError, ClusterUnavailableError
from infrasight_operator.kube.client import KubeClient
from infrasight_operator.kube.object_cache import ObjectCache
from infrasight_operator.kube.resources import WATCHED, Kind
from infrasight_operator.metrics import POLICY_SPREAD_SECONDS, RECONCILE_SECONDS, RECONCILES

log = structlog.get_logger(__name__)
# Changes of objects are collected for this long before agents receive new configurations.
COLLECT_CHANGES_SECONDS = 0.02
# Reports of agents are collected for this long before they are written to statuses.
COLLECT_REPORTS_SECONDS = 0.3
# The longest time between two passes: rollouts depend on the time alone.
MAX_PASS_INTERVAL_SECONDS = 60.0
# The longest time between two lists of all objects.
MAX_LIST_INTERVAL_SECONDS = 600.0
RELIST_DELAY_SECONDS = 1.0
# The first and the longest pause after a failed pass.
FIRST_RETRY_SECONDS = 0.5
MAX_RETRY_SECONDS = 30.0
_MAX_PROBLEM_CHARACTERS = 1000


class Reconciler:
    """Keeps agents and cluster in line with the policies.

    Attributes:
        cache: The cluster's objects, fed by the watch.
        agents: The connected agents.
        synced: Whether all objects have been listed once.
        problem: Why the last pass was incomplete; empty if it was complete.

    Args:
        client: The Kubernetes API.
        operator_address: The operator's host:port, as agents reach it.
    """

    def __init__(self, client: KubeClient, operator_address: str) -> None:
        self._client = client
        self.cache = ObjectCache(self._on_change, self._on_relist)
        self.agents = AgentRegistry(lambda: self._schedule_pass(COLLECT_REPORTS_SECONDS))
        self.synced = False
        self.problem = ""
        self._applier = Applier(client, self.cache, self.agents, operator_address)
        self._desired = DesiredState()
        self._pass_due = asyncio.Event()
        self._pass_timer: asyncio.TimerHandle | None = None
        self._recompute_timer: asyncio.TimerHandle | None = None
        self._policy_changed_at: float | None = None
        self._stale_kinds: set[Kind] = set()
        self._listed_at = 0.0

    async def start(self) -> None:
        """Lists all objects once.

        Raises:
            ClusterUnavailableError: A retry may succeed.
            ClusterError: A retry would fail the same way.
        """
        for kind in WATCHED:
            await self._list(kind)
        self._listed_at = time.monotonic()
        self.synced = True
        self._recompute()

    async def run(self) -> None:
        """Makes passes until it is cancelled."""
        backoff = Backoff(FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS)
        while True:
            try:
                async with asyncio.timeout(MAX_PASS_INTERVAL_SECONDS):
                    await self._pass_due.wait()
            except TimeoutError:
                self._recompute()
            self._pass_due.clear()
            self._pass_timer = None
            problems = await self._list_stale_kinds()
            problems += await self._make_pass()
            self.problem = "; ".join(problems[:3])[:_MAX_PROBLEM_CHARACTERS]
            if not problems:
                backoff.reset()
                continue
            retry_seconds = backoff.next_pause()
            log.warning(
                "some objects could not be written; retrying",
                problems=len(problems),
                first=problems[0],
                retry_seconds=round(retry_seconds, 1),
            )
            self._schedule_pass(retry_seconds)

    async def _make_pass(self) -> list[str]:
        """Writes what differs; returns the problems."""
        began = time.monotonic()
        policy_changed_at = self._policy_changed_at
        problems = await self._applier.run(self._desired)
        RECONCILES.labels("failed" if problems else "ok").inc()
        RECONCILE_SECONDS.observe(time.monotonic() - began)
        if policy_changed_at is not None and not problems:
            POLICY_SPREAD_SECONDS.observe(time.monotonic() - policy_changed_at)
            if self._policy_changed_at == policy_changed_at:
                self._policy_changed_at = None
        return problems

    def _on_change(self, kind: Kind) -> None:
        """Schedules the recomputation of the desired state."""
        if kind is Kind.POLICY and self._policy_changed_at is None:
            self._policy_changed_at = time.monotonic()
        if self.synced and self._recompute_timer is None:
            loop = asyncio.get_running_loop()
            self._recompute_timer = loop.call_later(COLLECT_CHANGES_SECONDS, self._recompute)

    def _recompute(self) -> None:
        """Computes the desired state, configures the agents and schedules a pass."""
        if self._recompute_timer is not None:
            self._recompute_timer.cancel()
            self._recompute_timer = None
        self._desired = compute_desired_state(self.cache)
        has_installation = self._desired.installation is not None
        self.agents.configure(self._desired.configurations if has_installation else None)
        self._schedule_pass(0)

    def _schedule_pass(self, seconds: float) -> None:
        """Schedules a pass in at most this time; an earlier one stays scheduled."""
        loop = asyncio.get_running_loop()
        if self._pass_timer is not None:
            if self._pass_timer.when() <= loop.time() + seconds:
                return
            self._pass_timer.cancel()
        self._pass_timer = loop.call_later(seconds, self._pass_due.set)

    def _on_relist(self, kind: Kind) -> None:
        """Schedules a list, because an interrupted watch does not report deleted objects."""
        self._stale_kinds.add(kind)
        self._schedule_pass(RELIST_DELAY_SECONDS)

    async def _list_stale_kinds(self) -> list[str]:
        """Lists the kinds that may be out of date; returns the problems."""
        if time.monotonic() - self._listed_at >= MAX_LIST_INTERVAL_SECONDS:
            self._stale_kinds.update(WATCHED)
            self._listed_at = time.monotonic()
        problems = []
        for kind in tuple(self._stale_kinds):
            try:
                await self._list(kind)
                self._stale_kinds.discard(kind)
            except (ClusterUnavailableError, ClusterError) as error:
                problems.append(str(error))
        return problems

    async def _list(self, kind: Kind) -> None:
        self.cache.begin_list(kind)
        bodies, version = await self._client.list(kind)
        self.cache.finish_list(kind, bodies, version)
