"""Remembers which streams of a node are outdated, so that their late batches do no harm."""

from collections import OrderedDict

from infrasight_server.store.pending_batch import PendingBatch

_REMEMBERED_NODES = 10_000


class NodeStreams:
    """When the streams of each node began, which identifies them."""

    def __init__(self) -> None:
        self._newest: OrderedDict[str, float] = OrderedDict()
        self._moved: OrderedDict[str, float] = OrderedDict()

    def note_moved(self, node: str, now: float) -> None:
        """Notes that another server has claimed a node: its streams until now are outdated."""
        _remember(self._moved, node, now)

    def is_moved(self, batch: PendingBatch) -> bool:
        """Returns whether another server has claimed the node since the batch's stream began."""
        moved = self._moved.get(batch.node)
        return moved is not None and batch.stream_began <= moved

    def is_superseded(self, batch: PendingBatch) -> bool:
        """Returns whether the node has a newer stream, on which its agent sends the batch again."""
        newest = self._newest.get(batch.node, batch.stream_began)
        _remember(self._newest, batch.node, max(newest, batch.stream_began))
        return batch.stream_began < newest


def _remember(moments: OrderedDict[str, float], node: str, moment: float) -> None:
    moments[node] = moment
    moments.move_to_end(node)
    if len(moments) > _REMEMBERED_NODES:
        moments.popitem(last=False)
