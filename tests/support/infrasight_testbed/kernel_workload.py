"""A small known workload for every attach point of every probe, and its expected rows."""

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from infrasight_testbed import compat, uring
from infrasight_testbed.addresses import column, inet, unix
from infrasight_testbed.syscalls import NUMBERS, call, in_child

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
ENOENT = -2
EAGAIN = -11
ECONNREFUSED = -111
EINPROGRESS = -115
ENOSYS = -38
CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_HOW = struct.pack("=QQQ", os.O_RDONLY, 0, 0)


@frozen
class Expected:
    """A row that has to come.

    Attributes:
        probe: Whose.
        kind: The kind of operation, as docs/kernels.md names it.
        pid: Who did it.
        via: How it came.
        fields: What the row has to say.
    """

    probe: str
    kind: str
    pid: int
    via: str
    fields: dict[str, Any]


@frozen
class _Call:
    """A call, its arguments, its kind and its result's place in the row."""

    name: str
    arguments: Sequence[Any]
    kind: str
    fields: dict[str, Any]


def everything(folder: Path) -> Iterator[Expected]:
    """Does it all; the rows in the order of each process's calls.

    Args:
        folder: An empty one.
    """
    (folder / "file").touch()
    program = compat.build(folder, 64) if os.uname().machine == "x86_64" else None
    for probe, calls in (("open", _opens(folder)), ("chmod", _chmods(folder))):
        made = [each for each in calls if each.name in NUMBERS]
        yield from _native(probe, made)
        if program:
            yield from _compat(
                probe, program, [each for each in calls if each.name in compat.NUMBERS]
            )
    yield from _executions(folder, program)
    yield from _requests(folder)
    yield from _connects(folder)
    yield from _accepts()


def _opens(folder: Path) -> list[_Call]:
    given, missing, new = (bytes(folder / name) for name in ("file", "missing", "new"))
    there = {"path": given, "resolved_path": given, "error": ""}
    absent = {
        "path": missing,
        "resolved_path": b"",
        "error": "ENOENT",
        "return_code": ENOENT,
        "fd": -1,
    }
    return [
        _Call("open", [given, os.O_RDONLY, 0], "open", there),
        _Call("open", [missing, os.O_RDONLY, 0], "open, failed", absent),
        _Call("openat", [AT_FDCWD, given, os.O_RDONLY, 0], "openat", there | {"dirfd": AT_FDCWD}),
        _Call("openat", [AT_FDCWD, missing, os.O_RDONLY, 0], "openat, failed", absent),
        _Call("openat2", [AT_FDCWD, given, _HOW, len(_HOW)], "openat2", there),
        _Call("openat2", [AT_FDCWD, missing, _HOW, len(_HOW)], "openat2, failed", absent),
        _Call(
            "creat",
            [new, 0o640],
            "creat",
            {"path": new, "resolved_path": new, "mode": 0o640, "flags": CREATE},
        ),
    ]


def _chmods(folder: Path) -> list[_Call]:
    given = bytes(folder / "file")
    missing = bytes(folder / "missing")
    descriptor = os.open(given, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    there = {"path": given, "resolved_path": given, "error": ""}
    absent = {"path": missing, "error": "ENOENT", "return_code": ENOENT}
    opened = {"path": b"", "resolved_path": given}
    empty = [descriptor, b"", 0o640, AT_EMPTY_PATH]
    return [
        _Call("chmod", [given, 0o600], "chmod", there | {"mode": 0o600, "mode_text": b"0600"}),
        _Call("chmod", [missing, 0o600], "chmod, failed", absent),
        _Call(
            "fchmod",
            [descriptor, 0o644],
            "fchmod",
            opened | {"mode": 0o644, "old_mode": 0o600, "fd": descriptor},
        ),
        _Call("fchmodat", [AT_FDCWD, given, 0o755], "fchmodat", there | {"mode": 0o755}),
        _Call(
            "fchmodat2",
            empty,
            "fchmodat2",
            opened | {"mode": 0o640, "old_mode": 0o755, "at_flags": AT_EMPTY_PATH},
        ),
    ]


def _native(probe: str, calls: Sequence[_Call]) -> Iterator[Expected]:
    pid, results = in_child(lambda: [call(each.name, *each.arguments) for each in calls])
    for each, result in zip(calls, results, strict=True):
        fields = {"return_code": result} | _wanted(each, result)
        yield Expected(probe, each.kind, pid, "syscall", fields)


def _compat(probe: str, program: Path, calls: Sequence[_Call]) -> Iterator[Expected]:
    given = [each.fields["fd"] for each in calls if each.name == "fchmod"]
    made = compat.make_calls(program, [(each.name, each.arguments) for each in calls], given)
    for each, result in zip(calls, made.results, strict=True):
        fields = {"return_code": result} | _wanted(each, result)
        yield Expected(probe, f"{each.kind} (32-bit)", made.pid, "compat", fields)


def _wanted(each: _Call, result: int) -> dict[str, Any]:
    """The fields of a call; a kernel that lacks it fails with ENOSYS."""
    return each.fields | {"error": "ENOSYS"} if result == ENOSYS else each.fields


def _executions(folder: Path, program: Path | None) -> Iterator[Expected]:
    missing = bytes(folder / "missing")
    true = b"/bin/true"
    here = bytes(folder)
    absent = {"filename": missing, "error": "ENOENT", "return_code": ENOENT}
    pid = os.fork()
    if pid == 0:
        os.chdir(folder)
        call("execveat", AT_FDCWD, missing, 0, 0, 0)
        for path in (missing, true):
            try:
                os.execv(path, [b"true", b"it is"])
            except OSError:
                continue
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    yield Expected(
        "execve", "execveat, failed", pid, "syscall", absent | {"argv": [], "dirfd": AT_FDCWD}
    )
    yield Expected(
        "execve",
        "execve, failed",
        pid,
        "syscall",
        absent | {"argv": [b"true", b"it is"], "cwd": here},
    )
    done = {"filename": true, "argv": [b"true", b"it is"], "error": "", "return_code": 0}
    yield Expected("execve", "execve", pid, "syscall", done | {"cwd": here})
    if program:
        calls: list[compat.Call] = [
            ("execve", [missing, [b"no"], 0]),
            ("execveat", [AT_FDCWD, missing, [b"no"], 0, 0]),
        ]
        made = compat.make_calls(program, [*calls, ("execve", [true, [b"true", b"it is"], 0])])
        for name, _ in calls:
            yield Expected(
                "execve", f"{name}, failed (32-bit)", made.pid, "compat", absent | {"argv": [b"no"]}
            )
        yield Expected("execve", "execve (32-bit)", made.pid, "compat", done)


def _requests(folder: Path) -> Iterator[Expected]:
    try:
        program = uring.build(folder)
        given = bytes(folder / "file")
        missing = bytes(folder / "missing")
        asked = [uring.Request(given), uring.Request(missing), uring.Request(given, how=_HOW)]
        made = uring.make_requests(program, 0, asked)
    except AssertionError:  # io_uring is disabled, or missing in this kernel
        return
    there = {"path": given, "resolved_path": given, "error": ""}
    absent = {"path": missing, "error": "ENOENT", "return_code": ENOENT}
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        ("openat", there),
        ("openat, failed", absent),
        ("openat2", there),
    )
    for (kind, fields), result in zip(kinds, made.results, strict=True):
        yield Expected(
            "open", f"{kind} (io_uring)", made.pid, "io_uring", {"return_code": result} | fields
        )


def _connects(folder: Path) -> Iterator[Expected]:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("127.0.0.1", 0)) as gone,
    ):
        port = server.getsockname()[1]
        closed = gone.getsockname()[1]
        gone.close()
        nowhere = bytes(folder / "none.socket")

        def work() -> list[int]:
            results = []
            for to, blocking in ((port, True), (closed, True), (port, False)):
                with socket.socket() as client:
                    client.setblocking(blocking)
                    results.append(call("connect", client.fileno(), inet("127.0.0.1", to), 16))
            with socket.socket(socket.AF_UNIX) as client:
                address = unix(nowhere)
                results.append(call("connect", client.fileno(), address, len(address)))
            return results

        pid, results = in_child(work)
    assert results == [0, ECONNREFUSED, EINPROGRESS, ENOENT]
    to = {
        "remote_address": column("127.0.0.1"),
        "remote_port": port,
        "protocol_name": b"tcp",
        "stage": b"call",
    }
    late = {"error": "EINPROGRESS", "return_code": EINPROGRESS, "in_progress": True}
    absent = {"unix_path": nowhere, "error": "ENOENT", "return_code": ENOENT, "stage": b"call"}
    refused = {"remote_port": closed, "error": "ECONNREFUSED", "return_code": ECONNREFUSED}
    yield Expected(
        "connect",
        "connect",
        pid,
        "syscall",
        to | {"error": "", "return_code": 0, "in_progress": False},
    )
    yield Expected("connect", "connect, failed", pid, "syscall", to | refused)
    yield Expected("connect", "connect, not waited for", pid, "syscall", to | late)
    yield Expected(
        "connect",
        "outcome of that",
        pid,
        "syscall",
        to | {"stage": b"outcome", "error": "", "return_code": 0},
    )
    yield Expected("connect", "connect by a Unix socket, failed", pid, "syscall", absent)


def _accepts() -> Iterator[Expected]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        listening = server.fileno()
        server.setblocking(False)
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        ports = [client.getsockname()[1] for client in clients]

        def work() -> list[int]:
            first = call("accept", listening, 0, 0)
            second = call("accept4", listening, 0, 0, socket.SOCK_CLOEXEC)
            return [first, second, call("accept4", listening, 0, 0, 0)]

        pid, results = in_child(work)
        for client in clients:
            client.close()
    assert results[2] == EAGAIN
    at = {"local_address": column("127.0.0.1"), "local_port": port, "listen_fd": listening}
    for kind, peer, result in zip(("accept", "accept4"), ports, results, strict=False):
        yield Expected(
            "accept", kind, pid, "syscall", at | {"remote_port": peer, "fd": result, "error": ""}
        )
    yield Expected(
        "accept",
        "accept4, failed",
        pid,
        "syscall",
        at | {"fd": -1, "error": "EAGAIN", "return_code": EAGAIN},
    )
