"""The one task that writes, and what it is told by."""

import asyncio
import random
import time

import structlog

from infrasight_operator.applier import Applier
from infrasight_operator.control.agents import Agents
from infrasight_operator.desired_state import DesiredState, understand
from infrasight_operator.errors import ClusterError, ClusterUnavailableError
from infrasight_operator.kube.client import Cluster
from infrasight_operator.kube.object_cache import ObjectCache
from infrasight_operator.kube.resources import WATCHED, Kind
from infrasight_operator.metrics import PASS_SECONDS, PASSES, SPREAD_SECONDS

log = structlog.get_logger(__name__)
GATHER = 0.02  # seconds for which changes are gathered before agents hear of them
REPORTS = 0.3  # and reports, before they are written
TICK = 60.0  # at least as often a pass looks, for what only time brings
RELIST = 600.0  # at least as often everything is listed
FIRST_PAUSE, LONGEST_PAUSE = (
    0.5,
    30.0,
)  # seconds after a pass that failed, doubled each time, at random up to a quarter less


class Reconciler:
    """Follows what changes: tells agents at once, and writes soon after.

    Attributes:
        seen: What the watch feeds.
        agents: What agents say.
        synced: Whether everything has been listed and understood once.
        problem: Why the last pass was not whole; empty where it was.

    Args:
        cluster: The API.
        address: Where agents reach the operator.
    """

    def __init__(self, cluster: Cluster, address: str) -> None:
        self._cluster = cluster
        self.seen = ObjectCache(self._changed, self._relisted)
        self.agents = Agents(lambda: self._mark(REPORTS))
        self.synced, self.problem = False, ""
        self._passes = Applier(cluster, self.seen, self.agents, address)
        self._world = DesiredState()
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._gathering: asyncio.TimerHandle | None = None
        self._policy_changed: float | None = None
        self._stale: set[Kind] = set()
        self._listed = 0.0

    async def start(self) -> None:
        """Lists everything once. Raises ClusterUnavailableError or ClusterError."""
        for kind in WATCHED:
            await self._list(kind)
        self._listed = time.monotonic()
        self.synced = True
        self._refresh()

    async def run(self) -> None:
        """Writes until it is cancelled."""
        pause = FIRST_PAUSE
        while True:
            try:
                async with asyncio.timeout(TICK):
                    await self._due.wait()
            except TimeoutError:
                self._refresh()
            self._due.clear()
            self._timer = None
            failed = await self._list_again()
            failed += await self._pass()
            self.problem = "; ".join(failed[:3])[:1000]
            if not failed:
                pause = FIRST_PAUSE
                continue
            log.warning(
                "not everything could be written; it is tried again",
                problems=len(failed),
                first=failed[0],
                seconds=pause,
            )
            self._mark(pause * random.uniform(0.75, 1))
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _pass(self) -> list[str]:
        began, changed = time.monotonic(), self._policy_changed
        failed = await self._passes.run(self._world)
        PASSES.labels("failed" if failed else "ok").inc()
        PASS_SECONDS.observe(time.monotonic() - began)
        if changed is not None and not failed:
            SPREAD_SECONDS.observe(time.monotonic() - changed)
            self._policy_changed = None if self._policy_changed == changed else self._policy_changed
        return failed

    def _changed(self, kind: Kind) -> None:
        """Something was seen that matters."""
        if kind is Kind.POLICY and self._policy_changed is None:
            self._policy_changed = time.monotonic()
        if self.synced and self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(GATHER, self._refresh)

    def _refresh(self) -> None:
        """Understands anew, tells the agents, and has it written."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        self._world = understand(self.seen)
        self.agents.configure(self._world.wanted if self._world.installation is not None else None)
        self._mark(0)

    def _mark(self, seconds: float) -> None:
        """Has a pass made in so many seconds, or sooner."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._due.set)

    def _relisted(self, kind: Kind) -> None:
        """The watch was interrupted: it does not tell of what was deleted meanwhile."""
        self._stale.add(kind)
        self._mark(1.0)

    async def _list_again(self) -> list[str]:
        """Lists what may be out of date; why that failed where it did."""
        if time.monotonic() - self._listed >= RELIST:
            self._stale.update(WATCHED)
            self._listed = time.monotonic()
        failed = []
        for kind in tuple(self._stale):
            try:
                await self._list(kind)
                self._stale.discard(kind)
            except (ClusterUnavailableError, ClusterError) as error:
                failed.append(str(error))
        return failed

    async def _list(self, kind: Kind) -> None:
        self.seen.list_begins(kind)
        bodies, version = await self._cluster.list(kind)
        self.seen.list_came(kind, bodies, version)
