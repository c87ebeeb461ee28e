"""The cache of compiled programs: what is found, what is not used, and what a key depends on."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import infrasight_probe_sample.plugin as sample
import pytest
from attrs import evolve
from infrasight_core.kernel import bcc_process, loader
from infrasight_core.kernel.bcc_client import compile_with_bcc
from infrasight_core.kernel.compiled_program import (
    CompiledFunction,
    CompiledMap,
    CompiledProgram,
    InputFile,
    MapReference,
)
from infrasight_core.kernel.compiler import cache_key, compile_program
from infrasight_core.kernel.dispatcher import Dispatcher
from infrasight_core.kernel.loader import LoadSettings, load, running_kernel
from infrasight_core.kernel.program_cache import MOST_ENTRIES, ProgramCache, key_of
from infrasight_testbed.compiler import BreakableCompiler

SAMPLE = sample.load_bpf(running_kernel(), {})
LOAD_MAP = "1811000000000000" + 8 * "00"  # r1 = the descriptor of a map
EXIT = "b700000000000000" + "9500000000000000"  # r0 = 0; exit
KEY = key_of(source="int one;")
OTHER_KEY = key_of(source="int other;")
MAP = CompiledMap("counters", kind=2, key_bytes=4, value_bytes=8, entries=1, flags=0)
FUNCTION = CompiledFunction("run", LOAD_MAP + EXIT, (MapReference(0, "counters"),))


def a_program(*files: InputFile) -> CompiledProgram:
    """A small program that these files compiled."""
    return CompiledProgram(
        maps=(MAP,),
        functions=(FUNCTION,),
        licence="GPL",
        slots=64,
        layout=("block", [["_head", "unsigned long long"]], "struct_packed"),
        compiler=files,
        warnings=("one.bpf.c:1: warning: a warning",),
    )


PROGRAM = a_program()


def an_input(path: Path) -> InputFile:
    """A file as the compiler saw it."""
    status = path.stat()
    return InputFile(str(path), status.st_size, status.st_mtime_ns)


def entry_of(content: bytes) -> bytes:
    """An entry with a right hash."""
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


@pytest.fixture
def cache(tmp_path: Path) -> ProgramCache:
    """A cache that holds one program."""
    cache = ProgramCache(tmp_path / "cache")
    cache.store(KEY, PROGRAM)
    return cache


@pytest.fixture
def entry(cache: ProgramCache, tmp_path: Path) -> Path:
    """The file of that program."""
    return tmp_path / "cache" / KEY


def test_program_is_found_by_its_key_alone(cache: ProgramCache, entry: Path) -> None:
    """What is found equals what was stored; no other user may access folder and file."""
    assert cache.find(KEY) == PROGRAM
    assert cache.find(OTHER_KEY) is None
    assert (entry.stat().st_mode & 0o777, entry.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def flip_a_bit(content: bytes) -> bytes:
    """The content with one changed bit."""
    return content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]


def without_a_reference(content: bytes) -> bytes:
    """An entry with a right hash, in which an instruction loads a map that is not named."""
    values = json.loads(content.partition(b"\n")[2])
    values["program"]["functions"][0]["references"] = []
    return entry_of(json.dumps(values).encode())


def replacing(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Changes the JSON of an entry, with a right hash."""
    return lambda content: entry_of(content.partition(b"\n")[2].replace(old, new, 1))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_bit, "damaged"),
        (lambda content: content[:-1], "damaged"),
        (lambda content: b"", "damaged"),
        (lambda content: entry_of(b"[]"), "not the entry of this key"),
        (lambda content: entry_of(b"\x80\x04."), "utf-8"),
        (replacing(b'"kind": 2', b'"kind": "2"'), "not a compiled program"),
        (replacing(b'"slots"', b'"slotz"'), "not a compiled program"),
        (replacing(b'"kind": 2', b'"kind": 12'), "maps of maps"),
        (replacing(b'"counters"', b'"others"'), "unknown map"),
        (without_a_reference, "its references"),
    ],
)
def test_damaged_entry_is_not_used(
    cache: ProgramCache,
    entry: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[bytes], bytes],
    reason: str,
) -> None:
    """A changed bit, a truncated file, a foreign format: not used, and the log says why."""
    entry.write_bytes(damage(entry.read_bytes()))
    assert cache.find(KEY) is None
    logged = capsys.readouterr().out
    assert "a cached program is not used" in logged
    assert reason in logged


def test_entry_of_another_key_is_not_used(cache: ProgramCache, entry: Path) -> None:
    """A right entry under another name, as a rename makes it."""
    entry.rename(entry.with_name(OTHER_KEY))
    assert cache.find(OTHER_KEY) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_entry_of_another_user_is_not_used(cache: ProgramCache, entry: Path) -> None:
    """An entry that another user owns, and one that others may write."""
    os.chown(entry, 65534, 65534)
    assert cache.find(KEY) is None
    os.chown(entry, 0, 0)
    entry.chmod(0o620)
    assert cache.find(KEY) is None
    entry.chmod(0o600)
    assert cache.find(KEY) == PROGRAM


def test_link_and_pipe_are_not_used(cache: ProgramCache, entry: Path, tmp_path: Path) -> None:
    """A link is not followed, not even to a right entry; storing replaces it, not its target."""
    target = entry.rename(tmp_path / "target")
    content = target.read_bytes()
    entry.symlink_to(target)
    assert cache.find(KEY) is None
    cache.store(KEY, evolve(PROGRAM, slots=128))
    assert target.read_bytes() == content
    assert cache.find(KEY) == evolve(PROGRAM, slots=128)
    entry.unlink()
    os.mkfifo(entry, 0o600)
    assert cache.find(KEY) is None


def test_program_of_a_replaced_compiler_is_not_used(tmp_path: Path) -> None:
    """A library of the compiler that was changed, or is gone: the program is compiled again."""
    library = tmp_path / "libLLVM.so"
    library.write_bytes(b"version 1")
    cache = ProgramCache(tmp_path / "cache")
    program = a_program(an_input(library))
    cache.store(KEY, program)
    assert cache.find(KEY) == program
    library.write_bytes(b"version 20")
    assert cache.find(KEY) is None
    library.unlink()
    assert cache.find(KEY) is None


def test_only_the_newest_entries_stay(tmp_path: Path) -> None:
    """The oldest entries and what an interrupted writer left are removed, other files are not."""
    cache = ProgramCache(tmp_path)
    (tmp_path / "README").touch()
    leftover = tmp_path / f"{KEY}.{'0' * 16}.new"
    leftover.touch()
    os.utime(leftover, (1, 1))
    keys = [key_of(source=str(number)) for number in range(MOST_ENTRIES + 2)]
    for age, key in enumerate(keys):
        cache.store(key, PROGRAM)
        os.utime(tmp_path / key, (1000 + age, 1000 + age))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"README", *keys[2:]}


def test_unusable_folder_is_reported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in the folder's place: programs are compiled, and the log says why, once."""
    folder = tmp_path / "cache"
    folder.touch()
    cache = ProgramCache(folder)
    for _ in range(2):
        cache.store(KEY, PROGRAM)
        assert cache.find(KEY) is None
    logged = capsys.readouterr().out
    assert logged.count("compiled programs cannot be cached") == 1
    assert str(folder) in logged


def a_request(**changes: Any) -> dict[str, Any]:
    """A request for the compiler."""
    request = loader._request(SAMPLE, (), running_kernel(), LoadSettings())
    return request | changes


PYTHON = LoadSettings().python


def test_key_depends_on_every_part_of_the_request(tmp_path: Path) -> None:
    """One character of the C, one flag, a size, the headers' content, or another Python."""
    request = a_request()
    flags = request["cflags"]
    headers = tmp_path / "headers"
    headers.mkdir()
    (headers / "types.h").write_text("typedef int s32;")
    others = tmp_path / "others"
    others.mkdir()
    (others / "types.h").write_text("typedef int s33;")
    requests = [
        request,
        a_request(source=request["source"] + " "),
        *(
            a_request(cflags=[*flags[:n], flags[n] + "0", *flags[n + 1 :]])
            for n in range(len(flags))
        ),
        a_request(cflags=[*flags, "-O2"]),
        a_request(slots=128),
        a_request(cpus=request["cpus"] + 1),
        a_request(memory=request["memory"] + 1),
        a_request(headers=str(headers)),
        a_request(headers=str(others)),
    ]
    keys = {cache_key(each, PYTHON) for each in requests} | {cache_key(request, Path("/x/python"))}
    assert len(keys) == len(requests) + 1
    assert cache_key(a_request(), PYTHON) in keys


def test_key_depends_on_kernel_compiler_and_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another release, build or machine, another bcc_process.py, and another format."""
    request = a_request()
    keys = [cache_key(request, PYTHON)]
    system = os.uname()
    for position in (2, 3, 4):
        fields = list(system)
        fields[position] += "x"
        with monkeypatch.context() as changed:
            changed.setattr(os, "uname", lambda fields=fields: os.uname_result(fields))
            keys.append(cache_key(request, PYTHON))
    with monkeypatch.context() as changed:
        changed.setattr(bcc_process, "__file__", __file__)
        keys.append(cache_key(request, PYTHON))
    with monkeypatch.context() as changed:
        changed.setattr("infrasight_core.kernel.program_cache.FORMAT", 0)
        keys.append(cache_key(request, PYTHON))
    assert len(set(keys)) == 6


def test_sample_and_dispatcher_load_without_a_compiler(tmp_path: Path) -> None:
    """After one load the compiler is broken; both load, and a changed C needs the compiler."""
    broken = BreakableCompiler(tmp_path)
    settings = LoadSettings(python=broken.python, cache=ProgramCache(tmp_path / "cache"))
    for _ in range(2):
        loaded = load("sample", SAMPLE, running_kernel(), settings)
        layout = loaded.blocks.layout
        loaded.close()
        Dispatcher(running_kernel(), settings)._load().close()
        broken.break_down()
    assert layout.slots == SAMPLE.slots
    with pytest.raises(Exception, match="the compiler was run"):
        load("sample", evolve(SAMPLE, slots=128), running_kernel(), settings)


def test_compiler_names_the_files_that_it_consists_of() -> None:
    """BCC's and LLVM's libraries are among them, so that an upgrade makes entries invalid."""
    program = compile_with_bcc(loader.core_program("dispatcher.bpf.c", {}), PYTHON)
    names = " ".join(file.path for file in program.compiler)
    assert "libbcc" in names
    assert "LLVM" in names


def test_damaged_entry_is_replaced(tmp_path: Path) -> None:
    """A program whose entry is damaged is compiled, and found the next time."""
    broken = BreakableCompiler(tmp_path)
    cache = ProgramCache(tmp_path / "cache")
    request = loader.core_program("dispatcher.bpf.c", {})
    key = cache_key(request, broken.python)
    first = compile_program(request, broken.python, cache)
    (tmp_path / "cache" / key).write_bytes(b"damaged")
    assert compile_program(request, broken.python, cache) == first
    broken.break_down()
    assert compile_program(request, broken.python, cache) == first
