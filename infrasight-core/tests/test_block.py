"""Blocks without a kernel: a writer in Python does what the header's macros do, `Blocks` reads."""

import random
import tempfile
from typing import Any

import numpy as np
import pytest
from infrasight_core import Columns
from infrasight_core.errors import KernelError
from infrasight_core.kernel.block import Blocks
from infrasight_core.kernel.layout import layout_of

SLOTS = 64
HEAP = 1024
MAX = 256
CPUS = 3
EVENTS = 3000
SCALARS = (
    "_head",
    "_heap_head",
    "_tail",
    "_heap_tail",
    "_seen",
    "_filtered",
    "_block_full",
    "_heap_full",
    "_submitted",
    "_entries_full",
)
DESCRIPTION: list[Any] = [
    "block",
    [
        *(
            [name, "unsigned long long", [15 if name in ("_heap_head", "_heap_tail") else 1]]
            for name in SCALARS
        ),
        ["number__type", "unsigned int", [0]],
        ["number", "char", [SLOTS * 4]],
        ["name", "char", [SLOTS * 16]],
        ["text__end", "char", [SLOTS * 4]],
        ["text__heap", "char", [HEAP + 2 * MAX + 8]],
    ],
]
SIZE = 8 * (8 + 2 * 15) + SLOTS * (4 + 16 + 4) + HEAP + 2 * MAX + 8


class Writer:
    """Writes one CPU's block as a program does.

    Positions begin shortly before 2^32, so that the ends wrap.
    """

    def __init__(self, blocks: Blocks, cpu: int) -> None:
        self.block = blocks._blocks[cpu]
        self.position = 2**32 - 500
        self.block._heap_tail[0] = self.position

    def write(self, number: int, text: bytes) -> bool:
        """Writes one event; False if it was dropped."""
        head = int(self.block.head[0])
        tail = int(self.block.tail[0])
        counters = self.block.scalars
        counters["seen"][0] += 1
        if head - tail >= SLOTS:
            counters["block_full"][0] += 1
            return False
        if self.position - int(self.block._heap_tail[0]) + MAX > HEAP:
            counters["heap_full"][0] += 1
            return False
        slot = head % SLOTS
        start = self.position % HEAP
        views = self.block._texts[0]
        views.heap[start : start + len(text)] = np.frombuffer(text, np.uint8)
        self.position += len(text)
        views.ends[slot] = self.position & 0xFFFFFFFF
        self.block._fixed["number"][slot] = number
        self.block._fixed["name"][slot] = b"n%d" % number
        counters["submitted"][0] += 1
        self.block.head[0] = head + 1
        return True


class Reader:
    """Collects what is drained, by CPU."""

    def __init__(self) -> None:
        self.events: list[list[tuple[int, bytes]]] = [[] for _ in range(CPUS)]
        self.sequences: list[list[int]] = [[] for _ in range(CPUS)]

    def add(self, columns: Columns) -> None:
        """Adds the events of a drain; their names must be those of their numbers."""
        numbers = columns.fixed["number"].tolist()
        texts = columns.array("text").to_pylist()
        assert columns.array("name").to_pylist() == [b"n%d" % number for number in numbers]
        for row, cpu in enumerate(columns.cpu.tolist()):
            self.events[cpu].append((numbers[row], texts[row]))
            self.sequences[cpu].append(int(columns.sequence[row]))


@pytest.fixture
def blocks() -> Blocks:
    """Blocks of three CPUs over a file, all zeros."""
    with tempfile.TemporaryFile() as file:
        file.truncate((SIZE + 7) // 8 * 8 * CPUS + 4096)
        return Blocks(file.fileno(), layout_of(DESCRIPTION, SLOTS, SIZE), CPUS)


@pytest.mark.parametrize("seed", range(25))
def test_every_event_is_drained_once_and_whole(blocks: Blocks, seed: int) -> None:
    """Random texts on three CPUs, many turns of slots, heap and ends: all come out as written."""
    chance = random.Random(seed)
    writers = [Writer(blocks, cpu) for cpu in range(CPUS)]
    written: list[list[tuple[int, bytes]]] = [[] for _ in range(CPUS)]
    reader = Reader()
    for number in range(EVENTS):
        cpu = chance.randrange(CPUS)
        text = chance.randbytes(chance.choice([0, 1, 7, 30, MAX]))
        if writers[cpu].write(number, text):
            written[cpu].append((number, text))
        if chance.random() < 0.05:
            reader.add(blocks.drain())
    reader.add(blocks.drain())
    assert reader.events == written
    assert reader.sequences == [list(range(len(events))) for events in written]
    counts = blocks.counts()
    assert counts.seen == EVENTS == counts.submitted + counts.dropped
    assert counts.read == counts.submitted == sum(map(len, written))


def test_empty_blocks_have_no_rows(blocks: Blocks) -> None:
    """A drain of empty blocks gives every column without rows, and their fill level is 0."""
    columns = blocks.drain()
    assert columns.rows == 0
    assert columns.fixed.keys() == {"number", "name"}
    assert columns.texts.keys() == {"text"}
    assert blocks.fill_level() == 0


def test_fill_level_is_that_of_the_fullest_block(blocks: Blocks) -> None:
    """The share of the slots that wait to be drained."""
    writer = Writer(blocks, 1)
    for number in range(SLOTS // 4):
        assert writer.write(number, b"")
    assert blocks.fill_level() == 1 / 4


def test_layout_that_does_not_add_up_is_rejected() -> None:
    """The error names the lengths of the description and of the map's value."""
    with pytest.raises(KernelError, match=f"{SIZE + 64} by its map"):
        layout_of(DESCRIPTION, SLOTS, SIZE + 64)


def test_canary_events_are_no_rows_and_leave_no_gap() -> None:
    """Events with the highest bit of `quality` are removed; their texts are held by themselves."""
    columns = [["quality__type", "unsigned long long", [0]], ["quality", "char", [SLOTS * 8]]]
    description = ["block", [*DESCRIPTION[1], *columns]]
    size = SIZE + SLOTS * 8
    with tempfile.TemporaryFile() as file:
        file.truncate((size + 7) // 8 * 8 * CPUS + 4096)
        blocks = Blocks(file.fileno(), layout_of(description, SLOTS, size), CPUS)
    writers = [Writer(blocks, cpu) for cpu in range(CPUS)]
    reader = Reader()
    written: list[list[tuple[int, bytes]]] = [[] for _ in range(CPUS)]
    canaries = []
    for number in range(EVENTS):
        cpu = number % CPUS
        block = blocks._blocks[cpu]
        is_canary = number % 7 == 0
        block._fixed["quality"][int(block.head[0]) % SLOTS] = (is_canary << 63) | 1
        text = b"text %d" % number
        assert writers[cpu].write(number, text)
        if is_canary:  # the program counts it as filtered
            block.scalars["submitted"][0] -= 1
            block.scalars["filtered"][0] += 1
            canaries.append(text)
        else:
            written[cpu].append((number, text))
        if number % 50 == 49:
            reader.add(blocks.drain())
    reader.add(blocks.drain())
    assert reader.events == written
    assert reader.sequences == [list(range(len(events))) for events in written]
    assert sorted(blocks.canary_texts()) == sorted(canaries[-64:])
    counts = blocks.counts()
    assert (counts.seen, counts.filtered, counts.in_progress) == (EVENTS, len(canaries), 0)
    assert counts.read == counts.submitted == EVENTS - len(canaries)


def test_part_of_the_waiting_events_is_drained(blocks: Blocks) -> None:
    """At most the share of each block is drained; the rest waits, and comes next, as written."""
    writers = [Writer(blocks, cpu) for cpu in range(CPUS)]
    for number in range(10):
        assert writers[0].write(number, b"first %d" % number)
    for number in range(3):
        assert writers[2].write(number, b"third %d" % number)
    reader = Reader()
    drained = []
    while blocks.fill_level():
        columns = blocks.drain(4 * CPUS)
        drained.append(columns.rows)
        reader.add(columns)
    assert drained == [4 + 3, 4, 2]
    assert reader.events[0] == [(number, b"first %d" % number) for number in range(10)]
    assert reader.events[2] == [(number, b"third %d" % number) for number in range(3)]
    assert reader.sequences[0] == list(range(10))
    assert blocks.counts().read == 13
