"""The probe chmod on the running kernel: known calls become exactly the expected rows."""

import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from infrasight_core.kernel.attach_points import has_tracepoint
from infrasight_testbed.chmod_rows import NOT_HAD, changed
from infrasight_testbed.syscalls import MS_BIND, NUMBERS, call, own_mounts

Row = dict[str, Any]
Record = Callable[..., tuple[list[Row], Any]]
Call = tuple[
    str, list[int | bytes], Row
]  # a call, its arguments, and what its row says beyond COMMON
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100
COMMON = {
    "path": b"",
    "dirfd": AT_FDCWD,
    "fd": -1,
    "at_flags": 0,
    "old_mode": 0,
    "quality": NOT_HAD,
    "return_code": 0,
    "error": "",
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may use; pytest's folders belong to one user."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name).resolve()


@pytest.fixture
def file(folder: Path) -> Path:
    """A file of root that everyone may read."""
    path = folder / "file"
    path.touch()
    path.chmod(0o644)
    return path


def check(
    record: Record,
    calls: list[Call],
    uid: int = 0,
    first: Callable[[], None] | None = None,
) -> None:
    """Makes the calls in a child and asserts that its rows are exactly theirs."""
    calls = [c for c in calls if c[0] in NUMBERS and has_tracepoint(f"syscalls:sys_enter_{c[0]}")]

    def work() -> None:
        if first:
            first()
        for name, arguments, _ in calls:
            call(name, *arguments)

    rows, _ = record(work, uid)
    assert len(rows) == len(calls)
    for row, (name, arguments, own) in zip(rows, calls, strict=True):
        mode = arguments[1 if name in ("chmod", "fchmod") else 2]
        assert isinstance(mode, int)
        wanted = COMMON | {"mode": mode, "mode_text": b"%04o" % (mode & 0o7777)} | own
        wanted |= {"uid": uid, "gid": uid, "ppid": os.getpid(), "tid": row["pid"]}
        wanted |= {
            "exe": bytes(Path("/proc/self/exe").resolve()),
            "comm": Path("/proc/self/comm").read_bytes().rstrip(),
        }
        assert {field: row[field] for field in wanted} == wanted, (name, arguments)
        assert row["duration_ns"] > 0


def test_every_way_to_change_a_mode_is_recorded(record: Record, file: Path) -> None:
    """Each call is one row; a call by descriptor has the mode that the file had before."""
    path = bytes(file)
    fd = os.open(file, os.O_RDONLY)
    directory = os.open(file.parent, os.O_RDONLY)
    first = 0o4755 if "chmod" in NUMBERS else 0o644
    below = {"path": b"file", "dirfd": directory}
    by_fd = {"resolved_path": path, "quality": []}
    check(
        record,
        [
            ("chmod", [path, 0o4755], {"path": path, **changed(0o644, path)}),
            ("fchmod", [fd, 0o600], by_fd | {"fd": fd, "old_mode": first}),
            ("fchmodat", [AT_FDCWD, path, 0o7777], {"path": path, **changed(0o600, path)}),
            ("fchmodat", [directory, b"file", 0o0], below | changed(0o7777, path)),
            (
                "fchmodat",
                [directory, path, 0o640],
                {"path": path, "dirfd": directory, **changed(0, path)},
            ),
            ("fchmod", [fd, 0o100600], by_fd | {"fd": fd, "old_mode": 0o640}),
            ("fchmodat2", [directory, b"file", 0o611, 0], below | changed(0o600, path)),
            (
                "fchmodat2",
                [fd, b"", 0o600, AT_EMPTY_PATH],
                by_fd
                | {
                    "dirfd": fd,
                    "at_flags": AT_EMPTY_PATH,
                    "old_mode": 0o611,
                    "quality": ["path_user_memory"],
                },
            ),
            (
                "fchmodat2",
                [directory, b"file", 0o600, AT_SYMLINK_NOFOLLOW],
                below | changed(0o600, path) | {"at_flags": AT_SYMLINK_NOFOLLOW},
            ),
        ],
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_every_failing_call_is_recorded(record: Record, file: Path) -> None:
    """A failed call's row has the kernel's error and name, and its path if the call named one."""
    folder = bytes(file.parent)
    path = bytes(file)
    (file.parent / "loop").symlink_to("loop")
    no_path = {"path": b"", "resolved_path": b""}

    def failed(error: int, name: str, given: bytes) -> Row:
        return {"path": given, "resolved_path": given, "return_code": -error, "error": name}

    check(
        record,
        [
            (
                "fchmodat",
                [AT_FDCWD, folder + b"/missing", 0o600],
                failed(2, "ENOENT", folder + b"/missing"),
            ),
            ("fchmodat", [AT_FDCWD, path + b"/x", 0o600], failed(20, "ENOTDIR", path + b"/x")),
            (
                "fchmodat",
                [AT_FDCWD, folder + b"/loop", 0o600],
                failed(40, "ELOOP", folder + b"/loop"),
            ),
            (
                "fchmodat",
                [AT_FDCWD, folder + b"/" + b"n" * 256, 0o600],
                failed(36, "ENAMETOOLONG", folder + b"/" + b"n" * 256),
            ),
            (
                "fchmod",
                [9999, 0o600],
                failed(9, "EBADF", b"") | {"fd": 9999, "quality": ["old_mode_missing"]},
            ),
            (
                "fchmod",
                [-1, 0o600],
                failed(9, "EBADF", b"") | {"fd": -1, "quality": ["old_mode_missing"]},
            ),
            (
                "fchmodat",
                [9999, b"file", 0o600],
                failed(9, "EBADF", b"")
                | {
                    "path": b"file",
                    "dirfd": 9999,
                    "quality": ["path_user_memory", "old_mode_missing"],
                },
            ),
            (
                "fchmodat",
                [AT_FDCWD, 8, 0o600],
                failed(14, "EFAULT", b"")
                | {"quality": ["path_missing", "path_user_memory", "old_mode_missing"]},
            ),
            (
                "fchmodat",
                [AT_FDCWD, b"", 0o600],
                failed(2, "ENOENT", b"")
                | no_path
                | {"quality": ["path_user_memory", "old_mode_missing"]},
            ),
            (
                "fchmodat2",
                [AT_FDCWD, path, 0o600, 1 << 30],
                failed(22, "EINVAL", path) | {"at_flags": 1 << 30},
            ),
        ],
    )


def test_refused_calls_of_an_ordinary_user_are_recorded(record: Record, file: Path) -> None:
    """EPERM and EACCES of an ordinary user; by descriptor with the kernel's path and the mode."""
    closed = file.parent / "closed"
    closed.mkdir(mode=0o700)
    fd = os.open(file, os.O_RDONLY)
    path = bytes(file)
    inside = bytes(closed / "x")
    refused = {"return_code": -1, "error": "EPERM"}
    check(
        record,
        [
            ("fchmodat", [AT_FDCWD, path, 0o666], refused | {"path": path, **changed(0o644, path)}),
            (
                "fchmod",
                [fd, 0o666],
                refused | {"resolved_path": path, "fd": fd, "old_mode": 0o644, "quality": []},
            ),
            (
                "fchmodat",
                [AT_FDCWD, inside, 0o666],
                {"return_code": -13, "error": "EACCES", "path": inside, "resolved_path": inside},
            ),
        ],
        uid=65534,
    )


def test_paths_start_where_the_kernel_starts(record: Record, file: Path) -> None:
    """A relative path starts at the kernel's working directory or dirfd, across mounts and renames.

    The path of a call that finds no file is appended to that directory.
    """
    folder = file.parent
    (folder / "old").mkdir()
    (folder / "bound").mkdir()
    base = bytes(folder)
    name = bytes(byte for byte in range(1, 256) if byte != ord("/"))

    def first() -> None:
        own_mounts()
        call("mount", base, base + b"/bound", 0, MS_BIND, 0)
        os.chdir(folder / "bound/old")
        (folder / "old").rename(folder / "new")

    def missing(given: bytes, resolved: bytes, **more: Any) -> Row:
        return {
            "return_code": -2,
            "error": "ENOENT",
            "path": given,
            "resolved_path": resolved,
            **more,
        }

    directory = os.open(folder, os.O_PATH)
    check(
        record,
        [
            (
                "fchmodat",
                [AT_FDCWD, b"../file", 0o600],
                {
                    "path": b"../file",
                    **changed(0o644, base + b"/bound/file", base + b"/bound/new/../file"),
                },
            ),
            ("fchmodat", [AT_FDCWD, b"x", 0o600], missing(b"x", base + b"/bound/new/x")),
            (
                "fchmodat",
                [directory, name, 0o600],
                missing(name, base + b"/" + name, dirfd=directory),
            ),
        ],
        first=first,
    )


def test_paths_from_the_root_and_in_a_chroot_are_absolute(record: Record, file: Path) -> None:
    """A path from the root has no double slash; in a chroot it begins with the chroot's path."""
    base = bytes(file.parent)

    def confined() -> None:
        os.chroot(file.parent)
        os.chdir("/")

    check(
        record,
        [("fchmodat", [AT_FDCWD, b"none", 0], _none(b"none", b"/none"))],
        first=lambda: os.chdir("/"),
    )
    check(
        record,
        [
            (
                "fchmodat",
                [AT_FDCWD, b"/file", 0o600],
                {"path": b"/file", **changed(0o644, base + b"/file")},
            ),
            ("fchmodat", [AT_FDCWD, b"none", 0], _none(b"none", base + b"/none")),
        ],
        first=confined,
    )


def _none(given: bytes, resolved: bytes) -> Row:
    return {"return_code": -2, "error": "ENOENT", "path": given, "resolved_path": resolved}


@pytest.mark.parametrize("length", [4095, 4096])
def test_long_paths_are_complete_or_flagged(record: Record, file: Path, length: int) -> None:
    """A path of 4,095 bytes is complete; a longer one is rejected, and its row is flagged."""
    path = b"./" * 2045 + b"/file" if length < 4096 else b"./" * 2048

    def work() -> int:
        os.chdir(file.parent)
        return call("fchmodat", AT_FDCWD, path, 0o600)

    rows, _ = record(work)
    (row,) = rows
    if length < 4096:
        resolved = changed(0o644, bytes(file), bytes(file.parent) + b"/" + path)
        assert row | resolved == row
        assert (row["path"], row["return_code"]) == (path, 0)
    else:
        assert row["error"] == "ENAMETOOLONG"
        assert {"path_cut", "resolved_path_cut"} < set(row["quality"])


def test_fchmod_has_the_current_path_of_the_file(record: Record, file: Path) -> None:
    """fchmod of a renamed and of a deleted file has the path that the kernel has at that moment."""
    fd = os.open(file, os.O_RDONLY)
    file.rename(file.parent / "renamed")
    deleted = os.open(file.parent / "gone", os.O_CREAT | os.O_RDWR, 0o640)
    (file.parent / "gone").unlink()
    base = bytes(file.parent)
    check(
        record,
        [
            (
                "fchmod",
                [fd, 0o600],
                {"resolved_path": base + b"/renamed", "fd": fd, "old_mode": 0o644, "quality": []},
            ),
            (
                "fchmod",
                [deleted, 0o600],
                {"resolved_path": base + b"/gone", "fd": deleted, "old_mode": 0o640, "quality": []},
            ),
        ],
    )


def test_fchmod_of_an_object_without_a_path_is_flagged(record: Record) -> None:
    """fchmod of a socket, an event descriptor and a pipe: the row has no path, and a flag."""
    with socket.socket() as made:
        event = os.eventfd(0)
        (pipe, _) = os.pipe()
        refused = call("fchmod", event, 0o600)  # since 6.16
        of_event = {"return_code": refused, "error": "ENOTSUP", "quality": []} if refused else {}
        nameless = {"resolved_path": b"", "quality": ["resolved_path_missing"]}
        check(
            record,
            [
                (
                    "fchmod",
                    [made.fileno(), 0o600],
                    nameless | {"fd": made.fileno(), "old_mode": 0o777},
                ),
                ("fchmod", [event, 0o600], nameless | {"fd": event, "old_mode": 0o600} | of_event),
                ("fchmod", [pipe, 0o600], nameless | {"fd": pipe, "old_mode": 0o600}),
            ],
        )
