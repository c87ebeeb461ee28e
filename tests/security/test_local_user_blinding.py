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
from infrasight_core.agent.canary import MAPS_RESTORED, Canary
from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.reload import attach_all
from infrasight_core.agent.settings import ProbeSettings
from infrasight_core.kernel.filters import EVERYTHING, Filters
from infrasight_core.kernel.loader import LoadSettings
from infrasight_core.kernel.prog_info import link_of
from infrasight_core.kernel.system_calls import slots_of
from infrasight_recording import CONTAINERS, Recording, plugins_with
from infrasight_testbed.bpf_maps import BpfMap, maps_of
from infrasight_testbed.bpf_programs import link_to_tracepoint, program_descriptor
from infrasight_testbed.system import Process, System, running_system, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="recording needs root")
STATE = bytes(4)
EXCLUDE = struct.pack("<Q", 1)
REWRITTEN = "rewrote maps in the kernel"
INCLUDE_OF_EVERY_KIND = 0x2AA  # in the filters' state
OWN_FILTERS = 0x3FF
EXECVE = struct.pack("<I", slots_of("execve", os.uname().machine)[0])
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


def dispatcher_map(agent: Process, name: str) -> BpfMap:
    """Returns the map of the agent's dispatcher."""
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


def test_program_that_is_deleted_from_the_dispatcher_is_written_again(agent: Process) -> None:
    """A root process deletes the way of executions to their probe: it is restored."""
    programs = dispatcher_map(agent, "first_enter")
    written = programs.read(EXECVE)
    assert written is not None
    programs.delete(EXECVE)
    wait_for_report(agent, REWRITTEN, "dispatcher")
    assert programs.read(EXECVE) == written


def test_program_that_is_replaced_in_the_dispatcher_is_written_again(agent: Process) -> None:
    """A root process has the dispatcher run another program for executions: it is restored."""
    entries = dispatcher_map(agent, "first_enter")
    exits = dispatcher_map(agent, "first_exit")
    written = entries.read(EXECVE)
    (other,) = struct.unpack_from("<I", exits.read(EXECVE) or b"")
    descriptor = program_descriptor(other)
    entries.write(EXECVE, struct.pack("<I", descriptor))
    os.close(descriptor)
    wait_for_report(agent, REWRITTEN, "dispatcher")
    assert entries.read(EXECVE) == written


@contextmanager
def watched(
    probe: str,
    module: object,
    filters: Filters,
    enrichers: Mapping[str, object],
) -> Iterator[tuple[Recorder, Canary]]:
    """Records with one probe, as an agent does, and checks it every second."""
    plugins = plugins_with(probe, module, enrichers)
    settings = LoadSettings(own_work=False)
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


def replace(descriptor: int) -> None:
    """Makes a descriptor that of another file, which ends the attachment that it held."""
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)


@pytest.mark.parametrize("side", ["sys_enter", "sys_exit"])
def test_dispatcher_that_is_detached_is_reported(side: str) -> None:
    """A root process detaches the dispatcher: its raw tracepoint and the canary are reported."""
    filters = Filters(include_uid=(65534,), include_path=("/nowhere",), exclude_comm=("python3",))
    with watched("open", open_probe, filters, {}) as (recorder, canary):
        until(lambda: len(recorder.loaded("open").blocks.canary_texts()) >= 2, "canaries arrive")
        assert canary.problems == {}
        dispatcher = recorder._dispatcher._loaded
        assert dispatcher is not None
        held = {event: descriptor for event, _, descriptor in dispatcher.attachments}
        replace(held[side])
        until(lambda: "dispatcher" in canary.problems, "the kernel tells")
        assert canary.problems["dispatcher"].startswith(f"no longer attached to {side};")
        if side == "sys_exit":
            until(lambda: "did not arrive" in canary.problems.get("open", ""), "silence is noticed")


def test_program_that_is_added_after_another_is_deleted() -> None:
    """A root process has a program run after a probe's own: it is reported and deleted."""
    slot = struct.pack("<I", slots_of("openat", os.uname().machine)[0])
    restored = MAPS_RESTORED.labels("dispatcher")._value
    before = restored.get()
    with watched("sample", sample, EVERYTHING, {}):
        (entries,) = maps_of(os.getpid(), "first_enter")
        (following,) = maps_of(os.getpid(), "next_enter")
        (some,) = struct.unpack_from("<I", entries.read(slot) or b"")
        descriptor = program_descriptor(some)
        following.write(slot, struct.pack("<I", descriptor))
        os.close(descriptor)
        until(lambda: following.read(slot) is None, "it is deleted")
        until(lambda: restored.get() > before, "it is reported")


def test_tracker_of_containers_is_reported_when_it_is_detached() -> None:
    """A root process detaches the tracker of containers: the tracepoint is reported."""
    with watched("sample", sample, EVERYTHING, CONTAINERS) as (recorder, canary):
        loaded = recorder._trackers._trackers["containers"].loaded
        events = [event for event, _ in loaded.tracepoints]
        replace(loaded.descriptors[events.index("cgroup:cgroup_mkdir")])
        until(lambda: "cgroup_mkdir" in canary.problems.get("containers", ""), "the kernel tells")


def test_program_on_a_kernel_function_is_reported_when_it_is_detached() -> None:
    """A root process ends the attachment to a kernel function: the function is reported.

    On a locked-down kernel, which has no such attachments, a link of another kind stands in.
    """
    with watched("chmod", chmod_probe, EVERYTHING, {}) as (recorder, canary):
        loaded = recorder.loaded("chmod")
        if not loaded.links:
            link = link_to_tracepoint(loaded.programs["enter_chmod"], "task_rename")
            loaded.descriptors.insert(0, link)
            loaded.links = (("security_path_chmod", link_of(link)),)
        assert loaded.detached() == []
        replace(loaded.descriptors[0])
        until(lambda: "security_path_chmod" in canary.problems.get("chmod", ""), "the kernel tells")
