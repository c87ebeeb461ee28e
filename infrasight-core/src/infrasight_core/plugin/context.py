"""Where a batch stands when it is enriched."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from attrs import field, frozen
from infrasight.v1.stream_pb2 import Container


def _nobody(containers: Sequence[Container]) -> None:
    """Where there is no store, nobody wants to know."""


@frozen
class EnrichContext:
    """Given to every `enrich`.

    Attributes:
        side: On the agent, or on the server after the batch has arrived.
        probe: Whose events these are.
        node: The host that they come from.
        batch_id: Set on the server; empty on the agent, where batches are not yet named.
        received_time: When the server received the batch, nanoseconds since the epoch; 0 on the agent.
        options: The plugin's own table in the agent's configuration (`options.<plugin>`); empty on the server.
        publish: Takes what has become known of containers, from any thread at any time, also after the batch has gone: it goes
            to the store by itself, where it completes the rows that went without.
    """

    side: Literal["agent", "server"]
    probe: str
    node: str
    batch_id: str = ""
    received_time: int = 0
    options: Mapping[str, Any] = field(factory=dict)
    publish: Callable[[Sequence[Container]], None] = _nobody
