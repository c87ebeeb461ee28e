"""Where a batch stands when it is enriched."""

from typing import Literal

from attrs import frozen


@frozen
class EnrichContext:
    """Given to every `enrich`.

    Attributes:
        side: On the agent, or on the server after the batch has arrived.
        probe: Whose events these are.
        node: The host that they come from.
        batch_id: Set on the server; empty on the agent, where batches are not yet named.
        received_time: When the server received the batch, nanoseconds since the epoch; 0 on the agent.
    """

    side: Literal["agent", "server"]
    probe: str
    node: str
    batch_id: str = ""
    received_time: int = 0
