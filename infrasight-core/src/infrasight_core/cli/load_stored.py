"""A load test against an agent that runs: its events are looked for in the store."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from attrs import define, field

from infrasight_core.cli.load_generator import thread_name
from infrasight_core.cli.load_parts import Parts, cpu_ns
from infrasight_core.cli.load_processes import LoadProcesses
from infrasight_core.cli.load_result import Latency, LoadResult, Order
from infrasight_core.console.streams import report
from infrasight_core.errors import InfraSightError

if TYPE_CHECKING:
    from infrasight_core.net.server_client import ServerClient

_LONGEST_WAIT = 30.0  # seconds for a row, or for further rows
_PAUSE = 0.5  # seconds between two looks for all rows
_MARKED_INTERVAL = 0.05  # seconds between two marked events
_MARKED_PAUSE = 0.01  # seconds between two looks for their rows
_MARKED_WAIT = 5.0  # seconds for the last rows; some events may be dropped
_REASONS = ("block_full", "heap_full", "decode_failed", "outbox_full", "rejected")
_PERIOD = "time >= toDateTime({begin} - 120, 'UTC')"  # with the window before
_ROWS = "SELECT count() AS rows, any(node) AS node FROM {probe}_events WHERE comm = '{comm}' AND "
_ENDS = (
    "SELECT toUnixTimestamp64Nano(time) + duration_ns AS ended "
    "FROM {probe}_events WHERE comm = '{comm}' AND "
)
_DROPPED = """
SELECT sum(block_full) AS block_full, sum(heap_full) AS heap_full,
    sum(decode_failed) AS decode_failed, sum(outbox_full) AS outbox_full, sum(rejected) AS rejected
FROM accounting WHERE node = '{node}' AND probe = '{probe}' AND """


@define
class _Store:
    """What a server's store holds of a load.

    Attributes:
        client: Asks the server.
        probe: The probe.
        begin: When the load test began, in seconds since the epoch.
        node: The name that the agent gives this machine, once it is known.
    """

    client: "ServerClient"
    probe: str
    begin: int = field(factory=lambda: int(time.time()))
    node: str = ""

    def rows(self, comm: str) -> int:
        """Counts the rows of threads of one name."""
        row = self._row((_ROWS + _PERIOD), comm=comm)
        self.node = self.node or _text(row["node"])
        return int(row["rows"])

    def ends(self, comm: str) -> set[int]:
        """Returns when the events of threads of one name ended, in nanoseconds since the epoch."""
        return {int(row["ended"]) for row in self._rows(_ENDS + _PERIOD, comm=comm)}

    def dropped(self) -> dict[str, int]:
        """Counts the events of the node's probe that were dropped, by reason."""
        node = self.node.replace("\\", "\\\\").replace("'", "\\'")
        row = self._row(_DROPPED + _PERIOD, node=node)
        return {reason: int(row[reason]) for reason in _REASONS}

    def _row(self, sql: str, **values: str) -> dict[str, Any]:
        (row,) = self._rows(sql, **values)
        return row

    def _rows(self, sql: str, **values: str) -> list[dict[str, Any]]:
        statement = sql.format(probe=self.probe, begin=self.begin, **values)
        rows: list[dict[str, Any]] = pa.concat_tables(self.client.query(statement)).to_pylist()
        return rows


def measure_stored(
    order: Order,
    processes: LoadProcesses,
    canary: Callable[[str], None],
    client: "ServerClient",
    parts: Parts,
) -> LoadResult:
    """Makes events that an agent records, and waits until the store has them.

    In the first half of the time, the CPU time of the parts is measured; in the second half, the
    latency, whose queries would count as CPU time otherwise.

    Args:
        order: The load.
        processes: Make it.
        canary: Makes one marked event.
        client: Asks the server to which the agent sends.
        parts: The processes whose CPU time is measured.

    Raises:
        InfraSightError: No event arrives, or the server cannot answer.
    """
    store = _Store(client, order.probe)
    marked = _Marked(store, processes.name + "m", canary)
    if not marked.delays_ms(0, _LONGEST_WAIT):
        raise InfraSightError(
            f"no row of a test event arrived within {_LONGEST_WAIT:.0f} s: does an agent on this "
            f"machine record {order.probe} without filters, and send to this server? "
            "--alone needs no agent"
        )
    report(f"making events for {order.seconds:g} s; Ctrl-C ends without a result")
    store.rows(marked.comm)  # learns the node
    dropped_before = store.dropped()
    cpu_before = cpu_ns(parts)
    processes.begin(order.rate, order.seconds / 2)
    first = processes.finish()
    _wait_for_rows(store, processes.name, first.made, dropped_before)
    cpu_after = cpu_ns(parts)
    processes.begin(order.rate, order.seconds / 2)
    delays = marked.delays_ms(order.seconds / 2)
    second = processes.finish()
    made = first.made + second.made
    _wait_for_rows(store, processes.name, made, dropped_before)
    recorded = store.rows(processes.name)
    all_dropped = _difference(dropped_before, store.dropped())
    return LoadResult(
        order=order,
        made=made,
        made_per_second=round(made / (first.seconds + second.seconds), 1),
        recorded=recorded,
        dropped=_of_this_load(all_dropped, made - recorded),
        cpu_us=_per_event_us(cpu_before, cpu_after, first.made),
        latency=Latency.of("until a query returns them", delays),
        call=None,
        notes=_notes(all_dropped, made - recorded),
    )


class _Marked:
    """Makes marked events now and then, and looks when the store has the row of each.

    Attributes:
        comm: The name of the thread while it makes them.

    Args:
        store: Has the rows.
        comm: That name.
        canary: Makes an event.
    """

    def __init__(self, store: _Store, comm: str, canary: Callable[[str], None]) -> None:
        self._store = store
        self.comm = comm
        self._canary = canary
        self._made = 0
        self._seen: set[int] = set()

    def delays_ms(self, seconds: float, wait: float = _MARKED_WAIT) -> list[float]:
        """Makes events, at least one; returns the milliseconds from each to its row.

        Args:
            seconds: How long to make events.
            wait: How long to wait for their rows after that, in seconds.
        """
        delays: list[float] = []
        end = time.monotonic() + seconds
        self._make()
        next_event = time.monotonic() + _MARKED_INTERVAL
        while (now := time.monotonic()) < end or len(self._seen) < self._made:
            if now >= end + wait:
                break
            if next_event <= now < end:
                self._make()
                next_event = now + _MARKED_INTERVAL
            ended = self._store.ends(self.comm) - self._seen
            delays += [(time.time_ns() - end_ns) / 1e6 for end_ns in ended]
            self._seen |= ended
            time.sleep(_MARKED_PAUSE)
        return delays

    def _make(self) -> None:
        self._made += 1
        with thread_name(self.comm), suppress(OSError):  # it is best one that fails
            self._canary(self.comm)


def _wait_for_rows(store: _Store, comm: str, made: int, dropped_before: dict[str, int]) -> None:
    """Waits until all events have arrived or are dropped, or no further ones arrive."""
    most = -1
    deadline = time.monotonic() + _LONGEST_WAIT
    while time.monotonic() < deadline:
        arrived = store.rows(comm)
        if arrived < made:
            arrived += sum(_difference(dropped_before, store.dropped()).values())
        if arrived >= made:
            return
        if arrived > most:
            most = arrived
            deadline = time.monotonic() + _LONGEST_WAIT
        time.sleep(_PAUSE)


def _per_event_us(
    before: Mapping[str, int | None], after: Mapping[str, int | None], events: int
) -> dict[str, float | None]:
    """Returns the CPU time of each part per event, in microseconds; None where it is unknown."""
    cpu_us: dict[str, float | None] = {}
    for part, earlier in before.items():
        later = after[part]
        if earlier is None or later is None or not events:
            cpu_us[part] = None
        else:
            cpu_us[part] = round((later - earlier) / events / 1000, 3)
    return cpu_us


def _difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {reason: after[reason] - before[reason] for reason in _REASONS}


def _of_this_load(dropped: dict[str, int], not_recorded: int) -> dict[str, int]:
    """Returns how many events of this load were dropped, by reason.

    Accounts count the events of all programs. If they have dropped more than this load lacks, the
    reasons are not known one by one.
    """
    reasons = {reason: events for reason, events in dropped.items() if events}
    if sum(reasons.values()) > not_recorded:
        return {" or ".join(reasons): not_recorded} if not_recorded > 0 else {}
    return reasons


def _notes(dropped: dict[str, int], not_recorded: int) -> list[str]:
    notes = ["Not measured: what a call pays. --alone measures it while no agent runs."]
    others = sum(dropped.values()) - max(not_recorded, 0)
    if others > 0:
        notes.append(f"The agent dropped {others:,} events of other programs in this time.")
    return notes


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
