"""What `strace` says that a program did, as values: an account of system calls that is not ours."""

import errno
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from attrs import define, field, frozen

# Numbers as numbers, every byte of every string, and the files and sockets of descriptors.
OPTIONS = ("-f", "--decode-fds=path,socket", "-xx", "-X", "raw", "-s", "65536")
_RESTARTS = {
    "ERESTARTSYS": 512,
    "ERESTARTNOINTR": 513,
    "ERESTARTNOHAND": 514,
    "ERESTART_RESTARTBLOCK": 516,
}
_LINE = re.compile(rb"(\d+) +(.*)")
_CALL = re.compile(rb"(\w+)\((.*)")
_RESUMED = re.compile(rb"<\.\.\. \w+ resumed>(.*)")
_CUT_OFF = re.compile(rb"(.*) <(?:unfinished|pid changed to \d+) \.\.\.>")
_DIED = b" <unfinished ...>) = ?"
_SUPERSEDED = re.compile(rb"\+\+\+ superseded by execve in pid (\d+) \+\+\+")
_RESULT = re.compile(
    rb" *= (?:(-?(?:0x[0-9a-f]+|\d+))(?:<((?:->|[^>])*)>(\(deleted\))?)?|\?)(?: (E\w+))?"
)
_TOKEN = re.compile(
    rb'\s*(?:/\*.*?\*/\s*)*(?:(?P<abstract>@)?"(?P<text>[^"]*)"(?P<cut>\.\.\.)?'
    rb"|(?P<number>-?(?:0x[0-9a-f]+|\d+))(?:<(?P<link>(?:->|[^>])*)>(?P<deleted>\(deleted\))?)?"
    rb"|(?P<null>NULL)|(?P<name>\w+)(?P<opens>[=(])|(?P<mark>=>|\.\.\.|[\[\]{}(),?]))"
)


@frozen
class Number:
    """A number, an address, or a descriptor and what is behind it.

    Attributes:
        value: It; 0 for NULL.
        link: The descriptor's link in /proc, or strace's text about a socket; empty if it is none.
        deleted: Whether the link names a deleted file.
    """

    value: int
    link: bytes = b""
    deleted: bool = False


@frozen
class Text:
    """A string that strace could read; `cut` where it is longer than shown."""

    value: bytes
    cut: bool = False


Value = Number | Text | list["Value"] | dict[str, "Value"]


def number(value: Value) -> int:
    """A number, which must be one."""
    assert isinstance(value, Number), value
    return value.value


@frozen
class Call:
    """A system call.

    Attributes:
        tid: The thread's id when the call ended.
        place: The line on which it began.
        end: The line on which it ended.
        name: The call's.
        arguments: As they were passed.
        result: The result or negative errno; None if the thread was killed in the call.
        link: Of the descriptor that it returned.
        deleted: Whether that link names a deleted file.
    """

    tid: int
    place: int
    end: int
    name: str
    arguments: Sequence[Value]
    result: int | None
    link: bytes = b""
    deleted: bool = False


@define
class Traced:
    """What a run of strace saw.

    Attributes:
        calls: In the order in which they began.
        threads: Every thread's id.
        killed: Those that a signal ended, or another thread of theirs that executed or exited.
    """

    calls: list[Call] = field(factory=list)
    threads: set[int] = field(factory=set)
    killed: set[int] = field(factory=set)


def strace(
    command: Sequence[str | Path], calls: Iterable[str], log: Path, *options: str, cwd: Path
) -> Traced:
    """Runs a command under strace; calls that this strace does not know are numbers."""
    trace = f"--trace={','.join(f'?{call}' for call in sorted(calls))}"
    log.touch()
    done = subprocess.run(
        ["strace", *OPTIONS, *options, trace, "-o", log, "--", *command],
        cwd=cwd,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return parse(log.read_bytes())


def parse(output: bytes) -> Traced:
    """Takes strace's lines apart; every line must be understood."""
    traced = Traced()
    begun = dict[int, tuple[int, bytes]]()
    for number, line in enumerate(output.splitlines()):
        place = number
        match = _LINE.fullmatch(line)
        assert match, line
        tid = int(match[1])
        text = match[2]
        traced.threads.add(tid)
        if superseded := _SUPERSEDED.fullmatch(text):
            # The group's leader is gone; the thread that executes has its id now.
            _end(traced, tid, number, begun.pop(tid, None))
            begun[tid] = begun.pop(int(superseded[1]))
            traced.killed.add(tid)
        elif text.startswith(b"+++ "):
            if text.startswith(b"+++ killed") or tid in begun:
                traced.killed.add(tid)
            _end(traced, tid, number, begun.pop(tid, None))
        elif not text.startswith((b"--- ", b"???")):
            if resumed := _RESUMED.fullmatch(text):
                place, before = begun.pop(tid)
                text = before + resumed[1]
            # The thread died before strace wrote the arguments that are known at a call's end.
            if text.endswith(_DIED):
                text = text.removesuffix(_DIED) + b") = ?"
            if unfinished := _CUT_OFF.fullmatch(text):
                begun[tid] = place, unfinished[1]
            else:
                _end(traced, tid, number, (place, text))
    assert not begun, begun
    traced.calls.sort(key=lambda call: call.place)
    return traced


def _end(traced: Traced, tid: int, line: int, kept: tuple[int, bytes] | None) -> None:
    if kept is None:
        return
    match = _CALL.match(kept[1])
    assert match, kept[1]
    values, rest = _values(match[2], b")")
    result = None
    link = b""
    deleted = False
    ended = _RESULT.match(rest)
    assert ended or not rest.strip(), (kept[1], rest)
    if ended:
        result = None if ended[1] is None else int(ended[1], 0)
        link = _bytes(ended[2])
        deleted = bool(ended[3])
        if ended[4]:
            name = ended[4].decode()
            result = -_RESTARTS[name] if name in _RESTARTS else -getattr(errno, name)
    traced.calls.append(Call(tid, kept[0], line, match[1].decode(), values, result, link, deleted))


def _values(text: bytes, end: bytes) -> tuple[list[Value], bytes]:
    """The values up to the closing mark, and the rest; an unfinished call may break off."""
    values: list[Value] = []
    while match := _TOKEN.match(text):
        text = text[match.end() :]
        mark = match["mark"]
        if mark == end:
            break
        if match["text"] is not None:
            values.append(
                Text(b"\0" * bool(match["abstract"]) + _bytes(match["text"]), bool(match["cut"]))
            )
        elif match["number"]:
            values.append(
                Number(_number(match["number"]), _bytes(match["link"]), bool(match["deleted"]))
            )
        elif match["null"]:
            values.append(Number(0))
        elif match["opens"] == b"(":  # htons(80): the value without its wrapper
            inner, text = _values(text, b")")
            values += inner
        elif match["name"]:
            inner, text = _member(text)
            values.append({match["name"].decode(): inner[0] if len(inner) == 1 else inner})
        elif mark in (b"[", b"{"):
            inner, text = _values(text, b"]" if mark == b"[" else b"}")
            values.append(
                inner
                if mark == b"["
                else {k: v for part in inner if isinstance(part, dict) for k, v in part.items()}
            )
    return values, text


def _member(text: bytes) -> tuple[list[Value], bytes]:
    """The value of a struct's member, which ends before a comma or the struct's end."""
    depth = 0
    for match in _TOKEN.finditer(text):
        mark = match["mark"]
        if depth == 0 and mark in (b",", b"}"):
            return _values(text[: match.start()], b"")[0], text[match.start() :]
        depth += (mark in (b"[", b"{", b"(") or match["opens"] == b"(") - (
            mark in (b"]", b"}", b")")
        )
    return _values(text, b"")[0], b""


def _number(text: bytes) -> int:
    return int(text, 8) if re.fullmatch(rb"0\d+", text) else int(text, 0)


def _bytes(text: bytes | None) -> bytes:
    """A string or a link; strace's own words on a socket are no bytes in hexadecimal."""
    if text is None or not text.startswith(b"\\x"):
        return text or b""
    return bytes.fromhex(text.replace(b"\\x", b"").decode())
