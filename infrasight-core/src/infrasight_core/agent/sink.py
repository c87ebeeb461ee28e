"""What the recorder delivers, and who takes it."""

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa
from attrs import frozen
from infrasight.v1.stream_pb2 import Account, Container

from infrasight_core.plugin.schema import EventSchema


@frozen
class Delivery:
    """A conforming batch and what identifies it.

    Attributes:
        batch_id: Unique on the node for ever: the run, which is when the probe was loaded, the account's window, and the first
            event's CPU and slot number.
        probe: Whose events.
        schema: Of the probe.
        batch: The agent columns.
        account: Of the run, with this batch.
    """

    batch_id: str
    probe: str
    schema: EventSchema
    batch: pa.RecordBatch
    account: Account | None = None


class Sink(Protocol):
    """Where the recorder's work goes; called by its thread, must not block."""

    def put(self, delivery: Delivery) -> bool:
        """Takes a batch; False where it cannot."""

    def account(self, probe: str, account: Account) -> None:
        """Takes an account that comes without a batch."""

    def dropped(self, probe: str, reason: str, events: int) -> None:
        """Takes the news of events that will never come."""

    def containers(self, found: Sequence[Container]) -> None:
        """Takes what has become known of containers; called by any thread."""
