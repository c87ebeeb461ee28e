"""The guard: calls of the 32-bit ABI come to every probe that wants them, and to no other; what cannot come is counted."""

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
    """The probe `sample`, attached otherwise."""

    @hookimpl
    def load_bpf(kernel: Any, options: Any) -> Any:
        return evolve(sample.load_bpf(kernel, options), attach=attach, **changes)

    module = ModuleType("otherwise")
    vars(module).update(infrasight_api=1, schema=sample.schema, load_bpf=load_bpf)
    return module


@contextmanager
def recorder(
    plugins: dict[str, ModuleType], kept: Recording, settings: LoadSettings
) -> Iterator[Recorder]:
    """A recorder of these probes, none attached yet."""
    manager = PluginManager()
    for name, module in plugins.items():
        manager.register(name, module)
    assert not manager.failures
    recorder = Recorder(manager, settings, "here", kept)
    recorder.start()
    try:
        yield recorder
    finally:
        recorder.stop()
        assert recorder.failure is None


def ways(kept: Recording, pid: int) -> dict[str, list[tuple[str, int]]]:
    """How a process's calls came and their flags, by probe."""
    found: dict[str, list[tuple[str, int]]] = {}
    for delivery in kept.deliveries:
        rows = [
            row
            for row in delivery.batch.to_pylist()
            if row["pid"] == pid and row["via"] != "syscall"
        ]
        found.setdefault(delivery.probe, []).extend((row["via"], row["flags"]) for row in rows)
    return {probe: rows for probe, rows in found.items() if rows}


def test_two_probes_of_one_call_both_get_it(tmp_path: Path) -> None:
    """Two probes that want the same numbers get every call each; when one is detached, the other goes on."""
    program, kept = build(tmp_path, 32), Recording()
    with recorder({"one": plugin(COMPAT), "two": plugin(COMPAT)}, kept, LoadSettings()) as running:
        for probe in ("one", "two"):
            running.attach(probe, {})
        both = make_calls(program, CALLS)
        running.detach("one")
        rest = make_calls(program, CALLS)
        running.attach("one", {})
        again = make_calls(program, CALLS)
        assert running.untraced() == {"compat": 0, "x32": 0, "io_uring": 0}
    assert (
        ways(kept, both.pid)
        == ways(kept, again.pid)
        == {"one": [("compat", 7)], "two": [("compat", 7)]}
    )
    assert ways(kept, rest.pid) == {"two": [("compat", 7)]}


def test_without_the_guard_none_comes(tmp_path: Path) -> None:
    """With `compat` off, and for a probe that gives no numbers, 32-bit calls are not recorded; the others are."""
    program, kept = build(tmp_path, 32), Recording()
    with recorder({"one": plugin(COMPAT)}, kept, LoadSettings(compat=False)) as running:
        running.attach("one", {})
        off = make_calls(program, CALLS)
    with recorder({"two": sample}, kept, LoadSettings()) as running:
        running.attach("two", {})
        unasked = make_calls(program, CALLS)
    assert ways(kept, off.pid) == ways(kept, unasked.pid) == {}
    assert {delivery.probe for delivery in kept.deliveries} == {"one", "two"}


def test_calls_within_socketcall_are_told_apart(tmp_path: Path) -> None:
    """connect and accept through socketcall: each comes to its own probe, with the arguments that stand in memory."""
    program, kept, words = build(tmp_path, 32), Recording(), struct.pack("<3I", 77, 0, 5)
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
    with recorder(plugins, kept, LoadSettings()) as running:
        for probe in plugins:
            running.attach(probe, {})
        made = make_calls(program, [("socketcall", [number, words]) for number in (3, 5, 3, 4, 99)])
    assert made.results == [-9, -9, -9, -9, -22]  # EBADF, and EINVAL for what is no call
    assert ways(kept, made.pid) == {
        "connects": [("compat", 77 << 16 | 5)] * 2,
        "accepts": [("compat", 77 << 16 | 5)],
    }


def test_a_call_that_has_lost_its_program_is_counted(tmp_path: Path) -> None:
    """A slot that a probe wants and that stands empty: the calls are counted, also when the probe has gone."""
    program, kernel, settings = build(tmp_path, 32), running_kernel(), LoadSettings()
    guard, points = Guard(kernel, settings), COMPAT
    loaded = load("sample", evolve(sample.load_bpf(kernel, {}), attach=points), kernel, settings)
    guard.put(loaded, points)
    layer = guard._layers[0]
    guard._lib.bpf_map_delete_elem(layer.maps["compat_enter"], struct.pack("<I", 295))
    make_calls(program, CALLS * 3)
    assert guard.untraced() == {"compat": 3, "x32": 0}
    guard.remove("sample")
    make_calls(program, CALLS)
    loaded.close()
    assert guard.untraced() == {"compat": 3, "x32": 0}


@pytest.mark.parametrize("number", [0, 32, -1])
def test_a_number_that_socketcall_cannot_have(number: int) -> None:
    """Numbers of no call within socketcall, and of no call at all, are refused at once."""
    with pytest.raises(ValueError, match="no such call"):
        socketcall(number)
    with pytest.raises(ValueError, match="not the number of a call"):
        Tracepoint("enter_openat", "syscalls:sys_enter_openat", compat=(295, 544 + abs(number)))
