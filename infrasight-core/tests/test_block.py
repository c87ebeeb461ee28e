"""Blocks without a kernel: a writer in Python that does what the header's macros do, and the reader that the agent has."""

import random
import tempfile
from typing import Any

import numpy as np
import pytest
from infrasight_core.errors import KernelError
from infrasight_core.kernel.block import Blocks
from infrasight_core.kernel.layout import layout_of

SLOTS, HEAP, MAX = 64, 1024, 256
DESCRIPTION: list[Any] = [
    "block",
    [
        *([name, "unsigned long long", *([[15]] if name.endswith(("heap_head", "heap_tail")) else [])]
          for name in ("_head", "_heap_head", "_tail", "_heap_tail",
                       "_seen", "_filtered", "_block_full", "_heap_full", "_submitted", "_entries_full")),
        ["number__type", "unsigned int", [0]],
        ["number", "char", [SLOTS * 4]],
        ["name", "char", [SLOTS * 16]],
        ["text__end", "char", [SLOTS * 4]],
        ["text__heap", "char", [HEAP + 2 * MAX + 8]],
    ],
]  # fmt: skip
SIZE = 8 * (8 + 2 * 15) + SLOTS * (4 + 16 + 4) + HEAP + 2 * MAX + 8


class Writer:
    """Writes one CPU's block as a program does; positions begin shortly before 2^32, so that the ends wrap."""

    def __init__(self, blocks: Blocks, cpu: int) -> None:
        self.block = blocks._blocks[cpu]
        self.position = 2**32 - 500
        self.block._heap_tail[0] = self.position

    def write(self, number: int, text: bytes) -> bool:
        """One event; False where it has to be dropped."""
        head, tail = int(self.block.head[0]), int(self.block.tail[0])
        counters = self.block.scalars
        counters["seen"][0] += 1
        if head - tail >= SLOTS:
            counters["block_full"][0] += 1
            return False
        if self.position - int(self.block._heap_tail[0]) + MAX > HEAP:
            counters["heap_full"][0] += 1
            return False
        slot, at = head % SLOTS, self.position % HEAP
        _, ends, heap = self.block._texts[0]
        heap[at : at + len(text)] = np.frombuffer(text, np.uint8)
        self.position += len(text)
        ends[slot] = self.position & 0xFFFFFFFF
        self.block._fixed["number"][slot] = number
        self.block._fixed["name"][slot] = b"n%d" % number
        counters["submitted"][0] += 1
        self.block.head[0] = head + 1
        return True


@pytest.fixture
def blocks() -> Blocks:
    """Blocks of three CPUs over a file."""
    with tempfile.TemporaryFile() as file:
        file.truncate((SIZE + 7) // 8 * 8 * 3 + 4096)
        made = Blocks(file.fileno(), layout_of(DESCRIPTION, SLOTS, SIZE), 3)
    for block in made._blocks:
        for view in (
            *block.scalars.values(),
            block._heap_tail,
            *block._fixed.values(),
            *(v for t in block._texts for v in t[1:]),
        ):
            assert view.flags.writeable
    return made


@pytest.mark.parametrize("seed", range(25))
def test_every_event_comes_out_once_and_whole(blocks: Blocks, seed: int) -> None:
    """Random texts on three CPUs through many turns of slots, heap and 32-bit ends: what was written is what is taken."""
    chance = random.Random(seed)
    writers = [Writer(blocks, cpu) for cpu in range(3)]
    written: list[list[tuple[int, bytes]]] = [[], [], []]
    taken: list[list[tuple[int, bytes]]] = [[], [], []]
    sequences: list[list[int]] = [[], [], []]
    for number in range(3000):
        cpu, text = chance.randrange(3), chance.randbytes(chance.choice([0, 1, 7, 30, MAX]))
        if writers[cpu].write(number, text):
            written[cpu].append((number, text))
        if chance.random() < 0.05:
            columns = blocks.drain()
            texts = columns.array("text").to_pylist()
            rows = zip(
                columns.cpu.tolist(),
                columns.sequence.tolist(),
                columns.fixed["number"].tolist(),
                texts,
                strict=True,
            )
            assert columns.array("name").to_pylist() == [
                b"n%d" % n for n in columns.fixed["number"].tolist()
            ]
            for where, sequence, got, got_text in rows:
                taken[where].append((got, got_text))
                sequences[where].append(sequence)
    rest = blocks.drain()
    for where, sequence, got, got_text in zip(
        rest.cpu, rest.sequence, rest.fixed["number"], rest.array("text").to_pylist(), strict=True
    ):
        taken[where].append((int(got), got_text))
        sequences[where].append(int(sequence))
    assert taken == written
    assert sequences == [list(range(len(rows))) for rows in written]
    counts = blocks.counts()
    assert counts.seen == 3000 == counts.submitted + counts.dropped
    assert counts.read == counts.submitted == sum(map(len, written))


def test_nothing_waits_in_empty_blocks(blocks: Blocks) -> None:
    """Taking from empty blocks gives no rows, and their fill is 0."""
    assert blocks.drain().rows == 0
    assert blocks.fill_level() == 0


def test_a_layout_that_does_not_add_up_is_refused() -> None:
    """A description whose members are not as long as the map's value names both lengths."""
    with pytest.raises(KernelError, match=f"{SIZE + 64} by its map"):
        layout_of(DESCRIPTION, SLOTS, SIZE + 64)
