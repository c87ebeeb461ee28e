"""Describes a batch to the `enrich` hooks: whose events it holds, and on which side it is."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from attrs import field, frozen
from infrasight.v1.stream_pb2 import Container


def _discard(containers: Sequence[Container]) -> None:
    """The default of `publish`, for a side without a store."""


@frozen
class EnrichContext:
    """The context of every `enrich` call.

    Attributes:
        side: `agent`, or `server` after the batch has arrived there.
        probe: The probe that recorded the batch.
        node: The host that sent the events.
        batch_id: The batch's identity; empty on the agent, where batches have none yet.
        received_time: When the server received the batch, in nanoseconds since the epoch; 0 on the
            agent.
        options: The plugin's own table of the agent's settings (`options.<plugin>`); empty on the
            server.
        publish: Sends what has become known about containers to the store, where it completes rows
            that lack it. Any thread may call it at any time, also after the batch has been sent.
    """

    side: Literal["agent", "server"]
    probe: str
    node: str
    batch_id: str = ""
    received_time: int = 0
    options: Mapping[str, Any] = field(factory=dict)
    publish: Callable[[Sequence[Container]], None] = _discard
