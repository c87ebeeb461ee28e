"""The spool: batches on disk outlive the agent, and a disk that fails costs none of them."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import infrasight_probe_sample.plugin as sample
import pyarrow as pa
import pytest
from attrs import evolve
from infrasight.v1.stream_pb2 import Account, Batch
from infrasight_core.agent.bounded_spool import FAILURES, open_spool
from infrasight_core.agent.outbox import DROPPED, Outbox
from infrasight_core.agent.sink import Delivery
from infrasight_core.agent.spool import Spool
from infrasight_core.agent.spool_settings import SpoolSettings
from infrasight_core.errors import ConfigError, SpoolError
from infrasight_testbed.mounts import small_file_system

SCHEMA = sample.schema()
ROW = {field.name: None for field in SCHEMA.agent}
MEMORY = 64 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The spool's folder, which does not exist yet."""
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path) -> Iterator[Spool]:
    """An open spool."""
    opened = Spool(folder, "never")
    yield opened
    opened.close()


def batch_of(batch_id: str, size: int = 100, rows: int = 10) -> Batch:
    """A batch with a body of random bytes."""
    return Batch(batch_id=batch_id, probe="sample", rows=rows, arrow=os.urandom(size))


def delivery(batch_id: str, rows: int = 10) -> Delivery:
    """A batch with rows."""
    (batch,) = pa.Table.from_pylist([ROW] * rows, SCHEMA.agent).to_batches()
    return Delivery(batch_id, "sample", SCHEMA, batch, Account(run="r", window=1, number=1))


def outbox_on(folder: Path, memory: int = MEMORY, **changes: Any) -> Outbox:
    """An outbox with a spool."""
    settings = evolve(SpoolSettings(str(folder), synchronize="never"), **changes)
    return Outbox(memory, open_spool(settings))


def send(outbox: Outbox, count: int) -> list[Batch]:
    """The next batches that the outbox sends."""

    async def receive() -> list[Batch]:
        return [await outbox.next_batch() for _ in range(count)]

    return asyncio.run(receive())


def dropped(reason: str) -> float:
    """The events of the probe that were dropped for a reason."""
    return float(DROPPED.labels("sample", reason)._value.get())


def test_batch_comes_back_as_it_was(spool: Spool) -> None:
    """The same message, byte by byte, and in order."""
    batches = [batch_of(f"b{number}", size=number * 1000) for number in range(5)]
    numbers = [spool.add(batch) for batch in batches]
    assert [spool.load(number) for number in numbers] == batches
    assert [each.batch_id for each in spool.batches()] == ["b0", "b1", "b2", "b3", "b4"]


def test_removed_batch_is_deleted_with_the_next_write(spool: Spool) -> None:
    """An acknowledgement causes no write by itself."""
    first = spool.add(batch_of("a"))
    spool.add(batch_of("b"))
    spool.remove(first)
    assert [each.batch_id for each in spool.batches()] == ["a", "b"]
    spool.add(batch_of("c"))
    assert [each.batch_id for each in spool.batches()] == ["b", "c"]


def test_room_of_answered_batches_is_given_back(folder: Path) -> None:
    """After an outage the file shrinks again."""
    spool = Spool(folder, "never")
    numbers = [spool.add(batch_of(f"{number}", size=1 << 20)) for number in range(30)]
    for number in numbers:
        spool.remove(number)
    for _ in range(20):
        spool.flush()
    spool.close()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1 << 20


def test_batch_that_the_disk_changed_is_noticed(spool: Spool, folder: Path) -> None:
    """A changed byte is an error, not a wrong row."""
    number = spool.add(batch_of("a", size=5000))
    with sqlite3.connect(folder / "batches.sqlite") as connection:
        connection.execute("UPDATE batches SET content = zeroblob(length(content))")
    connection.close()
    with pytest.raises(SpoolError, match="checksum"):
        spool.load(number)


def test_folder_has_one_agent(spool: Spool, folder: Path) -> None:
    """Two agents would send each other's batches."""
    with pytest.raises(ConfigError, match="another agent uses"):
        Spool(folder, "never")


def test_files_are_private(spool: Spool, folder: Path) -> None:
    """Events hold what users did."""
    assert folder.stat().st_mode & 0o077 == 0


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from infrasight.v1.stream_pb2 import Batch
    from infrasight_core.agent.spool import Spool
    spool = Spool(Path(sys.argv[1]), "never")
    for number in range(10**9):
        spool.add(Batch(batch_id=str(number), probe="p", rows=1, arrow=os.urandom(20_000)))
        print(number, flush=True)
"""


def test_killed_process_leaves_every_batch_that_it_stored(folder: Path) -> None:
    """Whatever moment it dies at: what `add` returned for is there and whole, in order."""
    for _ in range(5):
        command: list[str | Path] = [sys.executable, "-c", textwrap.dedent(KILLED), folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            reported = [int(process.stdout.readline()) for _ in range(50)]
            process.send_signal(signal.SIGKILL)
            reported += [int(line) for line in process.stdout.read().split()]
        spool = Spool(folder, "never")
        left = spool.batches()
        ids = [int(each.batch_id) for each in left]
        assert ids[: len(reported)] == reported
        assert len(ids) <= len(reported) + 1
        for each in left:
            assert spool.load(each.number).batch_id == each.batch_id
            spool.remove(each.number)
        spool.flush()
        spool.close()


def test_torn_log_costs_only_its_end(folder: Path) -> None:
    """A machine that ends in the middle of a write: the batches before it are there."""
    spool = Spool(folder, "never")
    for number in range(10):
        spool.add(batch_of(str(number), size=10_000))
    log = folder / "batches.sqlite-wal"
    content = log.read_bytes()
    file = (folder / "batches.sqlite").read_bytes()
    spool.close()
    (folder / "batches.sqlite").write_bytes(file)
    log.write_bytes(content[: len(content) * 2 // 3])
    again = Spool(folder, "never")
    ids = [int(each.batch_id) for each in again.batches()]
    again.close()
    assert ids == list(range(len(ids)))
    assert 3 <= len(ids) < 10


def test_damaged_file_is_kept_aside(folder: Path) -> None:
    """The agent records on; the file is there for people."""
    folder.mkdir(mode=0o700)
    (folder / "batches.sqlite").write_bytes(os.urandom(100_000))
    spool = Spool(folder, "never")
    assert spool.batches() == []
    spool.add(batch_of("a"))
    spool.close()
    (aside,) = folder.glob("batches.sqlite.damaged-*")
    assert aside.stat().st_size == 100_000


def test_next_agent_sends_what_the_last_one_could_not(folder: Path) -> None:
    """The batches come first, in order, as retries; the accounts that waited come, too."""
    outbox = outbox_on(folder)
    for batch_id in "abc":
        assert outbox.put(delivery(batch_id))
    (sent,) = send(outbox, 1)
    outbox.put_account("sample", Account(run="r", window=1, number=2, ended=True))
    assert outbox.close() == (30, 0)
    again = outbox_on(folder)
    assert again.waiting() == (4, 30)
    again.put(delivery("d"))
    batches = send(again, 5)
    assert [batch.batch_id for batch in batches] == ["a", "b", "c", "r-1-account-2", "d"]
    assert [batch.retry for batch in batches] == [True, True, True, True, False]
    assert batches[0].arrow == sent.arrow
    for batch in batches:
        assert again.acknowledge(batch.batch_id)
    assert again.close() == (0, 0)
    third = outbox_on(folder)
    assert third.waiting() == (0, 0)
    third.close()


def test_batches_beyond_the_memory_are_on_disk(folder: Path) -> None:
    """Without a server, the memory stays bounded and nothing is dropped."""
    size = len(send_one(folder).arrow)
    outbox = outbox_on(folder, memory=3 * size)
    for number in range(20):
        assert outbox.put(delivery(str(number)))
    assert outbox._bytes <= 3 * size
    batches = send(outbox, 20)
    assert [batch.batch_id for batch in batches] == [str(number) for number in range(20)]
    assert all(len(batch.arrow) == size for batch in batches)
    assert outbox._bytes == 0
    outbox.resend_unacknowledged()
    assert [batch.retry for batch in send(outbox, 20)] == [True] * 20
    outbox.close()


def send_one(folder: Path) -> Batch:
    """One batch, sent and acknowledged."""
    outbox = outbox_on(folder)
    outbox.put(delivery("one"))
    (batch,) = send(outbox, 1)
    outbox.acknowledge("one")
    outbox.close()
    return batch


def test_full_spool_takes_no_new_batch(folder: Path) -> None:
    """By default the oldest ones stay; what is not accepted is counted."""
    size = len(send_one(folder).arrow)
    outbox = outbox_on(folder, memory=0, bytes=3 * size)
    before = dropped("outbox_full")
    accepted = [outbox.put(delivery(str(number))) for number in range(5)]
    assert accepted == [True, True, True, False, False]
    assert dropped("outbox_full") - before == 20
    outbox.close()


def test_full_spool_drops_its_oldest_batches_if_asked(folder: Path) -> None:
    """The server still gets their heads, to record what is missing, with their accounts."""
    size = len(send_one(folder).arrow)
    outbox = outbox_on(folder, memory=0, bytes=3 * size, drop="oldest")
    before = dropped("spool_full")
    assert all(outbox.put(delivery(str(number))) for number in range(5))
    assert dropped("spool_full") - before == 20
    batches = send(outbox, 5)
    assert [batch.dropped for batch in batches] == [True, True, False, False, False]
    assert [len(batch.arrow) for batch in batches] == [0, 0, size, size, size]
    assert [batch.rows for batch in batches] == [10] * 5
    assert all(batch.account.run == "r" for batch in batches)
    assert outbox.reject("0", "dropped", "the agent has dropped its rows")
    outbox.close()


def test_old_batches_are_dropped(folder: Path) -> None:
    """What is older than `days` is not sent any more, and counted."""
    outbox = outbox_on(folder)
    outbox.put(delivery("old"))
    outbox.close()
    with sqlite3.connect(folder / "batches.sqlite") as connection:
        connection.execute("UPDATE batches SET seconds = seconds - 8 * 86400")
    connection.close()
    before = dropped("spool_expired")
    again = outbox_on(folder)
    again.put_account("sample", Account(run="r", window=2, number=3))
    (old, _) = send(again, 2)
    assert (old.batch_id, old.dropped, old.rows) == ("old", True, 10)
    assert dropped("spool_expired") - before == 10
    again.close()


def test_damaged_batch_is_sent_without_its_rows(folder: Path) -> None:
    """The others are sent; the server records what is missing."""
    outbox = outbox_on(folder)
    for batch_id in "ab":
        outbox.put(delivery(batch_id))
    outbox.close()
    with sqlite3.connect(folder / "batches.sqlite") as connection:
        connection.execute(
            "UPDATE batches SET content = zeroblob(length(content)) WHERE batch_id = 'a'"
        )
    connection.close()
    before = dropped("spool_damaged")
    again = outbox_on(folder)
    first, second = send(again, 2)
    assert (first.batch_id, first.dropped, first.rows) == ("a", True, 10)
    assert (second.batch_id, second.dropped) == ("b", False)
    assert dropped("spool_damaged") - before == 10
    again.close()


def fill(file: Path) -> None:
    """Writes a file until the disk is full."""
    with file.open("wb", buffering=0) as opened, suppress(OSError):
        while opened.write(bytes(4096)):
            pass


def test_full_disk_costs_nothing_while_there_is_memory(tmp_path: Path) -> None:
    """Batches stay in memory, which is counted and reported, until the disk has room again."""
    with small_file_system(tmp_path / "disk", 2 << 20) as disk:
        outbox = outbox_on(disk / "spool")
        assert outbox.put(delivery("before"))
        hog = disk / "hog"
        fill(hog)
        failures = FAILURES._value.get()
        for number in range(50):
            assert outbox.put(delivery(f"full-{number}", rows=500))
        assert FAILURES._value.get() > failures
        assert "full" in outbox.problem
        hog.unlink()
        assert outbox.put(delivery("after"))
        assert outbox.problem == ""
        ids = [batch.batch_id for batch in send(outbox, 52)]
        assert ids == ["before", *(f"full-{number}" for number in range(50)), "after"]
        outbox.close()


def test_disk_that_is_full_at_the_start_is_used_later(tmp_path: Path) -> None:
    """The agent records at once, in memory; what the spool held comes when it can be opened."""
    with small_file_system(tmp_path / "disk", 2 << 20) as disk:
        first = outbox_on(disk / "spool")
        first.put(delivery("before"))
        first.close()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        outbox = outbox_on(disk / "spool")
        assert outbox.problem
        assert outbox.put(delivery("meanwhile"))
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        assert outbox._spool is not None
        outbox._spool._opened = 0.0  # the next attempt is due
        assert outbox.put(delivery("after"))
        assert outbox.problem == ""
        assert {batch.batch_id for batch in send(outbox, 3)} == {"before", "meanwhile", "after"}
        outbox.close()


def test_folder_that_another_agent_took_meanwhile_does_not_end_the_recorder(tmp_path: Path) -> None:
    """The disk failed at the start, and the folder is in use by now: batches stay in memory."""
    with small_file_system(tmp_path / "disk", 2 << 20) as disk:
        Spool(disk / "spool", "never").close()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        outbox = outbox_on(disk / "spool")
        assert outbox.problem
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        other = Spool(disk / "spool", "never")
        assert outbox._spool is not None
        outbox._spool._opened = 0.0  # the next attempt is due
        assert outbox.put(delivery("a"))
        assert "another agent" in outbox.problem
        assert [batch.batch_id for batch in send(outbox, 1)] == ["a"]
        other.close()
        outbox.close()
