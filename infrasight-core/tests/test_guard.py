"""The guard: forwards 32-bit calls to every probe that wants them, and counts the others."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import infrasight_probe_sample.plugin as sample
import pytest
from attrs import evolve
from infrasight_core import Tracepoint, hookimpl, socketcall
from infrasight_core.agent.recorder import Recorder
from infrasight_core.kernel.attach_points import tracepoints_of
from infrasight_core.kernel.guard import Guard
from infrasight_core.kernel.loader import LoadSettings, load, running_kernel
from infrasight_core.plugin.manager import PluginManager
from infrasight_recording import Recording
from infrasight_testbed.compat import Call, build, make_calls, one_file_at_a_time, only_x86

pytestmark = [only_x86, one_file_at_a_time]
CALLS: list[Call] = [("openat", [-100, b"/nowhere", 7])]
COMPAT = tuple(
    evolve(point, compat=295) for point in tracepoints_of(sample.load_bpf(running_kernel(), {}))
)
WORKLOADS = Path(__file__).parents[2] / "tests/support/workloads"


def plugin(attach: tuple[Tracepoint, ...], **changes: Any) -> ModuleType:
    """The probe `sample` with other attach points."""

    @hookimpl
    def load_bpf(kernel: Any, options: Any) -> Any:
        return evolve(sample.load_bpf(kernel, options), attach=attach, **changes)

    module = ModuleType("sample_elsewhere")
    vars(module).update(infrasight_api=1, schema=sample.schema, load_bpf=load_bpf)
    return module


@contextmanager
def recorder(
    plugins: dict[str, ModuleType], recording: Recording, settings: LoadSettings
) -> Iterator[Recorder]:
    """A recorder of these probes, which are not attached yet."""
    manager = PluginManager()
    for name, module in plugins.items():
        manager.register(name, module)
    assert not manager.failures
    recorder = Recorder(manager, settings, "here", recording)
    recorder.start()
    try:
        yield recorder
    finally:
        recorder.stop()
        assert recorder.failure is None


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


def test_guard_forwards_a_call_to_every_probe_that_wants_it(tmp_path: Path) -> None:
    """Two probes want the same calls: each gets all of them, also after the other was detached."""
    program = build(tmp_path, 32)
    recording = Recording()
    probes = {"one": plugin(COMPAT), "two": plugin(COMPAT)}
    with recorder(probes, recording, LoadSettings()) as running:
        for probe in ("one", "two"):
            running.attach(probe, {})
        both = make_calls(program, CALLS)
        running.detach("one")
        rest = make_calls(program, CALLS)
        running.attach("one", {})
        again = make_calls(program, CALLS)
        assert running.untraced() == {"compat": 0, "x32": 0, "io_uring": 0}
    in_both = {"one": [("compat", 7)], "two": [("compat", 7)]}
    assert ways(recording, both.pid) == ways(recording, again.pid) == in_both
    assert ways(recording, rest.pid) == {"two": [("compat", 7)]}


def test_probe_gets_no_32_bit_calls_that_it_does_not_want(tmp_path: Path) -> None:
    """With `compat` off, or without numbers in the probe, only 64-bit calls are recorded."""
    program = build(tmp_path, 32)
    recording = Recording()
    with recorder({"one": plugin(COMPAT)}, recording, LoadSettings(compat=False)) as running:
        running.attach("one", {})
        while_off = make_calls(program, CALLS)
    with recorder({"two": sample}, recording, LoadSettings()) as running:
        running.attach("two", {})
        not_wanted = make_calls(program, CALLS)
    assert ways(recording, while_off.pid) == ways(recording, not_wanted.pid) == {}
    assert {delivery.probe for delivery in recording.deliveries} == {"one", "two"}


def test_guard_forwards_calls_within_socketcall_by_their_number(tmp_path: Path) -> None:
    """connect and accept through socketcall: each probe gets its own, arguments from memory."""
    program = build(tmp_path, 32)
    recording = Recording()
    arguments = struct.pack("<3I", 77, 0, 5)
    names = [
        ("enter_socketcall", "syscalls:sys_enter_socketcall"),
        ("exit_socketcall", "syscalls:sys_exit_socketcall"),
    ]
    plugins = {
        probe: plugin(
            tuple(Tracepoint(*name, optional=True, compat=socketcall(number)) for name in names),
            source=WORKLOADS / "socketcall.bpf.c",
        )
        for probe, number in (("connects", 3), ("accepts", 5))
    }
    with recorder(plugins, recording, LoadSettings()) as running:
        for probe in plugins:
            running.attach(probe, {})
        calls = [("socketcall", [number, arguments]) for number in (3, 5, 3, 4, 99)]
        made = make_calls(program, calls)
    assert made.results == [-9, -9, -9, -9, -22]  # EBADF; EINVAL, because 99 is no call
    assert ways(recording, made.pid) == {
        "connects": [("compat", 77 << 16 | 5)] * 2,
        "accepts": [("compat", 77 << 16 | 5)],
    }


def test_guard_counts_calls_that_it_cannot_forward(tmp_path: Path) -> None:
    """Calls of a wanted slot without a program are counted; the counts outlive the probe."""
    program = build(tmp_path, 32)
    kernel = running_kernel()
    settings = LoadSettings()
    guard = Guard(kernel, settings)
    loaded = load("sample", evolve(sample.load_bpf(kernel, {}), attach=COMPAT), kernel, settings)
    guard.put(loaded, COMPAT)
    layer = guard._layers[0]
    layer.maps["compat_enter"].delete(struct.pack("<I", 295))
    make_calls(program, CALLS * 3)
    assert guard.untraced() == {"compat": 3, "x32": 0}
    guard.remove("sample")
    make_calls(program, CALLS)
    loaded.close()
    assert guard.untraced() == {"compat": 3, "x32": 0}


@pytest.mark.parametrize("number", [0, 32, -1])
def test_numbers_of_no_call_are_rejected(number: int) -> None:
    """A number that no call has, within socketcall or at all, is a ValueError."""
    with pytest.raises(ValueError, match="no such call"):
        socketcall(number)
    with pytest.raises(ValueError, match="not the number of a call"):
        Tracepoint("enter_openat", "syscalls:sys_enter_openat", compat=(295, 544 + abs(number)))
