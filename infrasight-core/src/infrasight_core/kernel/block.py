"""Drains blocks into columns: maps the blocks that a probe's program writes in the kernel.

The program (bpf/infrasight.bpf.h) writes each event into a slot of its CPU's block and moves
`head`. `Blocks.drain` copies the waiting events of all blocks into one `Columns`, which the agent's
recorder passes to the probe's `decode`, and moves `tail`, which frees the slots. Events of the
agent's canary end here: they prove that the program still writes, and become no rows.
"""

import mmap
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from infrasight_core.kernel.layout import Layout
from infrasight_core.plugin.columns import Columns

_COUNTERS = 7  # from `seen` on, in the order of Counts but without `read`
_MOST_READINGS = 64
_MOST_CANARIES = 64  # whose texts are held; older ones are discarded
_ALL = 1 << 32  # more than all blocks can hold
_CANARY = np.uint64(1 << 63)  # QUALITY_CANARY in infrasight.bpf.h


@frozen
class Counts:
    """The counters of a probe's blocks since they were loaded, over all CPUs.

    `seen = filtered + block_full + heap_full + submitted + in_progress`, exactly.

    Attributes:
        seen: Events that reached a program's `begin`.
        filtered: Events that were not recorded because of a filter, or because they are the agent's
            own work, such as those of its canary.
        block_full: Events dropped because every slot was occupied.
        heap_full: Events dropped because a heap had no room for the longest text.
        submitted: Events written.
        entries_full: Calls of which something could not be stored from entry to exit. Their events
            are recorded and flagged as `entry_missing`, or lack less.
        read: Events that the agent has drained, without those of its canary.
        untraced: Requests of io_uring whose completion was never seen; no event records them.
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
        """Events that will never become a row."""
        return self.block_full + self.heap_full

    @property
    def in_progress(self) -> int:
        """Events that a program was writing when the counters were read.

        This is 0 in nearly every reading, because a reading waits for the program on each CPU.
        """
        return self.seen - self.filtered - self.dropped - self.submitted


_Text = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]


@frozen
class _Piece:
    """Consecutive events of a block that lie in one piece, as views.

    Attributes:
        cpu: The CPU.
        first: The number of the first event.
        rows: The number of events.
        fixed: The FIXED and CHARS columns.
        texts: Each TEXT column: the end of each text, counted from the piece's first byte, and the
            bytes.
        heap_tails: The positions in the heaps after these events.
    """

    cpu: int
    first: int
    rows: int
    fixed: Mapping[str, npt.NDArray[Any]]
    texts: Mapping[str, _Text]
    heap_tails: list[int]


@frozen
class _TextViews:
    """The views of one TEXT column in the mapping."""

    name: str
    index: int
    heap_size: int
    ends: npt.NDArray[np.uint32]
    heap: npt.NDArray[np.uint8]

    def piece(self, start: int, slot: int, rows: int) -> tuple[npt.NDArray[np.uint32], int]:
        """Returns the ends of texts, counted from a position, and how many lie in one piece.

        Args:
            start: The position of the first text.
            slot: The slot of the first text.
            rows: The number of texts.
        """
        ends = self.ends[slot : slot + rows] - np.uint32(
            start & 0xFFFFFFFF
        )  # wraps as in the kernel
        room = self.heap_size - self.position(start)
        if int(ends[-1]) > room:
            # The text that runs into the guard behind the heap is the last of the piece.
            rows = min(rows, int(np.searchsorted(ends, room)) + 1)
        return ends, rows

    def position(self, start: int) -> int:
        """Returns the offset in the heap of a position that counts all bytes ever written."""
        return start & (self.heap_size - 1)


class _Block:
    """One CPU's block as NumPy views of the mapping."""

    def __init__(self, area: mmap.mmap, layout: Layout, cpu: int) -> None:
        base = cpu * _aligned(layout.size)

        def view(offset: int, dtype: Any, count: int) -> npt.NDArray[Any]:
            return np.frombuffer(area, dtype, count, base + offset)

        self.cpu = cpu
        self.canaries = 0  # events of the canary that were drained
        self.scalars = {name: view(offset, "<u8", 1) for name, offset in layout.scalars.items()}
        self.head = self.scalars["head"]
        self.tail = self.scalars["tail"]
        self._slots = layout.slots
        self._heap_tail = view(layout.scalars["heap_tail"], "<u8", 15)
        self._counters = view(layout.scalars["seen"], "<u8", _COUNTERS)
        self._fixed = {
            column.name: view(column.offset, column.dtype, layout.slots) for column in layout.fixed
        }
        self._texts = [
            _TextViews(
                name=text.name,
                index=text.index,
                heap_size=text.heap_size,
                ends=view(text.ends_offset, "<u4", layout.slots),
                heap=view(text.heap_offset, "u1", text.heap_bytes),
            )
            for text in layout.texts
        ]

    def counters(self) -> npt.NDArray[np.uint64]:
        """Reads the counters of `Counts` in their order, without `read`.

        They are read again while a program is between two of them.
        """
        for _ in range(_MOST_READINGS):
            read = self._counters.copy()
            if read[0] == read[1] + read[2] + read[3] + read[4]:
                break
        return read

    def pieces(self, most_rows: int) -> Iterator[_Piece]:
        """Yields waiting events, divided where the slots or a heap come to their end.

        Args:
            most_rows: The most events; later ones go on waiting.
        """
        tail = int(self.tail[0])
        head = min(int(self.head[0]), tail + most_rows)
        load_barrier()  # the columns must not be loaded before the head that publishes them
        heap_tails = [int(self._heap_tail[text.index]) for text in self._texts]
        while tail < head:
            slot = tail & (self._slots - 1)
            rows = min(head - tail, self._slots - slot)
            all_ends = []
            for text, start in zip(self._texts, heap_tails, strict=True):
                ends, rows = text.piece(start, slot, rows)
                all_ends.append(ends)
            texts: dict[str, _Text] = {}
            next_tails = []
            for text, start, ends in zip(self._texts, heap_tails, all_ends, strict=True):
                length = int(ends[rows - 1])
                position = text.position(start)
                texts[text.name] = (ends[:rows], text.heap[position : position + length])
                next_tails.append(start + length)
            heap_tails = next_tails
            fixed = {name: column[slot : slot + rows] for name, column in self._fixed.items()}
            yield _Piece(self.cpu, tail, rows, fixed, texts, heap_tails)
            tail += rows

    def free(self, piece: _Piece) -> None:
        """Gives the slots and bytes of a piece back to the program."""
        self._heap_tail[: len(piece.heap_tails)] = piece.heap_tails
        self.tail[0] = piece.first + piece.rows


class Blocks:
    """The blocks of one probe, one for each CPU.

    Args:
        map_fd: The descriptor of the blocks' map. The mapping keeps the map, so that the descriptor
            may be closed.
        layout: The layout of one block.
        cpus: The number of blocks.
    """

    def __init__(self, map_fd: int, layout: Layout, cpus: int) -> None:
        size = _aligned(layout.size) * cpus
        pages = -(-size // mmap.PAGESIZE)
        self.layout = layout
        self._canary_texts: deque[bytes] = deque(maxlen=_MOST_CANARIES)
        self._area = mmap.mmap(map_fd, pages * mmap.PAGESIZE)
        self._blocks = [_Block(self._area, layout, cpu) for cpu in range(cpus)]

    @property
    def cpus(self) -> int:
        """The number of blocks."""
        return len(self._blocks)

    def memory(self) -> bytes:
        """Copies the bytes of all blocks."""
        return self._area[:]

    def close(self) -> None:
        """Unmaps the blocks."""
        self._blocks.clear()
        self._area.close()

    def fill_level(self) -> float:
        """Returns the share of occupied slots in the fullest block; 0 if no event waits."""
        return max(int(b.head[0] - b.tail[0]) for b in self._blocks) / self.layout.slots

    def seen(self) -> int:
        """Returns how many events reached a program, which says whether `counts` has changed."""
        return sum(int(block.scalars["seen"][0]) for block in self._blocks)

    def counts(self) -> Counts:
        """Reads the counters of all CPUs, those of a CPU between two events if possible."""
        seen, filtered, block_full, heap_full, submitted, entries_full, untraced = np.sum(
            [block.counters() for block in self._blocks], axis=0
        ).tolist()
        return Counts(
            seen=seen,
            filtered=filtered,
            block_full=block_full,
            heap_full=heap_full,
            submitted=submitted,
            entries_full=entries_full,
            read=sum(int(block.tail[0]) - block.canaries for block in self._blocks),
            untraced=untraced,
        )

    def skipped_runs(self) -> int:
        """Counts the runs of programs that found their CPU's block held by another program."""
        return sum(int(block.scalars["skipped"][0]) for block in self._blocks)

    def drain(self, most_rows: int = _ALL) -> Columns:
        """Copies waiting events out of all blocks and frees their slots.

        Each column is copied once, whatever the number of blocks. Events of the canary are left
        out, also of the numbers in `sequence`.

        Args:
            most_rows: The most events, an equal share of each block; at least one of each.
        """
        share = max(1, most_rows // self.cpus)
        pieces: list[_Piece] = []
        for block in self._blocks:
            pieces += block.pieces(share)
        if not pieces:
            return self._no_events()
        fixed = {
            column.name: np.concatenate([piece.fixed[column.name] for piece in pieces])
            for column in self.layout.fixed
        }
        texts = {
            text.name: _joined([piece.texts[text.name] for piece in pieces])
            for text in self.layout.texts
        }
        rows = [piece.rows for piece in pieces]
        cpu = np.repeat(np.array([piece.cpu for piece in pieces], np.uint32), rows)
        numbers = []
        for piece in pieces:
            first = piece.first - self._blocks[piece.cpu].canaries
            numbers.append(np.arange(first, first + piece.rows, dtype=np.uint64))
        sequence = np.concatenate(numbers)
        load_barrier()  # the slots must not be freed before they have been copied
        for piece in pieces:
            self._blocks[piece.cpu].free(piece)
        columns = Columns(sum(rows), cpu, sequence, fixed, texts, self.layout.flags)
        if "quality" not in fixed:
            return columns
        is_canary = fixed["quality"] >= _CANARY
        return self._without_canaries(columns, is_canary) if is_canary.any() else columns

    def canary_texts(self) -> list[bytes]:
        """Returns the texts of the canary's latest events, each event's joined to one."""
        return list(self._canary_texts)

    def _without_canaries(self, columns: Columns, is_canary: npt.NDArray[np.bool_]) -> Columns:
        for row in np.flatnonzero(is_canary).tolist():
            texts = [data[ends[row] : ends[row + 1]] for ends, data in columns.texts.values()]
            self._canary_texts.append(b"\0".join(text.tobytes() for text in texts))
        for block in self._blocks:
            rows = columns.cpu == block.cpu
            before = np.cumsum(is_canary[rows], dtype=np.uint64)
            columns.sequence[rows] -= before
            block.canaries += int(np.count_nonzero(is_canary[rows]))
        return columns.select(~is_canary)

    def _no_events(self) -> Columns:
        """Returns every column without rows."""
        fixed = {column.name: np.zeros(0, column.dtype) for column in self.layout.fixed}
        texts = {
            text.name: (np.zeros(1, np.int32), np.zeros(0, np.uint8)) for text in self.layout.texts
        }
        cpu = np.zeros(0, np.uint32)
        sequence = np.zeros(0, np.uint64)
        return Columns(0, cpu, sequence, fixed, texts, self.layout.flags)


def _aligned(size: int) -> int:
    """The bytes that a value takes in an array map."""
    return (size + 7) // 8 * 8


def _joined(parts: list[_Text]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Joins the pieces of a text column: the offsets as Arrow has them, and the bytes."""
    starts = accumulate((len(data) for _, data in parts), initial=0)
    offsets = np.concatenate(
        [[0], *(ends + np.uint32(start) for (ends, _), start in zip(parts, starts, strict=False))]
    )
    return offsets.astype(np.int32), np.concatenate([data for _, data in parts])


_fence = threading.Lock()


def load_barrier() -> None:
    """A full memory barrier for processors that reorder loads (arm64); Python has none.

    Releasing and acquiring a lock is a store-release followed by a load-acquire, which no load or
    store crosses (Arm ARM B2.3, release-consistent sequentially consistent). x86 keeps the order
    anyway; there it costs 60 ns.
    """
    _fence.acquire()
    _fence.release()
    _fence.acquire()
    _fence.release()
