"""Trackers, under the real kernel: what an enricher's program saw before an event is known when the event is enriched."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import infrasight_probe_sample.plugin as sample
import infrasight_tracker_sample.plugin as executions
import pytest
from attrs import evolve
from infrasight.v1.stream_pb2 import Account
from infrasight_core import hookimpl
from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.reload import Reloader, attach_all
from infrasight_core.agent.settings import AgentSettings, ProbeSettings
from infrasight_core.agent.trackers import DROPPED, Trackers
from infrasight_core.errors import ConfigError
from infrasight_core.kernel.filters import Filters
from infrasight_core.kernel.loader import LoadSettings, running_kernel
from infrasight_core.plugin.manager import PluginManager
from infrasight_recording import Recording, plugins_with, recording
from infrasight_testbed.system import until

TRACKED = {"executions": executions}


@pytest.fixture(autouse=True)
def nothing_known() -> None:
    """The tracker begins anew."""
    executions.known.clear()
    executions.calls.clear()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe `sample` and the tracker have entry points."""
    entry = tmp_path / "tracked-0.dist-info"
    entry.mkdir()
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: tracked\nVersion: 0\n")
    points = (
        "sample = infrasight_probe_sample.plugin",
        "executions = infrasight_tracker_sample.plugin",
    )
    (entry / "entry_points.txt").write_text("\n".join(("[infrasight]", *points, "")))
    monkeypatch.syspath_prepend(tmp_path)


def changed(**hooks: Any) -> ModuleType:
    """The tracker with other hooks."""
    module = ModuleType("changed")
    module.__dict__.update(
        {
            name: getattr(executions, name)
            for name in ("load_bpf", "decode", "enrich", "infrasight_api")
        }
    )
    module.__dict__.update({name: hookimpl(function) for name, function in hooks.items()})
    return module


def attached_trackers(options: Mapping[str, Any]) -> Trackers:
    """Trackers of which `executions` is attached."""
    kernel = running_kernel()
    plugins = plugins_with("sample", sample, TRACKED)
    trackers = Trackers(LoadSettings(), plugins.decode)
    program = plugins.load_bpf("executions", kernel, options)
    trackers.attach("executions", program, kernel, options)
    return trackers


def dropped(reason: str) -> float:
    """What the tracker has skipped so far, by the metric."""
    return float(DROPPED.labels("executions", reason)._value.get())


def test_what_happened_before_an_event_is_known_when_it_is_enriched(tmp_path: Path) -> None:
    """400 programs of two names, each gone at once: every row of what they opened has the name that the tracker heard."""
    names = [tmp_path / "one", tmp_path / "other"]
    for name in names:
        shutil.copy("/bin/cat", name)
    ours = Filters(include_path=("/mark-tracked",))  # what others open meanwhile fills no block
    with recording("sample", sample, filters=ours, enrichers=TRACKED) as kept:
        pids = {}
        for number in range(400):
            process = subprocess.Popen(
                [names[number % 2], "/mark-tracked"], stderr=subprocess.DEVNULL
            )
            process.wait()
            pids[process.pid] = str(names[number % 2]).encode()
    rows = [row for row in kept.table.to_pylist() if row["path"] == b"/mark-tracked"]
    assert [(row["pid"], row["exe"], "exe_missing" in row["quality"]) for row in rows] == [
        (row["pid"], pids[row["pid"]], False) for row in rows
    ]
    assert {row["pid"] for row in rows} == pids.keys()


def test_it_hears_while_no_probe_has_events() -> None:
    """A filter keeps every event from the probe: the tracker's blocks are emptied all the same, and not through the filter."""
    nobody = Filters(include_pid=((1 << 22) - 1,))
    with recording("sample", sample, filters=nobody, enrichers=TRACKED) as kept:
        for _ in range(3000):  # thrice what the blocks hold
            subprocess.run(["/bin/true"], check=True)
        process = subprocess.Popen(["/bin/true"])
        process.wait()
        until(lambda: process.pid in executions.known, "the tracker is read", 10)
        assert list(kept.recorder.running().trackers) == ["executions"]
    assert kept.deliveries == []
    assert len(executions.known) > 3000


def test_it_is_read_once_before_the_first_probe_is_attached() -> None:
    """`use` calls `decode` though there may be no row, so that an enricher knows that from now on it misses nothing."""
    trackers = attached_trackers({})
    assert len(executions.calls) == 1
    trackers.close()


def test_what_it_misses_is_counted() -> None:
    """Blocks of 64 slots that nobody reads while 400 programs run: what came and what the metric says add up."""
    before = dropped("block_full")
    trackers = attached_trackers({"slots": 64})
    for _ in range(400):
        subprocess.run(["/bin/true"], check=True)
    trackers.close()
    skipped = dropped("block_full") - before
    assert skipped >= 400 - 64 * running_kernel().cpus
    assert sum(executions.calls) + skipped >= 400


def test_one_that_cannot_be_loaded_is_a_failure_and_the_probes_go_on() -> None:
    """A tracepoint that no kernel has: its PluginError by name, and the probe records, its rows flagged."""
    kept, plugins = Recording(), plugins_with("sample", sample, TRACKED)
    plugins.options = {"executions": {"event": "sched:sched_no_such_thing"}}
    recorder = Recorder(plugins, LoadSettings(), "here", kept)
    failures = attach_all(recorder, {"sample": ProbeSettings()})
    recorder.start()
    subprocess.run(["/bin/cat", "/mark-untracked"], check=False, stderr=subprocess.DEVNULL)
    recorder.stop()
    assert failures.keys() == {"executions"}
    assert (
        failures["executions"].hook,
        "sched_no_such_thing" in failures["executions"].reason,
    ) == ("load_bpf", True)
    (row,) = [row for row in kept.table.to_pylist() if row["path"] == b"/mark-untracked"]
    assert "exe_missing" in row["quality"]


@pytest.mark.parametrize("returned", [{"exe": None}, "nothing"])
def test_rows_that_it_returns_are_a_failure(returned: Any) -> None:
    """`decode` that returns something: counted as failed, and the probe's events come."""
    before = dropped("decode_failed")
    with recording(
        "sample", sample, enrichers={"executions": changed(decode=lambda columns: returned)}
    ) as kept:
        subprocess.run(["/bin/cat", "/mark-failed"], check=False, stderr=subprocess.DEVNULL)
    assert dropped("decode_failed") - before >= 1
    assert b"/mark-failed" in kept.table["path"].to_pylist()


def test_it_is_no_probe() -> None:
    """Neither among the probes, nor counted, nor with an account of its own."""

    names: set[str] = set()

    class Names(Recording):
        def put_account(self, probe: str, account: Account) -> None:
            names.add(probe)

    plugins = plugins_with("sample", sample, TRACKED)
    assert (plugins.probes(), plugins.trackers(), list(plugins.schemas())) == (
        ["sample"],
        ["executions"],
        ["sample"],
    )
    kept = Names()
    with recording("sample", sample, sink=kept, enrichers=TRACKED):
        subprocess.run(["/bin/true"], check=True)
        assert kept.recorder.probes() == list(kept.recorder.counts()) == ["sample"]
    assert {delivery.probe for delivery in kept.deliveries} == {"sample"}
    assert names <= {"sample", "guard"}


SETTINGS = AgentSettings(probes=("sample",))


@pytest.fixture
def running(installed: None) -> Iterator[tuple[Reloader, Recorder]]:
    """An agent's probes and trackers, at work."""
    plugins = PluginManager.discover(SETTINGS.probes)
    recorder = Recorder(plugins, LoadSettings(), "here", Recording())
    probes = Reloader(recorder, SETTINGS)
    probes.start()
    recorder.start()
    yield probes, recorder
    recorder.stop()
    assert recorder.failure is None


def test_settings_change_it_while_the_probe_records(
    running: tuple[Reloader, Recorder],
) -> None:
    """New options load it anew without a gap, `disable` ends it, and the probe is not touched."""
    probes, recorder = running
    loaded = recorder.loaded("sample")
    pids: list[int] = []

    def execute() -> None:
        process = subprocess.Popen(["/bin/true"])
        process.wait()
        pids.append(process.pid)

    execute()
    options: Mapping[str, Mapping[str, Any]] = {"executions": {"slots": 128}}
    probes.reload(evolve(SETTINGS, options=options))
    execute()
    assert list(recorder.running().trackers) == ["containers", "executions"]
    probes.reload(evolve(SETTINGS, disable=("executions", "containers")))
    assert list(recorder.running().trackers) == []
    assert set(pids) <= executions.known.keys()
    assert recorder.loaded("sample") is loaded
    assert probes.failures == {}


def test_a_mistake_in_its_options_changes_nothing(running: tuple[Reloader, Recorder]) -> None:
    """An option that it does not know is named, and it goes on."""
    probes, recorder = running
    with pytest.raises(ConfigError, match=r"unknown key options\.executions\.slotz"):
        probes.reload(evolve(SETTINGS, options={"executions": {"slotz": 1}}))
    with pytest.raises(ConfigError, match=r"unknown key options\.containers\.nonsense"):
        probes.reload(evolve(SETTINGS, options={"containers": {"nonsense": 1}}))
    assert list(recorder.running().trackers) == ["containers", "executions"]
