"""The row of a call by path names the file that the kernel changed, if a program can see it."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import infrasight_probe_chmod.plugin
import pytest
from infrasight_core.kernel.loader import LoadSettings, load, running_kernel
from infrasight_recording import Recording
from infrasight_testbed import chmod_rows
from infrasight_testbed.syscalls import MS_BIND, call, own_mounts

Record = Callable[..., tuple[list[dict[str, Any]], Any]]
AT_FDCWD = -100
MS_RDONLY = 1
MS_REMOUNT = 32
WORKLOADS = Path(__file__).parents[2] / "tests/support/workloads"
KERNELS = ["path_user_memory"]  # what the quality says where the path is the kernel's


@pytest.fixture(scope="module")
def has_function() -> bool:
    """Whether a program can attach to the kernel function that shows the file."""
    return chmod_rows.has_function()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder without symbolic links in its own path."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name).resolve()


def chmod(path: bytes | Path, mode: int, directory: int = AT_FDCWD) -> None:
    """By path, with exactly this string."""
    assert call("fchmodat", directory, bytes(path), mode) == 0


def a_file(path: Path, mode: int) -> None:
    """Makes one."""
    path.touch()
    path.chmod(mode)


def symbolic_link(folder: Path) -> tuple[Path, int]:
    """A link, and one in the middle of the path."""
    (folder / "real").mkdir()
    a_file(folder / "real/file", 0o4711)
    (folder / "real/last").symlink_to("file")
    (folder / "link").symlink_to("real")
    chmod(bytes(folder) + b"/link/../link/last", 0o600)
    return folder / "real/file", 0o4711


def bind_mount(folder: Path) -> tuple[Path, int]:
    """A directory that is mounted at another place too, reached by a link."""
    own_mounts()
    for name in ("real/below", "bound"):
        (folder / name).mkdir(parents=True)
    a_file(folder / "real/below/file", 0o640)
    (folder / "link").symlink_to("bound/below")
    assert call("mount", bytes(folder / "real"), bytes(folder / "bound"), 0, MS_BIND, 0) == 0
    chmod(folder / "link/file", 0o600)
    return folder / "bound/below/file", 0o640


def in_a_chroot(folder: Path) -> tuple[Path, int]:
    """A link in a chroot that leads, there, to another file than it would outside."""
    (folder / "etc").mkdir()
    a_file(folder / "etc/passwd", 0o604)
    (folder / "etc/link").symlink_to("/etc/passwd")
    os.chroot(folder)
    chmod(b"/etc/link", 0o600)
    return folder / "etc/passwd", 0o604


def a_directory_from_within(folder: Path) -> tuple[Path, int]:
    """The working directory, as a dot."""
    (folder / "directory").mkdir()
    (folder / "directory").chmod(0o1777)
    os.chdir(folder / "directory")
    chmod(b".", 0o700)
    return folder / "directory", 0o1777


def from_a_descriptor(folder: Path) -> tuple[Path, int]:
    """A name in a directory that was renamed since it was opened, and back out of it."""
    (folder / "old").mkdir()
    a_file(folder / "file", 0o622)
    directory = os.open(folder / "old", os.O_PATH)
    (folder / "old").rename(folder / "new")
    chmod(b"../new/../file", 0o600, directory)
    return folder / "file", 0o622


def through_proc(folder: Path) -> tuple[Path, int]:
    """An open file's link in /proc."""
    a_file(folder / "file", 0o755)
    chmod(b"/proc/self/fd/%d" % os.open(folder / "file", os.O_RDONLY), 0o600)
    return folder / "file", 0o755


WAYS = (
    symbolic_link,
    bind_mount,
    in_a_chroot,
    a_directory_from_within,
    from_a_descriptor,
    through_proc,
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_row_names_the_changed_file(
    record: Record, folder: Path, has_function: bool, way: Callable[[Path], tuple[Path, int]]
) -> None:
    """Whichever path leads to a file, its row has the file's path and old mode, or is flagged."""

    def work() -> list[Any]:
        path, mode = way(folder)
        return [str(path), mode]

    rows, expected = record(work)
    row = rows[-1]
    if has_function:
        fields = [row["resolved_path"].decode(), row["old_mode"], row["quality"]]
        assert fields == [*expected, KERNELS]
    else:
        assert (row["quality"], row["old_mode"]) == (chmod_rows.NOT_HAD, 0)


def test_program_attaches_where_the_kernel_allows_it(has_function: bool) -> None:
    """The program is attached exactly where that is possible; otherwise the reason is reported.

    Where it is attached, the loaded probe tells when it no longer is.
    """
    kernel = running_kernel()
    loaded = load(
        "chmod", infrasight_probe_chmod.plugin.load_bpf(kernel, {}), kernel, LoadSettings()
    )
    assert loaded.detached() == []
    if has_function:
        with Path("/dev/null").open() as nothing:  # the descriptor's end ends the attachment
            os.dup2(nothing.fileno(), loaded.descriptors[0])
        assert loaded.detached() == ["security_path_chmod"]
    loaded.close()
    assert loaded.functions == (("path_chmod",) if has_function else ())
    assert bool(loaded.unattached) != has_function


def test_call_that_fails_early_has_the_joined_path(record: Record, folder: Path) -> None:
    """On a read-only file system the kernel stops early: the row has the joined path."""
    (folder / "mounted").mkdir()

    def work() -> None:
        own_mounts()
        assert call("mount", b"none", bytes(folder / "mounted"), b"tmpfs", 0, 0) == 0
        a_file(folder / "mounted/file", 0o644)
        assert (
            call("mount", b"none", bytes(folder / "mounted"), b"tmpfs", MS_REMOUNT | MS_RDONLY, 0)
            == 0
        )
        assert call("fchmodat", AT_FDCWD, bytes(folder / "mounted/file"), 0o600) == -30

    rows, _ = record(work)
    row = rows[-1]
    assert (row["error"], row["resolved_path"], row["old_mode"]) == (
        "EROFS",
        bytes(folder / "mounted/file"),
        0,
    )
    assert row["quality"] == chmod_rows.NOT_HAD


def test_rows_of_successive_calls_do_not_mix(
    record: Record, folder: Path, has_function: bool
) -> None:
    """What the kernel showed of one call does not appear in the next call's row."""

    def work() -> None:
        for name in ("one", "two"):
            (folder / name).touch(mode=0o600)
        fd = os.open(folder / "two", os.O_RDONLY)
        call("fchmodat", AT_FDCWD, bytes(folder / "one"), 0o611)
        call("fchmod", fd, 0o622)
        call("fchmodat", AT_FDCWD, bytes(folder / "none"), 0o633)
        call("fchmodat", AT_FDCWD, bytes(folder / "two"), 0o644)

    rows, _ = record(work)
    one, two, none = (bytes(folder / name) for name in ("one", "two", "none"))
    modes = (0o600, 0o600, 0, 0o622) if has_function else (0, 0o600, 0, 0)
    quality = KERNELS if has_function else chmod_rows.NOT_HAD
    assert [(row["resolved_path"], row["old_mode"], row["quality"]) for row in rows] == [
        (one, modes[0], quality),
        (two, modes[1], []),
        (none, modes[2], chmod_rows.NOT_HAD),
        (two, modes[3], quality),
    ]


def test_thread_that_rewrites_the_path_cannot_forge_rows(
    recorded: Recording, folder: Path, has_function: bool
) -> None:
    """While a thread rewrites the path, each row has the changed file and old mode, or a flag."""
    program = folder / "chmod_race"
    count = 2000
    subprocess.run(["cc", "-O2", "-pthread", "-o", program, WORKLOADS / "chmod_race.c"], check=True)
    for name in ("file-a", "file-b"):
        a_file(folder / name, 0)
    recorded.clear()
    process = subprocess.Popen([program, folder / "file-a", str(count)], stdout=subprocess.PIPE)
    paths, _ = process.communicate()
    assert process.returncode == 0
    recorded.wait("chmod")
    rows = recorded.rows_of(process.pid)
    assert [row["mode"] for row in rows] == list(range(count, 0, -1))
    assert {tuple(row["quality"]) for row in rows} == {
        tuple(KERNELS if has_function else chmod_rows.NOT_HAD)
    }
    if has_function:
        assert [row["resolved_path"] for row in rows] == paths.splitlines()
        before = {bytes(folder / name): 0 for name in ("file-a", "file-b")}
        for row in rows:
            assert row["old_mode"] == before[row["resolved_path"]]
            before[row["resolved_path"]] = row["mode"]
