"""Decides which server inserts the batches of a node, where several share a ClickHouse server.

An agent that moves to another server sends its unanswered batches again there. The server that it
left may be inserting them at that moment, or its insert may lie in a socket of a slow ClickHouse
and begin later. So a server claims a node before it inserts the node's batches:

1. It writes its claim into the table `claims`. Every insert carries the condition that no claim
   has changed since its server last read them, and ClickHouse evaluates it when the insert begins.
   So no earlier insert of any server can begin any more.
2. It waits for the inserts into the table that had begun before.
3. Now it looks up which of the node's batches are stored. Nothing changes that but its own inserts.

A claim of another server that is younger than the stream of a batch means that the agent has left
this server since; then the server does not claim the node back.

An insert that a changed claim has stopped is repeated after the claims have been read again,
without the batches of nodes that another server has claimed.
"""

import functools
import math
import operator
import secrets
import time
import uuid
from collections.abc import Collection, Mapping, Set

import pyarrow as pa
from infrasight_core.errors import ClaimsChangedError, StoreUnavailableError

from infrasight_server.store.clickhouse import Store
from infrasight_server.store.names import literal

_EARLIER_INSERTS_SECONDS = 30.0
_LOOK_SECONDS = 0.05


class Claims:
    """This server's claims to insert into a probe's table. Its methods block.

    Attributes:
        condition: An SQL condition for each insert: no claim has changed; "" for a store that has
            one server only.

    Args:
        probe: The probe.
        store: The store.
    """

    def __init__(self, probe: str, store: Store) -> None:
        self.condition = ""
        self._probe = probe
        self._store = store
        self._server = uuid.uuid4().hex
        self._held: frozenset[str] = frozenset()  # the nodes whose last claim is this server's
        self._ready: set[str] = set()  # those for which no earlier insert is running
        self._moved: set[str] = set()

    def unclaimed(self, nodes: Set[str]) -> Set[str]:
        """Returns those of the nodes whose batches this server must not insert yet."""
        return nodes - self._ready if self._store.is_shared else frozenset()

    def take_moved(self) -> Set[str]:
        """Returns the nodes that another server has claimed since the last call."""
        moved = frozenset(self._moved)
        self._moved.clear()
        return moved

    def claim(self, streams: Mapping[str, float]) -> None:
        """Claims nodes, or claims them again after an insert whose outcome is unknown.

        When it returns, no earlier insert of their batches is running or can begin.

        Args:
            streams: The nodes, each with when its oldest stream began on the monotonic clock.

        Raises:
            ClaimsChangedError: Another server has claimed one of the nodes; see `take_moved`.
            StoreError: The store rejects a statement.
            StoreUnavailableError: The store does not answer, or runs an earlier insert for long.
        """
        nodes = streams.keys()
        if self._store.is_shared:
            self._check_streams(streams)
            self._ready -= nodes
            self._store.insert("claims", self._rows(nodes), uuid.uuid4().hex, self.condition)
            self.refresh()
            if not nodes <= self._held:
                raise ClaimsChangedError("another server has claimed a node")
        self._wait_for_earlier_inserts()
        self._ready |= nodes

    def refresh(self) -> None:
        """Reads the claims of all servers. Raises like `claim`."""
        self._others_ages()

    def _check_streams(self, streams: Mapping[str, float]) -> None:
        """Raises ClaimsChangedError if the agent of a stream has moved to another server since."""
        ages = self._others_ages()
        now = time.monotonic()  # later than the ages: in doubt, the agent has moved
        moved = {node for node, began in streams.items() if ages.get(node, math.inf) < now - began}
        if moved:
            self._moved |= moved
            raise ClaimsChangedError("another server has claimed a node")

    def _others_ages(self) -> dict[str, float]:
        """Reads the claims; returns the age in seconds of each that another server holds."""
        if not self._store.is_shared:
            return {}
        sql = (
            "SELECT node, server, id, toFloat64(now64(6)) - toFloat64(time) "
            "FROM claims FINAL WHERE probe = {probe:String}"
        )
        rows = self._store.rows(sql, {"probe": self._probe})
        ages = {node: age for node, server, _, age in rows if server != self._server}
        self._held = frozenset(node for node, server, _, _ in rows if server == self._server)
        self._moved |= self._ready & ages.keys()
        self._ready &= self._held
        current = functools.reduce(operator.xor, (id_ for _, _, id_, _ in rows), 0)
        self.condition = (
            f"(SELECT groupBitXor(id) FROM claims FINAL WHERE probe = {literal(self._probe)}) "
            f"= {current}"
        )
        return ages

    def _rows(self, nodes: Collection[str]) -> pa.Table:
        """Returns a claim for each node."""
        return pa.table(
            {
                "probe": pa.repeat(self._probe, len(nodes)),
                "node": pa.array(nodes, pa.string()),
                "server": pa.repeat(self._server, len(nodes)),
                "id": pa.array([secrets.randbits(64) for _ in nodes], pa.uint64()),
            }
        )

    def _wait_for_earlier_inserts(self) -> None:
        table = f"{self._probe}_events"
        earlier = self._store.running_inserts(table)
        until = time.monotonic() + _EARLIER_INSERTS_SECONDS
        while earlier & self._store.running_inserts(table):
            if time.monotonic() > until:
                raise StoreUnavailableError("it is still running an earlier insert")
            time.sleep(_LOOK_SECONDS)
