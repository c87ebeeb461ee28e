"""The probe open on the running kernel: known calls become exactly the expected rows."""

import os
import resource
import signal
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from infrasight_recording import Recording
from infrasight_testbed.syscalls import NUMBERS, call, in_child

Row = dict[str, Any]
Record = Callable[..., tuple[list[Row], Any]]
Call = tuple[
    str, list[int | bytes], Row
]  # a call, its arguments, and what its row says beyond COMMON
AT_FDCWD = -100
BENEATH = 8
NO_SYMLINKS = 4
ERESTARTSYS = -512  # never seen by a program: the call would have been made again
COMMON = {
    "dirfd": AT_FDCWD,
    "flags": 0,
    "flag_names": [b"O_RDONLY"],
    "mode": 0,
    "resolve": 0,
    "deleted": False,
    "quality": ["path_user_memory"],
}
OPENAT2 = {"quality": ["path_user_memory", "flags_user_memory"]}


def how(flags: int = 0, mode: int = 0, resolve: int = 0) -> bytes:
    """openat2's struct open_how."""
    return struct.pack("=QQQ", flags, mode, resolve)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may use; pytest's folders belong to one user."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name).resolve()


def check(
    record: Record,
    calls: list[Call],
    uid: int = 0,
    first: Callable[[], None] | None = None,
) -> None:
    """Makes the calls in a child and asserts that its rows are exactly theirs."""
    calls = [c for c in calls if c[0] in NUMBERS]  # arm64 has neither open nor creat

    def work() -> list[int]:
        if first:
            first()
        return [call(name, *arguments) for name, arguments, _ in calls]

    rows, results = record(work, uid)
    assert len(rows) == len(calls)
    for row, (name, arguments, own), result in zip(rows, calls, results, strict=True):
        path = arguments[0] if name in ("open", "creat") else arguments[1]
        wanted = (
            COMMON
            | {"path": path, "resolved_path": b"" if result < 0 else path, "return_code": result}
            | own
        )
        wanted |= {
            "fd": max(result, -1),
            "uid": uid,
            "gid": uid,
            "ppid": os.getpid(),
            "tid": row["pid"],
        }
        wanted |= {
            "exe": bytes(Path("/proc/self/exe").resolve()),
            "comm": Path("/proc/self/comm").read_bytes().rstrip(),
        }
        wanted.setdefault("error", "")
        assert {field: row[field] for field in wanted} == wanted, (name, arguments)
        assert row["duration_ns"] > 0


def failing(error: str, **more: Any) -> Row:
    """The expected fields of a failed call."""
    return {"error": error, **more}


def test_every_way_to_open_is_recorded(record: Record, folder: Path) -> None:
    """open, creat, openat and openat2 with known flags and modes: each field is the call's."""
    given = bytes(folder / "given")
    (folder / "given").touch()
    directory = os.open(folder, os.O_RDONLY)
    create = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    created = {"flags": create, "flag_names": [b"O_WRONLY", b"O_CREAT", b"O_EXCL"], "mode": 0o640}
    truncated = {
        "flags": 0o1101,
        "flag_names": [b"O_WRONLY", b"O_CREAT", b"O_TRUNC"],
        "mode": 0o600,
    }
    check(
        record,
        [
            ("open", [given, 0, 0o7777], {}),
            ("open", [given + b"1", create, 0o640], created),
            ("creat", [given + b"2", 0o600], truncated),
            (
                "openat",
                [AT_FDCWD, given, os.O_RDWR | os.O_CLOEXEC],
                {"flags": 0o2000002, "flag_names": [b"O_RDWR", b"O_CLOEXEC"]},
            ),
            (
                "openat",
                [directory, b"given3", create, 0o640],
                created | {"dirfd": directory, "resolved_path": given + b"3"},
            ),
            ("openat", [directory, given, 0], {"dirfd": directory}),
            (
                "openat",
                [AT_FDCWD, given, 1 << 30],
                {"flags": 1 << 30, "flag_names": [b"O_RDONLY", b"0x40000000"]},
            ),
            ("openat2", [AT_FDCWD, given, how(), 24], OPENAT2),
            (
                "openat2",
                [directory, b"given4", how(create, 0o640, BENEATH | NO_SYMLINKS), 24],
                created
                | OPENAT2
                | {"dirfd": directory, "resolved_path": given + b"4", "resolve": 12},
            ),
        ],
    )


def test_every_failing_call_is_recorded(record: Record, folder: Path) -> None:
    """A failed call's row has the error, its name and the arguments, but no resolved path."""
    base = bytes(folder)
    (folder / "given").touch()
    (folder / "loop").symlink_to("loop")
    (folder / "link").symlink_to("given")
    asked = how(1 << 40)
    unread = {"quality": ["path_user_memory", "flags_missing", "flags_user_memory"]}
    check(
        record,
        [
            ("open", [base + b"/missing", 0], failing("ENOENT")),
            ("openat", [AT_FDCWD, base + b"/missing", 0], failing("ENOENT")),
            (
                "creat",
                [base + b"/missing/x", 0o600],
                failing("ENOENT", flags=0o1101, mode=0o600) | {"flag_names": _CREAT},
            ),
            ("openat", [AT_FDCWD, b"", 0], failing("ENOENT")),
            ("openat", [AT_FDCWD, base + b"/given/x", 0], failing("ENOTDIR")),
            ("openat", [AT_FDCWD, base + b"/loop", 0], failing("ELOOP")),
            ("openat", [AT_FDCWD, base + b"/" + b"n" * 256, 0], failing("ENAMETOOLONG")),
            (
                "openat",
                [AT_FDCWD, base, os.O_WRONLY],
                failing("EISDIR", flags=1, flag_names=[b"O_WRONLY"]),
            ),
            ("openat", [9999, b"given", 0], failing("EBADF", dirfd=9999)),
            (
                "openat",
                [AT_FDCWD, 8, 0],
                failing("EFAULT", path=b"", quality=["path_missing", "path_user_memory"]),
            ),
            ("openat2", [AT_FDCWD, base, 8, 24], failing("EFAULT", **unread)),
            ("openat2", [AT_FDCWD, base, how(), 8], failing("EINVAL", **OPENAT2)),
            (
                "openat2",
                [AT_FDCWD, base, asked, 24],
                failing("EINVAL", flags=1 << 40, flag_names=_HIGH, **OPENAT2),
            ),
            (
                "openat2",
                [AT_FDCWD, base, how(0, 0, BENEATH), 24],
                failing("EXDEV", resolve=BENEATH, **OPENAT2),
            ),
            (
                "openat2",
                [AT_FDCWD, base + b"/link", how(0, 0, NO_SYMLINKS), 24],
                failing("ELOOP", resolve=4, **OPENAT2),
            ),
        ],
    )


_CREAT = [b"O_WRONLY", b"O_CREAT", b"O_TRUNC"]
_HIGH = [b"O_RDONLY", b"0x10000000000"]


def test_refused_calls_of_an_ordinary_user_are_recorded(record: Record, folder: Path) -> None:
    """EACCES and EPERM of an ordinary user have that user's id."""
    for name, mode in (("closed", 0o600), ("readable", 0o644)):
        (folder / name).touch()
        (folder / name).chmod(mode)
    own = failing("EPERM", flags=os.O_NOATIME, flag_names=[b"O_RDONLY", b"O_NOATIME"])
    check(
        record,
        [
            ("openat", [AT_FDCWD, bytes(folder / "closed"), 0], failing("EACCES")),
            ("openat", [AT_FDCWD, bytes(folder / "readable"), os.O_NOATIME], own),
            ("openat", [AT_FDCWD, bytes(folder / "readable"), 0], {}),
        ],
        uid=65534,
    )


def test_open_without_a_free_descriptor_is_recorded(record: Record, folder: Path) -> None:
    """EMFILE of a process that has no descriptor left."""
    (folder / "given").touch()

    def first() -> None:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )

    check(
        record, [("openat", [AT_FDCWD, bytes(folder / "given"), 0], failing("EMFILE"))], first=first
    )


@pytest.mark.parametrize("length", [2, 4094, 4095, 4096, 5000])
def test_paths_of_any_length_are_complete_or_flagged(
    record: Record, folder: Path, length: int
) -> None:
    """A path of 4,095 bytes is complete; a longer one is rejected, and its row is flagged."""
    path = (bytes(folder) + b"/" * length)[:length] if length > 2 else b"/."
    if length < 4096:
        check(
            record,
            [
                (
                    "openat",
                    [AT_FDCWD, path, 0],
                    {"resolved_path": bytes(folder) if length > 2 else b"/"},
                )
            ],
        )
    else:
        cut = {"path": path[:4096], "quality": ["path_cut", "path_user_memory"]}
        check(record, [("openat", [AT_FDCWD, path, 0], failing("ENAMETOOLONG", **cut))])


def test_names_keep_every_byte(record: Record, folder: Path) -> None:
    """A name of every byte except NUL and slash is recorded unchanged, given and resolved."""
    name = bytes(byte for byte in range(1, 256) if byte != ord("/"))
    path = bytes(folder) + b"/" + name
    asked = {"flags": 0o102, "flag_names": [b"O_RDWR", b"O_CREAT"], "mode": 0o600}
    check(record, [("openat", [AT_FDCWD, path, os.O_RDWR | os.O_CREAT, 0o600], asked)])


@pytest.mark.parametrize(("names", "length"), [(100, 1), (14, 255), (200, 1)])
def test_deep_paths_are_complete_or_flagged(
    record: Record, folder: Path, names: int, length: int
) -> None:
    """100 components and 3,600 bytes are complete; of 200 components the last ones, and a flag."""
    deep = folder.joinpath(*["d" * length] * names)
    deep.mkdir(parents=True)
    rows, _ = record(lambda: call("openat", AT_FDCWD, bytes(deep), 0))
    (row,) = rows
    if names < 128:
        assert (row["resolved_path"], row["quality"]) == (bytes(deep), ["path_user_memory"])
    else:
        assert row["quality"] == ["path_user_memory", "resolved_path_cut"]
        assert bytes(deep).endswith(row["resolved_path"])
        assert row["resolved_path"].count(b"/") > 120


def test_call_of_a_killed_process_is_recorded(recorded: Recording, folder: Path) -> None:
    """The call of a process killed while it waits for a FIFO has the kernel's return code."""
    os.mkfifo(folder / "fifo")

    def work() -> int:
        pid = os.fork()
        if pid == 0:
            os._exit(call("openat", AT_FDCWD, bytes(folder / "fifo"), 0))
        while Path(f"/proc/{pid}/syscall").read_text().split()[0] != str(NUMBERS["openat"]):
            os.sched_yield()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return pid

    recorded.clear()
    _, pid = in_child(work)
    recorded.wait("open")
    (row,) = recorded.rows_of(pid)
    assert (row["path"], row["resolved_path"], row["fd"]) == (bytes(folder / "fifo"), b"", -1)
    assert row["return_code"] == ERESTARTSYS
