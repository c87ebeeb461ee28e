"""The resolved path is what the kernel calls the opened file."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from infrasight_recording import Recording
from infrasight_testbed.syscalls import MS_BIND, call, own_mounts

AT_FDCWD = -100
Record = Callable[..., tuple[list[dict[str, Any]], Any]]
RecordLast = Callable[[Callable[[], Any]], tuple[dict[str, Any], Any]]
WORKLOADS = Path(__file__).parents[2] / "tests/support/workloads"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder without symbolic links in its own path."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name).resolve()


def opened(*path: int | bytes | str | Path, flags: int = 0) -> str:
    """Opens it and returns what the kernel calls it."""
    directory, name = path if len(path) == 2 else (AT_FDCWD, path[0])
    assert isinstance(directory, int)
    fd = call(
        "openat",
        directory,
        os.fsencode(name) if not isinstance(name, int) else b"/proc/self/fd/%d" % name,
        flags,
        0o600,
    )
    assert fd >= 0, os.strerror(-fd)
    return str(Path(f"/proc/self/fd/{fd}").readlink())


@pytest.fixture
def record_last(record: Record) -> RecordLast:
    """Does some work in a child; returns the last row and the work's result."""

    def last(work: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
        rows, result = record(work)
        return rows[-1], result

    return last


def symbolic_link(folder: Path) -> str:
    """A link, and one in the middle of the path."""
    (folder / "real").mkdir()
    (folder / "real/file").touch()
    (folder / "real/last").symlink_to("file")
    (folder / "link").symlink_to("real")
    return opened(folder / "link/../link/last")


def bind_mount(folder: Path) -> str:
    """A directory that is mounted at another place too."""
    own_mounts()
    for name in ("real/below", "bound"):
        (folder / name).mkdir(parents=True)
    (folder / "real/below/file").touch()
    assert call("mount", bytes(folder / "real"), bytes(folder / "bound"), 0, MS_BIND, 0) == 0
    return opened(folder / "bound/below/file")


def bind_mount_of_a_file(folder: Path) -> str:
    """A file that is mounted over another."""
    own_mounts()
    for name in ("real", "bound"):
        (folder / name).touch()
    assert call("mount", bytes(folder / "real"), bytes(folder / "bound"), 0, MS_BIND, 0) == 0
    return opened(folder / "bound")


def mounts_on_mounts(folder: Path) -> str:
    """A file system mounted on a mounted file system, opened from a descriptor."""
    own_mounts()
    for name in ("one", "one/two", "one/two/three"):
        (folder / name).mkdir()
        assert call("mount", b"none", bytes(folder / name), b"tmpfs", 0, 0) == 0
    directory = os.open(folder / "one/two/three", os.O_PATH)
    return opened(directory, b"file", flags=os.O_CREAT)


def parent_is_renamed(folder: Path) -> str:
    """A file below an open directory whose own parent got another name since."""
    (folder / "old/below").mkdir(parents=True)
    directory = os.open(folder / "old/below", os.O_PATH)
    (folder / "old").rename(folder / "new")
    return opened(directory, b"file", flags=os.O_CREAT)


def deleted_file(folder: Path) -> str:
    """A file without a name, through its descriptor."""
    file = os.open(folder / "file", os.O_CREAT | os.O_RDWR)
    (folder / "file").unlink()
    return opened(file)


def never_named(folder: Path) -> str:
    """O_TMPFILE."""
    return opened(folder, flags=os.O_TMPFILE | os.O_RDWR)


def deleted_directory(folder: Path) -> str:
    """The working directory after it was removed."""
    (folder / "gone").mkdir()
    os.chdir(folder / "gone")
    (folder / "gone").rmdir()
    return opened(b".")


def above_a_deleted_directory(folder: Path) -> str:
    """Its parent, from there."""
    deleted_directory(folder)
    return opened(b"..")


def through_proc(folder: Path) -> str:
    """An open file's link in /proc."""
    return opened(os.open(folder, os.O_PATH))


def the_root(folder: Path) -> str:
    """The root directory."""
    return opened(b"/../.")


def another_processs_root(folder: Path) -> str:
    """A path through /proc/PID/root."""
    (folder / "file").touch()
    return opened(f"/proc/self/root/proc/thread-self/root{folder}/file")


WAYS = (
    symbolic_link,
    bind_mount,
    bind_mount_of_a_file,
    mounts_on_mounts,
    parent_is_renamed,
    deleted_file,
    never_named,
    deleted_directory,
    above_a_deleted_directory,
    through_proc,
    the_root,
    another_processs_root,
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_resolved_path_is_the_descriptors_link(
    record_last: RecordLast, folder: Path, way: Callable[[Path], str]
) -> None:
    """Whichever path leads to a file, the row has the path and state that /proc shows."""
    row, link = record_last(lambda: way(folder))
    assert (row["resolved_path"].decode() + " (deleted)" * row["deleted"], row["quality"]) == (
        link,
        ["path_user_memory"],
    )


def test_chroot_does_not_hide_the_path(record_last: RecordLast, folder: Path) -> None:
    """In a chroot the path is that of the mount namespace, not of the chroot."""
    (folder / "etc").mkdir()
    (folder / "etc/shadow").touch()

    def work() -> int:
        os.chroot(folder)
        return call("openat", AT_FDCWD, b"/etc/shadow", 0)

    row, fd = record_last(work)
    assert (row["path"], row["resolved_path"], row["fd"]) == (
        b"/etc/shadow",
        bytes(folder / "etc/shadow"),
        fd,
    )


def test_object_without_a_path_is_flagged(record_last: RecordLast, folder: Path) -> None:
    """A pipe and a namespace, opened through /proc, have no path; the row is flagged."""
    reader, _ = os.pipe()
    for path in (b"/proc/self/fd/%d" % reader, b"/proc/self/ns/net"):
        row, fd = record_last(partial(call, "openat", AT_FDCWD, path, 0))
        assert (row["fd"], row["path"], row["resolved_path"]) == (fd, path, b"")
        assert row["quality"] == ["path_user_memory", "resolved_path_missing"]


def test_memfd_has_its_name(record_last: RecordLast) -> None:
    """A memfd, opened through /proc, has its name."""
    file = os.memfd_create("hidden")
    row, _ = record_last(lambda: call("openat", AT_FDCWD, b"/proc/self/fd/%d" % file, 0))
    assert row["resolved_path"] == b"/memfd:hidden"


def test_thread_that_rewrites_the_path_cannot_forge_rows(recorded: Recording, folder: Path) -> None:
    """While a thread rewrites the path, each row has the opened file, and flags the given path."""
    program = folder / "path_race"
    subprocess.run(["cc", "-O2", "-pthread", "-o", program, WORKLOADS / "path_race.c"], check=True)
    for name in ("file-a", "file-b"):
        (folder / name).touch()
    recorded.clear()
    process = subprocess.Popen([program, folder / "file-a", "3000"], stdout=subprocess.PIPE)
    links, _ = process.communicate()
    assert process.returncode == 0
    recorded.wait("open")
    rows = [row for row in recorded.rows_of(process.pid) if b"/file-" in row["resolved_path"]]
    assert [row["resolved_path"] for row in rows] == links.splitlines()
    assert len(rows) == 3000
    assert {tuple(row["quality"]) for row in rows} == {("path_user_memory",)}
