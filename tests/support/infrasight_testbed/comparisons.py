"""What a row of each probe must say of a call, by what strace says of it."""

import errno
import os
from pathlib import Path

from infrasight_testbed.oracle import Comparison, Row
from infrasight_testbed.socket_comparisons import accepted, connected, ended
from infrasight_testbed.strace import Call, Number, Text, Value, number

AT_FDCWD = -100
CREAT_FLAGS = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
ARGV_BYTES = 32768


def string(wanted: Row, field: str, value: Value) -> list[str]:
    """Puts down what a string's field must hold; returns what the row must say of it."""
    if not isinstance(value, Text):
        wanted[field] = b""  # an address that strace could not read either
        return [f"{field}_missing"]
    wanted[field] = value.value
    return [f"{field}_cut"] if value.cut else []


def uncut(wanted: Row, row: Row, field: str) -> None:
    """Of a text that both have cut, each at its own length, what both have must be the same."""
    if f"{field}_cut" in wanted["quality"] and row:
        assert len(wanted[field]) >= 4095
        wanted[field] += row[field][len(wanted[field]) :]


def opened(call: Call, row: Row) -> Row:
    """open, creat, openat, openat2: the resolved path is the new descriptor's link in /proc."""
    at = call.name in ("openat", "openat2")
    directory, path, *rest = call.arguments if at else [Number(AT_FDCWD), *call.arguments]
    wanted: Row = {
        "dirfd": number(directory),
        "return_code": call.result,
        "fd": max(call.result or 0, -1),
        "resolve": 0,
    }
    quality = string(wanted, "path", path)
    if call.name == "openat2" and isinstance(rest[0], dict):
        wanted |= {name: number(value) for name, value in rest[0].items()}
    elif call.name == "openat2":
        del wanted["resolve"]
        quality += (
            ["flags_missing"] if call.result == -errno.EFAULT else []
        )  # else strace shows an address for a wrong size
    else:
        flags, *mode = (
            [CREAT_FLAGS, *map(number, rest)] if call.name == "creat" else map(number, rest)
        )
        wanted |= {"flags": flags, "mode": mode[0] if mode else 0}
    if call.result is not None and call.result < 0:
        wanted |= {"resolved_path": b"", "deleted": False, "fd": -1}
    elif call.link.startswith(b"/"):
        wanted |= {
            "resolved_path": call.link,
            "deleted": call.deleted and not call.link.startswith(b"/memfd:"),
        }
    elif call.result is not None:  # a pipe, a namespace
        assert call.link, call
        wanted |= {"resolved_path": b""}
        quality += ["resolved_path_missing"]
    wanted["quality"] = quality
    uncut(wanted, row, "path")
    return wanted


def changed(call: Call, row: Row) -> Row:
    """chmod, fchmod, fchmodat: a descriptor's path, or the given path appended to the directory.

    If a row by path has the kernel's path (no flag of user memory), strace has none to compare.
    """
    wanted: Row = {"return_code": call.result, "at_flags": 0, "dirfd": AT_FDCWD, "fd": -1}
    if call.name == "fchmod":
        file = call.arguments[0]
        assert isinstance(file, Number)
        wanted |= {"fd": file.value, "path": b"", "mode": number(call.arguments[1])}
        has_path = file.link.startswith(b"/")
        quality = (
            ["resolved_path_missing"] if file.link and not has_path and call.result == 0 else []
        )
        wanted |= {"resolved_path": file.link if has_path else b""}
        wanted["quality"] = quality if file.link else ["old_mode_missing"]
        return wanted
    directory, path, mode = (
        call.arguments if call.name == "fchmodat" else [Number(AT_FDCWD), *call.arguments]
    )
    assert isinstance(directory, Number)
    quality = string(wanted, "path", path)
    wanted |= {"dirfd": directory.value, "mode": number(mode)}
    known = wanted["path"].startswith(b"/") or directory.link
    if quality == ["path_cut"]:
        quality += ["resolved_path_cut"]
    elif not wanted["path"] or (not known and directory.value != AT_FDCWD):
        wanted["resolved_path"] = b""
    elif known:
        wanted["resolved_path"] = os.path.join(directory.link, wanted["path"])  # noqa: PTH118, a Path would tidy it up
    wanted["quality"] = [*quality, "old_mode_missing"]
    if (
        row
        and wanted["path"]
        and not {"old_mode_missing", "resolved_path_user_memory"} & set(row["quality"])
    ):
        wanted.pop("resolved_path", None)
        wanted["quality"] = [flag for flag in quality if flag == "path_cut"]
    uncut(wanted, row, "path")
    return wanted


def executed(call: Call, row: Row) -> Row:
    """execve, execveat: the arguments as passed; of a script's, what the kernel makes of them."""
    directory, filename, argv, *rest = (
        call.arguments if call.name == "execveat" else [Number(AT_FDCWD), *call.arguments]
    )
    wanted: Row = {
        "dirfd": number(directory),
        "return_code": call.result,
        "at_flags": number(rest[1]) if rest[1:] else 0,
    }
    quality = string(wanted, "filename", filename)
    given = (
        [part.value for part in argv if isinstance(part, Text)] if isinstance(argv, list) else []
    )
    if call.result == 0:
        given = given or [b""]  # the kernel passes no program an empty list
        if number(directory) != AT_FDCWD and not wanted["filename"].startswith(b"/"):
            wanted["filename"] = (
                b"/dev/fd/%d/%s" % (number(directory), wanted["filename"])
            ).removesuffix(b"/")
        given = script(given, wanted["filename"], row)
    elif (isinstance(argv, list) and len(given) < len(argv)) or (
        isinstance(argv, Number) and argv.value
    ):
        quality += ["argv_missing"]
    whole = b"".join(argument + b"\0" for argument in given)
    if len(whole) > ARGV_BYTES:
        quality += ["argv_cut"]
    shown = whole[:ARGV_BYTES].removesuffix(b"\0")
    wanted |= {
        "argv": shown.split(b"\0") if whole else [],
        "argv_length": len(whole),
        "quality": quality,
    }
    return wanted


def script(given: list[bytes], filename: bytes, row: Row) -> list[bytes]:
    """The new image's arguments; a script has its interpreter's words and its path first."""
    path = Path(os.fsdecode(row["cwd"]) if row else "", os.fsdecode(filename))
    if not row or not path.is_file() or row["exe"] == bytes(path.resolve()):
        return given
    with path.open("rb") as file:
        first = file.readline(256)
    if not first.startswith(b"#!"):
        return given
    interpreter = first.removeprefix(b"#!").strip().split(None, 1)
    return [*interpreter, filename, *given[1:]]


COMPARISONS = {
    "open": Comparison(frozenset({"open", "creat", "openat", "openat2"}), "path", opened),
    "chmod": Comparison(frozenset({"chmod", "fchmod", "fchmodat", "fchmodat2"}), "path", changed),
    "execve": Comparison(frozenset({"execve", "execveat"}), "filename", executed),
    "connect": Comparison(frozenset({"connect"}), "fd", connected, ended),
    "accept": Comparison(frozenset({"accept", "accept4"}), "listen_fd", accepted),
}
