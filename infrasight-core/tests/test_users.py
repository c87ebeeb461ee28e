"""Names of users and groups: from the host's files, byte for byte, and from its name service beside the data."""

import ctypes
import os
import random
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from infrasight_core import ConfigError, EnrichContext, numbers
from infrasight_core.enrichers import user_database, users
from infrasight_core.enrichers.async_lookup import AsyncLookup, Bounds
from infrasight_core.enrichers.option_state import OptionState
from infrasight_core.enrichers.user_database import Database, parse
from infrasight_core.plugin.manager import PluginManager

ODD = b"""# a comment:x:1::
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


def as_glibc_reads(path: Path) -> dict[int, bytes]:
    """The names by id as fgetpwent(3) finds them, the first one's of each."""
    libc = ctypes.CDLL(None)
    libc.fopen.restype, libc.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
    libc.fgetpwent.restype, libc.fgetpwent.argtypes = ctypes.POINTER(Passwd), [ctypes.c_void_p]
    libc.fclose.argtypes = [ctypes.c_void_p]
    found: dict[int, bytes] = {}
    file = libc.fopen(os.fsencode(path), b"r")
    while entry := libc.fgetpwent(file):
        name = entry.contents.name
        if name and not name.startswith((b"+", b"-")):
            found.setdefault(entry.contents.uid, bytes(name))
    libc.fclose(file)
    return found


def all_of(data: bytes) -> dict[int, bytes | None]:
    """Every name by id."""
    names = parse(data)
    return {int(number): names.of(int(number)) for number in names.ids}


def test_an_odd_file_is_read_as_it_is() -> None:
    """Names of any bytes; the first of an id; comments, lines of NIS and broken ones are no names."""
    assert all_of(ODD) == {0: b"root", 7: b"b\xff\xfed", 2**32 - 1: b"largest", 13: b"last"}
    assert all_of(b"") == all_of(b"\n\n") == all_of(b":") == {}
    assert parse(ODD).of(8) is None


def test_a_hundred_thousand_users_are_those_that_glibc_reads(tmp_path: Path) -> None:
    """A large file in random order, with ids twice and names that are not UTF-8: the same names as glibc's own reader has."""
    chance = random.Random(23)
    lines = [
        b"u%d\xe4:x:%d:%d:A Name:/srv/u:/bin/sh\n" % (n, chance.randrange(200_000), n)
        for n in range(100_000)
    ]
    path = tmp_path / "passwd"
    path.write_bytes(b"".join(lines))
    found = all_of(path.read_bytes())
    assert len(found) > 50_000
    assert found == as_glibc_reads(path)


def test_this_machines_own_files_are_read_as_glibc_reads_them() -> None:
    """/etc/passwd as it is here."""
    assert all_of(Path("/etc/passwd").read_bytes()) == as_glibc_reads(Path("/etc/passwd"))


def test_a_file_is_read_again_when_it_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rewritten in place, replaced, gone and there again: the names of the file that is there, None while there is none."""
    monkeypatch.setattr(user_database, "LOOK", 0.0)
    path, other = tmp_path / "passwd", tmp_path / "new"
    base = Database(path)
    assert base.names() is None
    for file, name in ((path, b"one"), (path, b"third"), (other, b"other")):
        file.write_bytes(name + b":x:5:5::\n")
        other.replace(path) if file is other else None
        names = base.names()
        assert names
        assert names.of(5) == name
    path.unlink()
    assert base.names() is None


def batch(*ids: int) -> pa.RecordBatch:
    """Events of these users, and of groups of the same numbers."""
    return pa.record_batch([numbers(np.array(ids, np.uint32))] * 2, names=["uid", "gid"])


def enriched(etc: Path | None, *ids: int) -> dict[str, list[bytes | None]]:
    """What the plugin gives."""
    options = {"etc": str(etc)} if etc else {}
    given = users.enrich(batch(*ids), EnrichContext("agent", "execve", "here", options=options))
    return {name: array.to_pylist() for name, array in given.items()}


def test_names_come_from_the_folder_that_is_named(tmp_path: Path) -> None:
    """`options.users.etc`: user and group by its files; null for an id without a name, and for a file that cannot be read."""
    (tmp_path / "passwd").write_bytes(b"h\xffst:x:0:0::\n")
    assert enriched(tmp_path, 0, 0, 77, 0) == {
        "user": [b"h\xffst", b"h\xffst", None, b"h\xffst"],
        "group_name": [None] * 4,
    }


def test_the_name_service_is_asked_beside_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id that the files lack is null while the service, which hangs here, has not answered, and named once it has."""
    answer = threading.Event()

    def slow(question: tuple[str, int]) -> bytes:
        answer.wait(60)
        return b"from-ldap" if question == ("user", 3_999_999_999) else b""

    monkeypatch.setattr(users, "asked", slow)
    monkeypatch.setattr(users, "_kept", OptionState("users", users.Options, users.Users))
    assert enriched(None, 3_999_999_999, 0) == {
        "user": [None, b"root"],
        "group_name": [None, b"root"],
    }
    answer.set()
    deadline = time.monotonic() + 60
    while enriched(None, 3_999_999_999)["user"] == [None]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert enriched(None, 3_999_999_999, 0) == {
        "user": [b"from-ldap", b"root"],
        "group_name": [None, b"root"],
    }
    users._kept.of({}).close()


def test_this_systems_name_service_answers() -> None:
    """The real one: root, and that nobody has a name for an id that no one is."""
    assert users.asked(("user", 0)) == users.asked(("group", 0)) == b"root"
    assert users.asked(("user", 3_999_999_998)) == users.asked(("group", 3_999_999_998)) == b""


def test_questions_and_answers_are_bounded() -> None:
    """Of ten questions one is being asked, two wait and the others are let go; of the answers the two newest are kept."""
    begun, go = threading.Event(), threading.Event()

    def ask(question: int) -> bytes:
        begun.set()
        go.wait(60)
        return b"%d" % question

    later = AsyncLookup("test", ask, Bounds(waiting=2, kept=2))
    later.get([0])
    assert begun.wait(60)
    assert set(later.get(range(10)).values()) == {None}
    go.set()
    deadline = time.monotonic() + 60
    while later.get([]) or len(later._answers) < 2 or later._asked:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert list(later._answers) == [1, 2]
    assert later.get([1], moment=1) == {1: b"1"}
    later.close()


def test_an_option_that_is_not_known_is_named_when_the_agent_starts() -> None:
    """The error names the option and what there is."""
    plugins = PluginManager.discover([])
    with pytest.raises(ConfigError, match=r"unknown key options\.users\.ect .*: did you mean etc"):
        plugins.check_options("users", {"ect": "/host/etc"})
    with pytest.raises(ConfigError, match=r"options\.users\.etc = 5 \(.*\): expected a path"):
        plugins.check_options("users", {"etc": 5})
    plugins.check_options("users", {"etc": "/host/etc"})
