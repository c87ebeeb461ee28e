"""What a user with root's rights tries so that probes stop recording and nobody notices."""

import os
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import infrasight_probe_chmod.plugin as chmod_probe
import infrasight_probe_open.plugin as open_probe
import infrasight_probe_sample.plugin as sample
import pytest
from infrasight_core.agent.canary import Canary
from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.reload import attach_all
from infrasight_core.agent.settings import ProbeSettings
from infrasight_core.kernel.filters import EVERYTHING, Filters
from infrasight_core.kernel.loader import LoadedProbe, LoadSettings
from infrasight_core.kernel.prog_info import link_of
from infrasight_recording import CONTAINERS, Recording, plugins_with
from infrasight_testbed.bpf_maps import BpfMap, maps_of
from infrasight_testbed.bpf_programs import link_to_tracepoint, program_descriptor
from infrasight_testbed.compat import only_x86
from infrasight_testbed.system import Process, System, running_system, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="recording needs root")
STATE = bytes(4)
EXCLUDE = struct.pack("<Q", 1)
REWRITTEN = "rewrote maps in the kernel"
INCLUDE_OF_EVERY_KIND = 0x2AA  # in the filters' state
OWN_FILTERS = 0x3FF
EXECVE = struct.pack("<I", 11)  # the number of the 32-bit call
# Every program that this agent records is named so; it excludes another name.
HIDDEN = "is-hidden"
SETTINGS = 'probes = ["execve"]\n[filters.execve]\nexclude_comm = ["is-excluded"]\n'


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system without a server."""
    with running_system(tmp_path_factory.mktemp("system")) as running:
        yield running


@pytest.fixture(scope="module")
def agent(system: System, tmp_path_factory: pytest.TempPathFactory) -> Process:
    """An agent that checks its probes every second."""
    settings = tmp_path_factory.mktemp("agent") / "agent.toml"
    settings.write_text(SETTINGS)
    environment = {"INFRASIGHT_AGENT_CANARY_INTERVAL": "1", "INFRASIGHT_AGENT_STOP_SECONDS": "0"}
    return system.start_agent("--config", str(settings), ready=False, environment=environment)


@pytest.fixture
def hidden(tmp_path: Path) -> Path:
    """A program that the agent records."""
    program = tmp_path / HIDDEN
    program.symlink_to("/bin/true")
    return program


def own_map(agent: Process, name: str) -> BpfMap:
    """Returns the map of the agent's probe of executions; the tracker has one, too."""
    return next(each for each in maps_of(agent.pid, name) if has_filters(agent, each))


def tracker_map(agent: Process, name: str) -> BpfMap:
    """Returns the map of the agent's tracker of containers, which has no filters."""
    return next(each for each in maps_of(agent.pid, name) if not has_filters(agent, each))


def guard_map(agent: Process, name: str) -> BpfMap:
    """Returns the map of the agent's guard."""
    (only,) = maps_of(agent.pid, name)
    return only


def has_filters(agent: Process, each: BpfMap) -> bool:
    """Returns whether this is a map of the probe with filters."""
    if each.name != "filter_state":
        return each.read(comm_key("is-excluded")) is not None
    state = each.read(STATE)
    return state is not None and struct.unpack("<Q", state)[0] & OWN_FILTERS != 0


def comm_key(name: str) -> bytes:
    """Returns the key of a thread's name in bank 0."""
    return struct.pack("<Q16s", 2, name.encode())


def wait_for_report(agent: Process, text: str, name: str = "execve") -> None:
    """Waits until the agent has reported the attack, then until it is well again."""

    def is_reported() -> bool:
        reason = agent.get("readyz")
        return f"{name}: " in reason and text in reason

    until(is_reported, text, 60)
    assert agent.metric(f'infrasight_filter_maps_restored_total{{plugin="{name}"}}') > 0
    until(lambda: f"{name}: " not in agent.get("readyz"), "the agent recovers", 60)
    assert "plugin records again" in agent.log()


def assert_records(agent: Process, program: Path) -> None:
    """Asserts that an execution is read from the blocks."""
    read = 'infrasight_events_read_total{probe="execve"}'
    before = agent.metric(read)
    subprocess.run([program], check=True)
    until(lambda: agent.metric(read) > before, "the execution is recorded", 60)


def test_filter_state_that_is_rewritten_is_reported_and_restored(
    agent: Process, hidden: Path
) -> None:
    """A root process sets a filter that no event passes: it is reported and restored."""
    state = own_map(agent, "filter_state")
    (word,) = struct.unpack("<Q", state.read(STATE) or b"")
    state.write(STATE, struct.pack("<Q", word | INCLUDE_OF_EVERY_KIND))
    wait_for_report(agent, REWRITTEN)
    assert state.read(STATE) == struct.pack("<Q", word)
    assert_records(agent, hidden)


def test_filter_that_names_another_process_as_the_agent_is_restored(
    agent: Process, hidden: Path
) -> None:
    """A root process poses as the agent in the filters: it is reported and recorded again."""
    state = own_map(agent, "filter_state")
    (word,) = struct.unpack("<Q", state.read(STATE) or b"")
    state.write(STATE, struct.pack("<Q", os.getpid() << 32 | word & 0xFFFFFFFF))
    wait_for_report(agent, REWRITTEN)
    assert state.read(STATE) == struct.pack("<Q", word)
    assert_records(agent, hidden)


def test_filter_that_is_added_is_reported_and_removed(agent: Process, hidden: Path) -> None:
    """A root process excludes its program's name: the filter is reported and removed."""
    values = own_map(agent, "filter_values")
    values.write(comm_key(HIDDEN), EXCLUDE)
    wait_for_report(agent, REWRITTEN)
    assert values.read(comm_key(HIDDEN)) is None
    assert_records(agent, hidden)


def test_filter_that_is_deleted_is_reported_and_written_again(agent: Process) -> None:
    """A root process deletes a filter to flood the store: it is reported and written again."""
    values = own_map(agent, "filter_values")
    values.delete(comm_key("is-excluded"))
    wait_for_report(agent, REWRITTEN)
    assert values.read(comm_key("is-excluded")) == EXCLUDE


def test_filter_of_a_tracker_is_reported_and_removed(agent: Process) -> None:
    """A root process blinds the tracker of containers by a filter: it is reported and removed."""
    state = tracker_map(agent, "filter_state")
    written = state.read(STATE)
    (word,) = struct.unpack("<Q", written or b"")
    state.write(STATE, struct.pack("<Q", word | INCLUDE_OF_EVERY_KIND))
    wait_for_report(agent, REWRITTEN, "containers")
    assert state.read(STATE) == written


@only_x86
def test_program_that_is_deleted_from_the_guard_is_written_again(agent: Process) -> None:
    """A root process deletes the way of 32-bit executions to their probe: it is restored.

    It also clears the mark by which the guard would count them.
    """
    programs = guard_map(agent, "compat_enter")
    wanted = guard_map(agent, "wanted")
    written = programs.read(EXECVE)
    mark = wanted.read(EXECVE)
    assert written is not None
    wanted.write(EXECVE, bytes(8))
    programs.delete(EXECVE)
    wait_for_report(agent, REWRITTEN, "guard")
    assert programs.read(EXECVE) == written
    assert wanted.read(EXECVE) == mark != bytes(8)


@only_x86
def test_program_that_is_replaced_in_the_guard_is_written_again(agent: Process) -> None:
    """A root process has the guard run another program for 32-bit executions: it is restored."""
    entries = guard_map(agent, "compat_enter")
    exits = guard_map(agent, "compat_exit")
    written = entries.read(EXECVE)
    (other,) = struct.unpack_from("<I", exits.read(EXECVE) or b"")
    descriptor = program_descriptor(other)
    entries.write(EXECVE, struct.pack("<I", descriptor))
    os.close(descriptor)
    wait_for_report(agent, REWRITTEN, "guard")
    assert entries.read(EXECVE) == written


@only_x86
def test_program_that_is_added_to_the_guard_is_deleted(agent: Process) -> None:
    """A root process has the guard run a program for calls of no probe: it is deleted."""
    entries = guard_map(agent, "compat_enter")
    unused = struct.pack("<I", 20)  # getpid
    (some,) = struct.unpack_from("<I", entries.read(EXECVE) or b"")
    descriptor = program_descriptor(some)
    entries.write(unused, struct.pack("<I", descriptor))
    os.close(descriptor)
    wait_for_report(agent, REWRITTEN, "guard")
    assert entries.read(unused) is None


@contextmanager
def watched(
    probe: str,
    module: object,
    filters: Filters,
    enrichers: Mapping[str, object],
    compat: bool = False,
) -> Iterator[tuple[Recorder, Canary]]:
    """Records with one probe, as an agent does, and checks it every second."""
    plugins = plugins_with(probe, module, enrichers)
    settings = LoadSettings(own_work=False, compat=compat)
    recorder = Recorder(plugins, settings, "here", Recording())
    assert attach_all(recorder, {probe: ProbeSettings(filters=filters)}) == {}
    recorder.start()
    canary = Canary(recorder, 1.0)
    canary.start()
    try:
        yield recorder, canary
    finally:
        canary.stop()
        counts = recorder.stop()[probe]
        assert recorder.failure is None
        assert counts.read == counts.submitted == counts.seen - counts.filtered - counts.dropped


def detach(loaded: LoadedProbe, event: str) -> None:
    """Ends an attachment to a tracepoint behind the agent's back."""
    attached = loaded.descriptors[-len(loaded.tracepoints) :]
    events = [each for each, _ in loaded.tracepoints]
    replace(attached[events.index(event)])


def replace(descriptor: int) -> None:
    """Makes a descriptor that of another file, which ends the attachment that it held."""
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)


def test_program_that_is_detached_is_reported_by_the_canary() -> None:
    """A root process detaches a program: the canary's silence and the tracepoint are reported."""
    filters = Filters(include_uid=(65534,), include_path=("/nowhere",), exclude_comm=("python3",))
    with watched("open", open_probe, filters, {}) as (recorder, canary):
        until(lambda: len(recorder.loaded("open").blocks.canary_texts()) >= 2, "canaries arrive")
        assert canary.problems == {}
        detach(recorder.loaded("open"), "syscalls:sys_exit_openat")
        until(lambda: "did not arrive" in canary.problems.get("open", ""), "silence is noticed")
        assert "no longer attached to syscalls:sys_exit_openat" in canary.problems["open"]


def test_program_without_a_canary_is_reported_when_it_is_detached() -> None:
    """A root process detaches a program without a canary: the tracepoint is reported."""
    with watched("sample", sample, EVERYTHING, {}) as (recorder, canary):
        loaded = recorder.loaded("sample")
        detach(loaded, "syscalls:sys_exit_openat")
        until(lambda: "sys_exit_openat" in canary.problems.get("sample", ""), "the kernel tells")


def test_tracker_of_containers_is_reported_when_it_is_detached() -> None:
    """A root process detaches the tracker of containers: the tracepoint is reported."""
    with watched("sample", sample, EVERYTHING, CONTAINERS) as (recorder, canary):
        detach(recorder._trackers._trackers["containers"].loaded, "cgroup:cgroup_mkdir")
        until(lambda: "cgroup_mkdir" in canary.problems.get("containers", ""), "the kernel tells")


@only_x86
def test_guard_is_reported_when_it_is_detached() -> None:
    """A root process detaches the guard of 32-bit calls: its tracepoint is reported."""
    with watched("open", open_probe, EVERYTHING, {}, compat=True) as (recorder, canary):
        attachments = recorder._guard._layers[0].attachments
        replace(attachments[0].descriptor)
        until(lambda: attachments[0].event in canary.problems.get("guard", ""), "the kernel tells")
        assert attachments[1].event not in canary.problems["guard"]


def test_program_on_a_kernel_function_is_reported_when_it_is_detached() -> None:
    """A root process ends the attachment to a kernel function: the function is reported.

    On a locked-down kernel, which has no such attachments, a link of another kind stands in.
    """
    with watched("chmod", chmod_probe, EVERYTHING, {}) as (recorder, canary):
        loaded = recorder.loaded("chmod")
        if not loaded.links:
            link = link_to_tracepoint(loaded.programs["enter_chmod"], "syscalls:sys_enter_reboot")
            loaded.descriptors.insert(0, link)
            loaded.links = (("security_path_chmod", link_of(link)),)
        assert loaded.detached() == []
        replace(loaded.descriptors[0])
        until(lambda: "security_path_chmod" in canary.problems.get("chmod", ""), "the kernel tells")
