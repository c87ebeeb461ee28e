"""The batches of a table that wait for their insert; nodes take turns."""

import time
from collections import OrderedDict, deque

import numpy as np
from attrs import evolve
from infrasight_core.plugin.arrays import numbers

from infrasight_server.store.pending_batch import PendingBatch

_INSERT_BYTES = 128 << 20  # half of the size at which ClickHouse splits an insert into blocks
_MAX_DAYS_AT_ONCE = 16  # each day is a partition, and each partition takes time
_ALONE_SECONDS = 300.0
_REMEMBERED_NODES = 10_000


class BatchQueue:
    """Batches by node, in the order of each node.

    Attributes:
        rows: The number of rows of all batches.

    Args:
        max_rows: With so many rows, a group takes no further batch.
    """

    def __init__(self, max_rows: int) -> None:
        self.rows = 0
        self._max_rows = max_rows
        # By node; the node whose turn it is comes first.
        self._batches: OrderedDict[str, deque[PendingBatch]] = OrderedDict()
        self._separated_at: OrderedDict[str, float] = OrderedDict()  # by node

    @property
    def is_empty(self) -> bool:
        """Whether no batch waits."""
        return not self._batches

    @property
    def is_full(self) -> bool:
        """Whether more rows wait than a group takes."""
        return self.rows >= self._max_rows

    def put(self, batch: PendingBatch) -> None:
        """Adds a batch."""
        if self._is_separate(batch.node):
            # It may wait long for its separate insert, and must not hold the memory of others.
            batch = evolve(batch, rows=batch.rows.take(numbers(np.arange(batch.rows.num_rows))))
        self._batches.setdefault(batch.node, deque()).append(batch)
        self.rows += batch.rows.num_rows

    def remove(self, node: str) -> None:
        """Removes the batches of a node."""
        self.rows -= sum(batch.rows.num_rows for batch in self._batches.pop(node, ()))

    def separate(self, node: str) -> None:
        """Inserts the batches of a node one by one for some minutes.

        The store rejected one of them, and no other node's batch has to be inserted twice then.
        """
        self._separated_at[node] = time.monotonic()
        self._separated_at.move_to_end(node)
        if len(self._separated_at) > _REMEMBERED_NODES:
            self._separated_at.popitem(last=False)

    def take_group(self) -> list[PendingBatch]:
        """Removes the batches of the next insert, one of each node in turn; none when empty."""
        group: list[PendingBatch] = []
        days: frozenset[int] = frozenset()
        rows = 0
        size = 0
        waiting = deque(self._batches)
        while waiting and rows < self._max_rows:
            node = waiting.popleft()
            batch = self._batches[node][0]
            is_separate = self._is_separate(node)
            if group and (is_separate or len(days | batch.days) > _MAX_DAYS_AT_ONCE):
                continue  # its turn comes with the next insert
            if group and size + batch.size > _INSERT_BYTES:
                break
            self._pop(node)
            group.append(batch)
            days |= batch.days
            rows += batch.rows.num_rows
            size += batch.size
            if is_separate:
                break
            if node in self._batches:
                waiting.append(node)
        self.rows -= rows
        return group

    def _pop(self, node: str) -> None:
        """Removes a node's first batch; the other nodes' turns come before its next."""
        queue = self._batches[node]
        queue.popleft()
        self._batches.move_to_end(node)
        if not queue:
            del self._batches[node]

    def _is_separate(self, node: str) -> bool:
        separated_at = self._separated_at.get(node)
        return separated_at is not None and time.monotonic() - separated_at < _ALONE_SECONDS
