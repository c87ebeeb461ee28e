"""A batch on its way into its table."""

import asyncio

import pyarrow as pa
from attrs import frozen

from infrasight_server.store.outcome import StoreOutcome


@frozen(eq=False)
class PendingBatch:
    """A batch that waits for its insert.

    Attributes:
        node: The node that sent it.
        batch_id: Its id, unique on that node.
        rows: Its rows with all stored columns.
        size: The bytes of its rows in memory.
        days: The days since the epoch that its events lie in, each a partition of the table.
        retry: Whether the agent has sent it before, so that the store may have it already.
        stream_began: When the stream began on which it came, on the monotonic clock.
        stored: Done when the store has the batch; fails with a StoreUnavailableError if the
            agent has to send it again, with another StoreError if the store rejects it.
    """

    node: str
    batch_id: str
    rows: pa.RecordBatch
    size: int
    days: frozenset[int]
    retry: bool
    stream_began: float
    stored: asyncio.Future[StoreOutcome]

    @property
    def key(self) -> tuple[str, str]:
        """Node and batch id, which identify the batch."""
        return self.node, self.batch_id
