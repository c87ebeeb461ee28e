"""The user database: names by id, byte for byte as glibc reads them, read again when changed."""

import ctypes
import os
import random
from pathlib import Path

import pytest
from infrasight_core.enrichers import user_database
from infrasight_core.enrichers.user_database import NameDatabase, parse_names

ODD_FILE = b"""# a comment:x:1::
root:x:0:0:root:/root:/bin/bash

toor:x:0:0:the same id again:/root:/bin/sh
+nis:x:5:5::
-nis:x:6:6::
+
b\xff\xfed:x:7:7:not UTF-8:/:/bin/sh
no-id:x::8::
no-number:x:9a:9::
negative:x:-1:9::
large:x:4294967296:10::
largest:x:4294967295:11::
short
:x:12:12:no name::
last:x:13:13:no newline at the end::"""


class Passwd(ctypes.Structure):
    """The beginning of glibc's `struct passwd`."""

    _fields_ = (("name", ctypes.c_char_p), ("password", ctypes.c_char_p), ("uid", ctypes.c_uint32))


def names_by_glibc(path: Path) -> dict[int, bytes]:
    """Returns the first name of each id as fgetpwent(3) reads them."""
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    libc.fopen.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    libc.fgetpwent.restype = ctypes.POINTER(Passwd)
    libc.fgetpwent.argtypes = [ctypes.c_void_p]
    libc.fclose.argtypes = [ctypes.c_void_p]
    names: dict[int, bytes] = {}
    file = libc.fopen(os.fsencode(path), b"r")
    while entry := libc.fgetpwent(file):
        name = entry.contents.name
        if name and not name.startswith((b"+", b"-")):
            names.setdefault(entry.contents.uid, bytes(name))
    libc.fclose(file)
    return names


def names_in(data: bytes) -> dict[int, bytes | None]:
    """Returns all names by id."""
    table = parse_names(data)
    return {int(number): table.name_of(int(number)) for number in table.ids}


def test_parser_skips_comments_nis_and_malformed_lines() -> None:
    """Names may hold any bytes; the first line of an id counts."""
    names = {0: b"root", 7: b"b\xff\xfed", 2**32 - 1: b"largest", 13: b"last"}
    assert names_in(ODD_FILE) == names
    assert names_in(b"") == names_in(b"\n\n") == names_in(b":") == {}
    assert parse_names(ODD_FILE).name_of(8) is None


def test_parser_agrees_with_glibc_on_a_hundred_thousand_users(tmp_path: Path) -> None:
    """A large file in random order, with repeated ids and names that are not UTF-8."""
    chance = random.Random(23)
    lines = [
        b"u%d\xe4:x:%d:%d:A Name:/srv/u:/bin/sh\n" % (n, chance.randrange(200_000), n)
        for n in range(100_000)
    ]
    path = tmp_path / "passwd"
    path.write_bytes(b"".join(lines))
    names = names_in(path.read_bytes())
    assert len(names) > 50_000
    assert names == names_by_glibc(path)


def test_parser_agrees_with_glibc_on_this_machine() -> None:
    """The machine's own /etc/passwd."""
    path = Path("/etc/passwd")
    assert names_in(path.read_bytes()) == names_by_glibc(path)


def test_database_reads_a_changed_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rewritten or replaced file gives its own names; without a file there are none."""
    monkeypatch.setattr(user_database, "CHECK_INTERVAL", 0.0)
    path = tmp_path / "passwd"
    replacement = tmp_path / "new"
    database = NameDatabase(path)
    assert database.table() is None
    for name in (b"one", b"third"):
        path.write_bytes(name + b":x:5:5::\n")
        assert name_of_5(database) == name
    replacement.write_bytes(b"other:x:5:5::\n")
    replacement.replace(path)
    assert name_of_5(database) == b"other"
    path.unlink()
    assert database.table() is None


def name_of_5(database: NameDatabase) -> bytes | None:
    """Returns the current name of id 5."""
    table = database.table()
    assert table is not None
    return table.name_of(5)
