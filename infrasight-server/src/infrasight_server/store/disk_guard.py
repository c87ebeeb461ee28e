"""Deletes the oldest days of the probes' tables while the store's disk is too full.

Several servers may do so at the same time: a day is deleted once, and its rows are counted once.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import resources

import structlog
from attrs import frozen
from infrasight_core.errors import StoreError

from infrasight_server import metrics
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.names import literal, quoted

log = structlog.get_logger(__name__)
_SQL = resources.files("infrasight_server") / "sql"
_LOOK_SECONDS = 60.0
_LATE_SECONDS = 3_600
"""For how long after its end a day counts as today's, because its rows still arrive."""
_DAY_SECONDS = 86_400
"""For how long a deletion is reported."""
_SUFFIX = "_events"


@frozen
class _Partition:
    """The rows of one day in a probe's table.

    Attributes:
        table: The table.
        day: The day, `YYYY-MM-DD`.
        id: What the store calls the partition.
        first_block: The number of its oldest insert, which no other partition of the table has.
        last_block: The number of its latest insert.
        rows: The number of its rows.
        bytes: Its size on the disk.
    """

    table: str
    day: str
    id: str
    first_block: int
    last_block: int
    rows: int
    bytes: int

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies the partition, also after merges and further inserts."""
        return self.table, self.id, self.first_block


class DiskGuard:
    """Looks every minute how full the store's disk is.

    Args:
        store: The store.
        limit: The share of the disk above which it deletes days, from 0 to 1; None: it measures
            only.
        now: Returns the time in seconds since the epoch.
    """

    def __init__(
        self, store: Store, limit: float | None, now: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._limit = limit
        self._now = now
        self._warning = ""
        self._last_deletion = ""
        self._reported_until = 0.0

    async def run(self) -> None:
        """Looks every minute until it is cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(_LOOK_SECONDS)

    def warning(self) -> str:
        """Returns what the last look found, in one line; "" if all is well. For any thread."""
        return self._warning

    def look(self) -> None:
        """Measures the disk, and deletes the oldest days if it is too full. It blocks."""
        try:
            warning = self._look()
        except StoreError as error:
            warning = f"cannot measure the store's disk or delete days: {error}"
            if self._limit is None:
                warning = ""
        if warning and warning != self._warning:
            log.warning("the store's disk", reason=warning)
        self._warning = warning

    def _look(self) -> str:
        """Returns what `/readyz` should report after it. Raises like `Store.command`."""
        # In this order: what another server deletes in between is no longer used, or is found gone.
        old_days = self._old_days()
        total, used = self._measure()
        share = used / total if total else 0.0
        metrics.DISK_USED.set(share)
        if self._limit is None:
            return ""
        excess = used - self._limit * total
        if excess > 0:
            last_day = self._delete_days(old_days, excess)
            reason = f"the store's disk was {share:.0%} full, above disk_limit"
            if last_day:
                self._last_deletion = f"the days up to {last_day} were deleted, because {reason}"
                self._reported_until = self._now() + _DAY_SECONDS
            elif not old_days:
                return f"{reason}, and only today's rows are left"
        return self._last_deletion if self._now() < self._reported_until else ""

    def _measure(self) -> tuple[float, float]:
        """Returns the size of the store's disks and how much is used, in bytes."""
        sql = (_SQL / "disk.sql").read_text(encoding="utf-8")
        ((total, used),) = self._store.rows(sql, self._parameters())
        return total, used

    def _delete_days(self, old_days: Sequence[_Partition], excess: float) -> str:
        """Deletes whole days, the oldest first, until so many bytes are freed.

        Args:
            old_days: The partitions that may be deleted, the oldest first.
            excess: The number of bytes.

        Returns:
            The last day of which rows were deleted; "" for none.
        """
        freed = 0
        last_day = ""
        for day, partitions in itertools.groupby(old_days, lambda old: old.day):
            if freed >= excess:
                break
            for partition in partitions:
                self._run("count_deletions", partition)
                now = self._last_blocks().get(partition.key)
                if now is None:
                    # Another server deletes, too: how much is too much must be measured again.
                    return last_day
                if now != partition.last_block:
                    # Rows have arrived that are not counted. The next look tries again.
                    self._run("withdraw_deletions", partition)
                    continue
                self._delete(partition)
                freed += partition.bytes
                last_day = day
        return last_day

    def _old_days(self) -> list[_Partition]:
        """Returns all partitions of days before today, the oldest first."""
        sql = (_SQL / "old_days.sql").read_text(encoding="utf-8")
        return [_Partition(*row) for row in self._store.rows(sql, self._parameters())]

    def _parameters(self) -> dict[str, str]:
        today = datetime.fromtimestamp(self._now() - _LATE_SECONDS, UTC).date()
        return {"database": self._store.database, "today": today.isoformat()}

    def _last_blocks(self) -> dict[tuple[str, str, int], int]:
        """Returns the latest insert of each partition of days before today."""
        return {old.key: old.last_block for old in self._old_days()}

    def _run(self, statement: str, partition: _Partition) -> None:
        """Runs the statement of an SQL file for a partition."""
        sql = (_SQL / f"{statement}.sql").read_text(encoding="utf-8")
        values = {
            "probe": literal(partition.table.removesuffix(_SUFFIX)),
            "day": literal(partition.day),
            "first_block": str(partition.first_block),
            "table": quoted(partition.table),
            "partition_id": literal(partition.id),
        }
        self._store.command(sql.format(**values))

    def _delete(self, partition: _Partition) -> None:
        """Deletes a partition, and reports it."""
        # The setting permits to delete a partition of any size.
        self._store.command(
            f"ALTER TABLE {quoted(partition.table)} DROP PARTITION ID {literal(partition.id)} "
            "SETTINGS max_partition_size_to_drop = 0"
        )
        metrics.DAYS_DELETED.labels(partition.table).inc()
        metrics.ROWS_DELETED.labels(partition.table).inc(partition.rows)
        metrics.BYTES_DELETED.labels(partition.table).inc(partition.bytes)
        log.warning(
            "deleted a day because the store's disk is too full",
            table=partition.table,
            day=partition.day,
            rows=partition.rows,
            bytes=partition.bytes,
        )
