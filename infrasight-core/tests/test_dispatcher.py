"""The dispatcher: every probe gets its calls, whichever others come and go."""

import os
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import infrasight_probe_sample.plugin as sample
import pytest
from attrs import evolve
from infrasight_core import PluginError, SystemCall, Tracepoint, hookimpl
from infrasight_core.agent.recorder import Recorder
from infrasight_core.errors import KernelError
from infrasight_core.kernel import dispatcher as dispatching
from infrasight_core.kernel.attach_points import calls_of
from infrasight_core.kernel.dispatcher import Dispatcher
from infrasight_core.kernel.filters import Filters
from infrasight_core.kernel.loader import LoadedProbe, LoadSettings, load, running_kernel
from infrasight_core.kernel.system_calls import has_compat_call, slots_of
from infrasight_core.plugin.manager import PluginManager
from infrasight_recording import Recording
from infrasight_testbed.compat import Call, build, make_calls, only_x86

KERNEL = running_kernel()
PROGRAM = sample.load_bpf(KERNEL, {"slots": 1024})
OWN = Filters(include_pid=(os.getpid(),))
"""Without other processes, whose calls could fill the blocks."""
WORKLOADS = Path(__file__).parents[2] / "tests/support/workloads"


def plugin(**changes: Any) -> ModuleType:
    """The probe `sample` with other attach points or another source."""

    @hookimpl
    def load_bpf(kernel: Any, options: Any) -> Any:
        return evolve(PROGRAM, **changes)

    module = ModuleType("sample_elsewhere")
    vars(module).update(infrasight_api=1, schema=sample.schema, load_bpf=load_bpf)
    return module


@contextmanager
def recorder(plugins: dict[str, ModuleType], recording: Recording) -> Iterator[Recorder]:
    """A recorder of these probes, which are not attached yet."""
    manager = PluginManager()
    for name, module in plugins.items():
        manager.register(name, module)
    assert not manager.failures
    recorder = Recorder(manager, LoadSettings(), "here", recording)
    recorder.start()
    try:
        yield recorder
    finally:
        recorder.stop()
        assert recorder.failure is None


def open_files(names: list[str]) -> None:
    """Fails to open files of these names."""
    for name in names:
        try:
            os.close(os.open(f"/nowhere/{name}", os.O_RDONLY))
        except FileNotFoundError:
            continue


def opened(recording: Recording) -> dict[str, list[str]]:
    """The names of the files that this process failed to open, by probe, by time."""
    found: dict[str, list[tuple[Any, str]]] = {}
    for delivery in recording.deliveries:
        for row in delivery.batch.to_pylist():
            folder, _, name = row["path"].decode(errors="replace").rpartition("/")
            if row["pid"] == os.getpid() and folder == "/nowhere":
                found.setdefault(delivery.probe, []).append((row["time"], name))
    return {probe: [name for _, name in sorted(rows)] for probe, rows in found.items()}


def test_probes_of_the_same_call_come_and_go_without_each_other() -> None:
    """Of three probes, the first, the last and the middle one end: the others get every call."""
    recording = Recording()
    probes = {name: plugin() for name in ("one", "two", "three")}
    with recorder(probes, recording) as running:
        for probe in probes:
            running.attach(probe, {}, OWN)
        open_files(["all"])
        running.detach("two")
        open_files(["without-two"])
        running.attach("two", {}, OWN)
        running.detach("one")
        open_files(["without-one"])
        running.attach("one", {}, OWN)
        running.detach("one")
        open_files(["again-without-one"])
    rest = ["without-one", "again-without-one"]
    assert opened(recording) == {
        "one": ["all", "without-two"],
        "two": ["all", *rest],
        "three": ["all", "without-two", *rest],
    }


def test_probe_misses_no_call_while_others_come_and_go() -> None:
    """Calls are made all the time while another probe is attached and detached three times."""
    recording = Recording()
    ended = threading.Event()
    made: list[str] = []

    def work() -> None:
        while not ended.wait(0.001):  # the thread that attaches needs the interpreter, too
            name = str(len(made))
            open_files([name])
            made.append(name)

    with recorder({"one": plugin(), "two": plugin()}, recording) as running:
        running.attach("one", {}, OWN)
        worker = threading.Thread(target=work)
        worker.start()
        for _ in range(3):
            running.attach("two", {}, OWN)
            running.detach("two")
        ended.set()
        worker.join()
        counts = running.counts()["one"]
    names = opened(recording)["one"]
    assert len(made) > 100
    assert counts.dropped or names == made
    assert len(set(names)) == len(names)
    assert not any(
        "entry_missing" in row["quality"]
        for delivery in recording.deliveries
        for row in delivery.batch.to_pylist()
        if row["path"].startswith(b"/nowhere/") and row["pid"] == os.getpid()
    )


def loaded_sample() -> LoadedProbe:
    """The sample, not attached to its calls."""
    return load("sample", PROGRAM, KERNEL, LoadSettings())


def test_dispatcher_runs_only_while_a_probe_handles_calls() -> None:
    """It is loaded with the first probe and detached with the last: no call pays for nothing."""
    dispatcher = Dispatcher(KERNEL, LoadSettings())
    one = loaded_sample()
    two = loaded_sample()
    try:
        dispatcher.attach(one, ())
        assert dispatcher._loaded is None
        for loaded in (one, two):
            dispatcher.attach(loaded, calls_of(PROGRAM))
        dispatcher.detach(one)
        assert dispatcher._loaded is not None
        dispatcher.detach(two)
        assert dispatcher._loaded is None
        assert dispatcher._chains == {}
    finally:
        one.close()
        two.close()


def test_probe_that_is_one_too_many_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel ends a chain that is too long: the last probe fails, and the others record on."""
    monkeypatch.setattr(dispatching, "MOST_HANDLERS", 1)
    recording = Recording()
    with recorder({"one": plugin(), "two": plugin()}, recording) as running:
        running.attach("one", {})
        with pytest.raises(PluginError, match="openat: 1 probes handle this call already"):
            running.attach("two", {})
        assert running.probes() == ["one"]
        open_files(["x"])
    assert opened(recording) == {"one": ["x"]}


@pytest.mark.parametrize(
    ("attach", "message"),
    [
        ((SystemCall("opnat", exit="exit_openat"),), "there is no system call 'opnat'"),
        ((*PROGRAM.attach, *PROGRAM.attach), "openat is declared twice"),
    ],
)
def test_wrong_declaration_is_named(attach: tuple[SystemCall, ...], message: str) -> None:
    """A misspelt call, or one that is declared twice, is a PluginError; nothing is attached."""
    with recorder({"one": plugin(attach=attach)}, Recording()) as running:
        with pytest.raises(PluginError, match=message):
            running.attach("one", {})
        assert running.probes() == []


def test_call_that_the_machine_lacks_is_no_error() -> None:
    """The probe's other calls are recorded."""
    lacking = "_newselect" if KERNEL.machine == "aarch64" else "arm_fadvise64_64"
    attach = (SystemCall(lacking, exit="exit_openat"), SystemCall("openat", "", "exit_openat"))
    recording = Recording()
    with recorder({"one": plugin(attach=attach)}, recording) as running:
        running.attach("one", {})
        with pytest.raises(FileNotFoundError):
            os.open("/nowhere", os.O_RDONLY)
    qualities = [
        row["quality"]
        for delivery in recording.deliveries
        for row in delivery.batch.to_pylist()
        if row["pid"] == os.getpid()
    ]
    assert all("entry_missing" in quality for quality in qualities)
    assert qualities


@pytest.mark.parametrize("event", ["syscalls:sys_enter_openat", "raw_syscalls:sys_exit"])
def test_tracepoint_of_system_calls_is_rejected(event: str) -> None:
    """A Tracepoint for system calls is a ValueError that names SystemCall."""
    with pytest.raises(ValueError, match="SystemCall"):
        Tracepoint("exit_openat", event)


def test_numbers_of_calls_are_those_of_each_abi() -> None:
    """A call has a slot for each way to make it: 64-bit, 32-bit, and through socketcall(2)."""
    assert slots_of("openat", "x86_64") == [257, 512 + 295]
    assert slots_of("openat", "aarch64") == [56, 512 + 322]
    assert slots_of("open", "aarch64") == [512 + 5]
    assert slots_of("accept", "x86_64") == [43, 1024 + 5]
    assert slots_of("accept4", "x86_64") == [288, 512 + 364, 1024 + 18]
    assert slots_of("recv", "x86_64") == [1024 + 10]
    assert slots_of("openat", "riscv64") == []
    assert has_compat_call("accept", "x86_64")
    assert not has_compat_call("uretprobe", "x86_64")
    assert not has_compat_call("opnat", "x86_64")
    with pytest.raises(KernelError, match="no system call 'opnat'"):
        slots_of("opnat", "x86_64")


HEADERS = {"x86_64": "x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}


def test_numbers_are_those_of_the_installed_headers() -> None:
    """Every number in the C library's headers is in the table."""
    includes = subprocess.run(
        ["cc", "-dM", "-E", "-include", "asm/unistd.h", "-xc", "/dev/null"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    numbers = {}
    for line in includes.splitlines():
        _, name, *value = line.split()
        if name.startswith("__NR_") and value and value[0].isdigit():
            numbers[name.removeprefix("__NR_")] = int(value[0])
    assert len(numbers) > 300
    wrong = {
        name: number
        for name, number in numbers.items()
        if name != "syscalls" and number not in slots_of(name, KERNEL.machine)[:1]
    }
    assert wrong == {}


def ways(recording: Recording, pid: int) -> dict[str, list[tuple[str, int]]]:
    """The ways of a process's 32-bit calls and their flags, by probe."""
    calls: dict[str, list[tuple[str, int]]] = {}
    for delivery in recording.deliveries:
        rows = [
            row
            for row in delivery.batch.to_pylist()
            if row["pid"] == pid and row["via"] != "syscall"
        ]
        calls.setdefault(delivery.probe, []).extend((row["via"], row["flags"]) for row in rows)
    return {probe: rows for probe, rows in calls.items() if rows}


@only_x86
def test_32_bit_calls_reach_every_probe_that_handles_them(tmp_path: Path) -> None:
    """Two probes handle the same call: each gets all of them, also after the other has ended."""
    program = build(tmp_path, 32)
    calls: list[Call] = [("openat", [-100, b"/nowhere", 7])]
    recording = Recording()
    with recorder({"one": plugin(), "two": plugin()}, recording) as running:
        for probe in ("one", "two"):
            running.attach(probe, {})
        both = make_calls(program, calls)
        running.detach("one")
        rest = make_calls(program, calls)
    assert ways(recording, both.pid) == {"one": [("compat", 7)], "two": [("compat", 7)]}
    assert ways(recording, rest.pid) == {"two": [("compat", 7)]}


@only_x86
def test_calls_within_socketcall_have_their_arguments(tmp_path: Path) -> None:
    """connect and accept through socketcall: each probe gets its own, arguments from memory."""
    program = build(tmp_path, 32)
    recording = Recording()
    arguments = struct.pack("<3I", 77, 0, 5)
    plugins = {
        name: plugin(
            attach=(SystemCall(name, "enter_socket_call", "exit_socket_call"),),
            source=WORKLOADS / "socketcall.bpf.c",
        )
        for name in ("connect", "accept")
    }
    with recorder(plugins, recording) as running:
        for probe in plugins:
            running.attach(probe, {})
        calls = [("socketcall", [number, arguments]) for number in (3, 5, 3, 4, 99)]
        made = make_calls(program, calls)
    assert made.results == [-9, -9, -9, -9, -22]  # EBADF; EINVAL, because 99 is no call
    assert ways(recording, made.pid) == {
        "connect": [("compat", 77 << 16 | 5)] * 2,
        "accept": [("compat", 77 << 16 | 5)],
    }
