"""Defines where the recorder delivers batches and accounts: the outbox, or a command's screen."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import pyarrow as pa
from attrs import frozen
from infrasight.v1.stream_pb2 import Account, Container

from infrasight_core.plugin.schema import EventSchema


@frozen
class Delivery:
    """A conforming batch with its identity.

    Attributes:
        batch_id: Unique on the node across restarts: the run (the time at which the probe was
            loaded), the account's window, and the CPU and slot number of the first event.
        probe: The probe that recorded the events.
        schema: The probe's schema.
        batch: The agent columns.
        account: The run's account, this batch included.
    """

    batch_id: str
    probe: str
    schema: EventSchema
    batch: pa.RecordBatch
    account: Account | None = None


class Sink(ABC):
    """Receives what the recorder delivers. The recorder's thread calls it; no method may block."""

    @abstractmethod
    def put(self, delivery: Delivery) -> bool:
        """Accepts a batch; returns False if there is no room for it."""

    @abstractmethod
    def put_account(self, probe: str, account: Account) -> None:
        """Accepts an account that no batch carries."""

    @abstractmethod
    def count_dropped(self, probe: str, reason: str, events: int) -> None:
        """Counts dropped events."""

    @abstractmethod
    def publish(self, containers: Sequence[Container]) -> None:
        """Accepts updates of containers; any thread may call it (`EnrichContext.publish`)."""
