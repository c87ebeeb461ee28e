"""The blocks of one probe, mapped: slices of columns out, `tail` forward, counters read."""

import mmap
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from infrasight_core.columns import Columns
from infrasight_core.kernel.layout import Layout

SLICE_ROWS = 65536


@frozen
class Counts:
    """What a probe's blocks have counted since they were loaded, over all CPUs; `seen = submitted + block_full + heap_full`.

    Attributes:
        seen: Events that came to a program's `begin`.
        submitted: Events that were written.
        block_full: Events dropped because every slot was taken.
        heap_full: Events dropped because a heap had no room for the longest text.
        entries_full: Calls whose entry could not be kept; their events come all the same, `entry_missing`.
        read: Events that the agent has taken.
    """

    seen: int
    submitted: int
    block_full: int
    heap_full: int
    entries_full: int
    read: int

    @property
    def dropped(self) -> int:
        """Events that will never come."""
        return self.block_full + self.heap_full


class _Block:
    """One CPU's block as NumPy views of the mapping."""

    def __init__(self, area: mmap.mmap, layout: Layout, cpu: int) -> None:
        base = cpu * ((layout.size + 7) // 8 * 8)

        def view(offset: int, dtype: Any, count: int) -> npt.NDArray[Any]:
            return np.frombuffer(area, dtype, count, base + offset)

        self.cpu = cpu
        self.scalars = {name: view(at, "<u8", 1) for name, at in layout.scalars.items()}
        self.head, self.tail = self.scalars["head"], self.scalars["tail"]
        self.heap_tail = view(layout.scalars["heap_tail"], "<u8", 15)
        self.fixed = {c.name: view(c.offset, c.dtype, layout.slots) for c in layout.fixed}
        self.texts = [
            (t, view(t.ends_offset, "<u4", layout.slots), view(t.heap_offset, "u1", t.heap_bytes)) for t in layout.texts
        ]


class Blocks:
    """Every CPU's block of one probe.

    Args:
        map_fd: The descriptor of the blocks' map; the mapping holds the map, the descriptor may be closed.
        layout: Of one block.
        cpus: How many blocks there are.
    """

    def __init__(self, map_fd: int, layout: Layout, cpus: int) -> None:
        size = (layout.size + 7) // 8 * 8 * cpus
        self.layout = layout
        self._area = mmap.mmap(map_fd, (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE)
        self._blocks = [_Block(self._area, layout, cpu) for cpu in range(cpus)]

    def close(self) -> None:
        """Unmaps the blocks."""
        self._blocks.clear()
        self._area.close()

    def waiting(self) -> int:
        """The most events that wait in any block."""
        return max(int(b.head[0] - b.tail[0]) for b in self._blocks)

    def counts(self) -> Counts:
        """The counters of all CPUs; exact once the probe is at rest."""
        names = ("seen", "block_full", "heap_full", "entries_full")
        seen, block_full, heap_full, entries_full = (sum(int(b.scalars[n][0]) for b in self._blocks) for n in names)
        submitted, read = (sum(int(b.scalars[n][0]) for b in self._blocks) for n in ("head", "tail"))
        return Counts(seen, submitted, block_full, heap_full, entries_full, read)

    def slices(self) -> Iterator[Columns]:
        """What waits in the blocks now, a slice at a time; the next step of the iteration frees the slice before it.

        A slice ends where the slots or a heap come to their end, so that every column of it lies in one piece.
        """
        for block in self._blocks:
            yield from self._slices_of(block)

    def _slices_of(self, block: _Block) -> Iterator[Columns]:
        head = int(block.head[0])
        load_barrier()  # the columns must not be loaded before the head that publishes them
        while (tail := int(block.tail[0])) < head:
            first = tail & (self.layout.slots - 1)
            rows = min(head - tail, self.layout.slots - first, SLICE_ROWS)
            pieces = []
            for text, ends, heap in block.texts:
                start = int(block.heap_tail[text.index])
                at = start & (text.heap_size - 1)
                lengths = ends[first : first + rows] - np.uint32(start & 0xFFFFFFFF)  # wraps as the kernel's does
                if at + int(lengths[-1]) > text.heap_size:
                    rows = min(rows, int(np.searchsorted(lengths, text.heap_size - at)) + 1)
                pieces.append((text, start, at, lengths, heap))
            texts, heap_tails = {}, {}
            for text, start, at, lengths, heap in pieces:
                offsets = np.zeros(rows + 1, np.int32)
                offsets[1:] = lengths[:rows]
                texts[text.name] = (offsets, heap[at : at + int(offsets[-1])])
                heap_tails[text.index] = start + int(offsets[-1])
            fixed = {name: column[first : first + rows] for name, column in block.fixed.items()}
            yield Columns(rows, block.cpu, tail, fixed, texts)
            load_barrier()  # nor may the slots be freed before they have been copied
            for index, position in heap_tails.items():
                block.heap_tail[index] = position
            block.tail[0] = tail + rows


_fence = threading.Lock()


def load_barrier() -> None:
    """A full barrier for processors that reorder loads (arm64); Python has none of its own.

    Releasing and taking a lock is a store-release followed by a load-acquire, which no load or store crosses
    (Arm ARM B2.3, release-consistent sequentially consistent). x86 keeps the order by itself; there it costs 60 ns.
    """
    _fence.acquire()
    _fence.release()
    _fence.acquire()
    _fence.release()
