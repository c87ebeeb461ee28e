"""The embedded store of this machine: its work on its own files is not recorded, all else is."""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import infrasight_probe_open.plugin
import infrasight_probe_sample.plugin as sample
import pytest
from infrasight_core.kernel.store_files import LONGEST_FOLDER, StoreFiles, find_store_files
from infrasight_recording import recording

OPEN_REQUESTED = """import os, sys
for line in sys.stdin:
    try:
        os.close(os.open(line.strip(), os.O_RDONLY))
    except OSError:
        pass
    print(flush=True)
"""


class Opener:
    """Another process that opens requested paths."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["/usr/bin/python3", "-S", "-E", "-c", OPEN_REQUESTED],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.open("/dev/null")  # it has started, and opens nothing by itself any more

    def open(self, *paths: str) -> None:
        """Opens each path, and returns when it has."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for path in paths:
            self._process.stdin.write(path + "\n")
            self._process.stdin.flush()
            self._process.stdout.readline()

    def close(self) -> None:
        """Ends it."""
        self._process.communicate()


@pytest.fixture
def opener() -> Iterator[Opener]:
    """A process that opens files."""
    process = Opener()
    yield process
    process.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as the store's is: of this user alone."""
    path = tmp_path.resolve() / "store"
    path.mkdir(0o700)
    return path


@pytest.fixture
def locked(folder: Path) -> Iterator[Path]:
    """The folder, locked by this process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield folder
    os.close(descriptor)


def test_process_that_locks_its_private_folder_is_the_store(locked: Path) -> None:
    """The kernel names the process; the server does not."""
    assert find_store_files(bytes(locked)) == StoreFiles(os.getpid(), bytes(locked))


def test_folder_that_no_process_locks_is_no_store(folder: Path) -> None:
    """A server may name any folder."""
    assert find_store_files(bytes(folder)) is None


@pytest.mark.parametrize("mode", [0o750, 0o707, 0o701])
def test_folder_that_others_may_enter_is_no_store(locked: Path, mode: int) -> None:
    """In a shared folder, files of others could be hidden."""
    locked.chmod(mode)
    assert find_store_files(bytes(locked)) is None


def test_folder_of_another_user_is_no_store(locked: Path) -> None:
    """A process cannot hide what it does to the files of another user."""
    os.chown(locked, 65534, 65534)
    assert find_store_files(bytes(locked)) is None


@pytest.mark.parametrize(
    "folder",
    [b"", b"/", b"/var", b"relative/folder", b"/no/such", b"/a/\0", b"/" + b"a" * LONGEST_FOLDER],
)
def test_path_that_cannot_be_the_stores_is_no_store(folder: bytes) -> None:
    """Neither large parts of the file system nor what is no path at all."""
    assert find_store_files(folder) is None


def test_folder_by_a_symbolic_link_is_no_store(locked: Path) -> None:
    """The kernel's paths have no links, so that the prefix would match nothing, or something else.

    The same holds for `..` and for doubled slashes.
    """
    link = locked.parent / "link"
    link.symlink_to(locked)
    for path in (link, f"{locked}/", f"{locked}/../store", f"/{locked}"):
        assert find_store_files(os.fsencode(path)) is None


def test_only_the_stores_own_files_are_left_out(folder: Path, opener: Opener) -> None:
    """Its other opens are rows, and so are all other processes' opens of its files."""
    other = Opener()
    inside = f"{folder}/part.bin"
    outside = f"{folder.parent}/part.bin"
    beside = f"{folder}x/part.bin"
    with recording("sample", sample) as kept:
        opener.open(inside)
        kept.recorder.exclude_store(StoreFiles(opener.pid, bytes(folder)))
        opener.open(inside, outside, beside)
        other.open(inside)
        kept.recorder.exclude_store(None)
        opener.open(inside)
    other.close()
    paths = [row["path"].decode() for row in kept.rows_of(opener.pid)]
    assert paths == [inside, outside, beside, inside]
    assert inside in [row["path"].decode() for row in kept.rows_of(other.pid)]
    assert kept.counts.filtered == 1
    kept.assert_accounted()


def test_few_further_files_of_the_store_are_left_out(folder: Path, opener: Opener) -> None:
    """Those that each statement opens, also where that fails; no other failure is left out."""
    with recording("open", infrasight_probe_open.plugin) as kept:
        kept.recorder.exclude_store(StoreFiles(opener.pid, bytes(folder)))
        opener.open("/dev/urandom", "/proc/self/loginuid", "/proc/thread-self/schedstat/denied")
        opener.open("/no/such/file", f"{folder}/gone")
    paths = [row["path"].decode() for row in kept.rows_of(opener.pid)]
    assert paths == ["/proc/self/loginuid", "/no/such/file"]
    kept.assert_accounted()


def test_another_store_takes_the_place_of_the_first(folder: Path, opener: Opener) -> None:
    """A server that was restarted has another process, and perhaps another folder."""
    new = folder.parent / "new"
    with recording("sample", sample) as kept:
        kept.recorder.exclude_store(StoreFiles(1, bytes(folder)))
        kept.recorder.exclude_store(StoreFiles(opener.pid, bytes(new)))
        opener.open(f"{folder}/part", f"{new}/part")
    assert [row["path"].decode() for row in kept.rows_of(opener.pid)] == [f"{folder}/part"]
    assert kept.counts.filtered == 1
