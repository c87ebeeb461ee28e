"""The blocks of one probe, mapped: columns out, `tail` forward, counters read."""

import mmap
import threading
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from infrasight_core.kernel.layout import Layout
from infrasight_core.plugin.columns import Columns

COUNTERS = 7  # from `seen` on, in the order of Counts but `read`
READINGS = 64


@frozen
class Counts:
    """What a probe's blocks have counted since they were loaded, over all CPUs.

    `seen = filtered + block_full + heap_full + submitted + in_progress`, exactly.

    Attributes:
        seen: Events that came to a program's `begin`.
        filtered: Events that the filters, or being the agent's own, kept from being recorded.
        block_full: Events dropped because every slot was taken.
        heap_full: Events dropped because a heap had no room for the longest text.
        submitted: Events that were written.
        entries_full: Calls of which something could not be kept from entry to exit; their events come all the same, and say
            what is missing: `entry_missing`, or less.
        read: Events that the agent has taken.
        untraced: Requests of io_uring whose completion was never seen; no event tells of them.
    """

    seen: int
    filtered: int
    block_full: int
    heap_full: int
    submitted: int
    entries_full: int
    read: int
    untraced: int = 0

    @property
    def dropped(self) -> int:
        """Events that will never come."""
        return self.block_full + self.heap_full

    @property
    def in_progress(self) -> int:
        """Events whose program was just at work; 0 in nearly every reading, as one at work on a CPU is waited for."""
        return self.seen - self.filtered - self.dropped - self.submitted


@frozen
class _Piece:
    """Views of some events that lie in one piece in a block, and where its heaps stand behind them."""

    cpu: int
    first: int
    rows: int
    fixed: Mapping[str, npt.NDArray[Any]]
    texts: Mapping[str, tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]]
    heap_tails: list[int]


class _Block:
    """One CPU's block as NumPy views of the mapping."""

    def __init__(self, area: mmap.mmap, layout: Layout, cpu: int) -> None:
        base = cpu * ((layout.size + 7) // 8 * 8)

        def view(offset: int, dtype: Any, count: int) -> npt.NDArray[Any]:
            return np.frombuffer(area, dtype, count, base + offset)

        self.cpu = cpu
        self.scalars = {name: view(at, "<u8", 1) for name, at in layout.scalars.items()}
        self.head, self.tail = self.scalars["head"], self.scalars["tail"]
        self._heap_tail = view(layout.scalars["heap_tail"], "<u8", 15)
        self._counters = view(layout.scalars["seen"], "<u8", COUNTERS)
        self._fixed = {c.name: view(c.offset, c.dtype, layout.slots) for c in layout.fixed}
        self._texts = [
            (t, view(t.ends_offset, "<u4", layout.slots), view(t.heap_offset, "u1", t.heap_bytes))
            for t in layout.texts
        ]

    def counters(self) -> npt.NDArray[np.uint64]:
        """Those of `Counts` in their order, but `read`; read again as long as a program is at work between two of them."""
        for _ in range(READINGS):
            read = self._counters.copy()
            if read[0] == read[1] + read[2] + read[3] + read[4]:
                break
        return read

    def pieces(self, slots: int) -> Iterator[_Piece]:
        """What waits, cut where the slots or a heap come to their end."""
        tail, head = int(self.tail[0]), int(self.head[0])
        load_barrier()  # the columns must not be loaded before the head that publishes them
        heap_tails = [int(self._heap_tail[text.index]) for text, _, _ in self._texts]
        while tail < head:
            at = tail & (slots - 1)
            rows = min(head - tail, slots - at)
            starts = [
                position & (text.heap_size - 1)
                for (text, _, _), position in zip(self._texts, heap_tails, strict=True)
            ]
            lengths = []
            for (text, ends, _), position, start in zip(
                self._texts, heap_tails, starts, strict=True
            ):
                so_far = ends[at : at + rows] - np.uint32(
                    position & 0xFFFFFFFF
                )  # wraps as the kernel's does
                if (
                    start + int(so_far[-1]) > text.heap_size
                ):  # the text that runs into the guard is the piece's last
                    rows = min(rows, int(np.searchsorted(so_far, text.heap_size - start)) + 1)
                lengths.append(so_far)
            texts = {
                text.name: (so_far[:rows], heap[start : start + int(so_far[rows - 1])])
                for (text, _, heap), so_far, start in zip(self._texts, lengths, starts, strict=True)
            }
            heap_tails = [
                position + len(data)
                for position, (_, data) in zip(heap_tails, texts.values(), strict=True)
            ]
            fixed = {name: column[at : at + rows] for name, column in self._fixed.items()}
            yield _Piece(self.cpu, tail, rows, fixed, texts, heap_tails)
            tail += rows

    def free(self, piece: _Piece) -> None:
        """Gives the piece's slots and bytes back to the program."""
        self._heap_tail[: len(piece.heap_tails)] = piece.heap_tails
        self.tail[0] = piece.first + piece.rows


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

    @property
    def cpus(self) -> int:
        """How many blocks there are."""
        return len(self._blocks)

    def memory(self) -> bytes:
        """All blocks as they lie."""
        return self._area[:]

    def close(self) -> None:
        """Unmaps the blocks."""
        self._blocks.clear()
        self._area.close()

    def fill_level(self) -> float:
        """The share of the fullest block that waits to be taken; 0 where nothing waits at all."""
        return max(int(b.head[0] - b.tail[0]) for b in self._blocks) / self.layout.slots

    def counts(self) -> Counts:
        """The counters of all CPUs, each CPU's read at once and where possible between two events."""
        seen, filtered, block_full, heap_full, submitted, entries_full, untraced = np.sum(
            [block.counters() for block in self._blocks], axis=0
        ).tolist()
        read = sum(int(block.tail[0]) for block in self._blocks)
        return Counts(
            seen, filtered, block_full, heap_full, submitted, entries_full, read, untraced
        )

    def drain(self) -> Columns:
        """What waits in all blocks now, copied out: one copy of each column, whatever the number of blocks; frees the slots."""
        pieces: list[_Piece] = []
        for block in self._blocks:
            pieces += block.pieces(self.layout.slots)
        if not pieces:
            return self._nothing()
        fixed = {
            c.name: np.concatenate([p.fixed[c.name] for p in pieces]) for c in self.layout.fixed
        }
        texts = {t.name: _joined([p.texts[t.name] for p in pieces]) for t in self.layout.texts}
        rows = sum(piece.rows for piece in pieces)
        cpu = np.repeat(np.array([p.cpu for p in pieces], np.uint32), [p.rows for p in pieces])
        sequence = np.concatenate(
            [np.arange(p.first, p.first + p.rows, dtype=np.uint64) for p in pieces]
        )
        load_barrier()  # the slots must not be freed before they have been copied
        for piece in pieces:
            self._blocks[piece.cpu].free(piece)
        return Columns(rows, cpu, sequence, fixed, texts, self.layout.flags)

    def _nothing(self) -> Columns:
        """Every column, without a row."""
        fixed = {c.name: np.zeros(0, c.dtype) for c in self.layout.fixed}
        texts = {t.name: (np.zeros(1, np.int32), np.zeros(0, np.uint8)) for t in self.layout.texts}
        return Columns(
            0, np.zeros(0, np.uint32), np.zeros(0, np.uint64), fixed, texts, self.layout.flags
        )


def _joined(
    parts: list[tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """One text column from the lengths so far and the bytes of each piece."""
    starts = accumulate((len(data) for _, data in parts), initial=0)
    offsets = np.concatenate(
        [[0], *(ends + np.uint32(start) for (ends, _), start in zip(parts, starts, strict=False))]
    )
    return offsets.astype(np.int32), np.concatenate([data for _, data in parts])


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
