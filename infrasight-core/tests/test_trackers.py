"""Trackers under the real kernel: an enricher knows what its program saw before an event."""

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
from infrasight_core.kernel.dispatcher import Dispatcher
from infrasight_core.kernel.filters import Filters
from infrasight_core.kernel.loader import LoadSettings, running_kernel
from infrasight_core.plugin.manager import PluginManager
from infrasight_recording import Recording, plugins_with, recording
from infrasight_testbed.system import until

TRACKED = {"executions": executions}


@pytest.fixture(autouse=True)
def empty_tracker() -> None:
    """Clears what the tracker has stored."""
    executions.known.clear()
    executions.calls.clear()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs the probe `sample` and the tracker."""
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
    vars(module).update(vars(executions))
    vars(module).update({name: hookimpl(function) for name, function in hooks.items()})
    return module


def attached_trackers(options: Mapping[str, Any]) -> Trackers:
    """Trackers with `executions` attached."""
    kernel = running_kernel()
    plugins = plugins_with("sample", sample, TRACKED)
    settings = LoadSettings()
    trackers = Trackers(settings, Dispatcher(running_kernel(), settings), plugins.decode)
    program = plugins.load_bpf("executions", kernel, options)
    trackers.attach("executions", program, kernel, options)
    return trackers


def dropped(reason: str) -> float:
    """The tracker's rows dropped so far, by the metric."""
    return float(DROPPED.labels("executions", reason)._value.get())


def test_tracker_knows_each_execution_before_its_events_are_enriched(tmp_path: Path) -> None:
    """400 short programs with two names: the row of each one's open has its program's name."""
    names = [tmp_path / "one", tmp_path / "other"]
    for name in names:
        shutil.copy("/bin/cat", name)
    marked = Filters(include_path=("/mark-tracked",))  # other opens must not fill the blocks
    with recording("sample", sample, filters=marked, enrichers=TRACKED) as recorded:
        pids = {}
        for number in range(400):
            process = subprocess.Popen(
                [names[number % 2], "/mark-tracked"], stderr=subprocess.DEVNULL
            )
            process.wait()
            pids[process.pid] = str(names[number % 2]).encode()
    rows = [row for row in recorded.table.to_pylist() if row["path"] == b"/mark-tracked"]
    assert [(row["pid"], row["exe"], "exe_missing" in row["quality"]) for row in rows] == [
        (row["pid"], pids[row["pid"]], False) for row in rows
    ]
    assert {row["pid"] for row in rows} == pids.keys()


def test_tracker_is_drained_while_no_probe_has_events() -> None:
    """A filter excludes every event of the probe; it does not apply to the tracker."""
    nobody = Filters(include_pid=((1 << 22) - 1,))
    with recording("sample", sample, filters=nobody, enrichers=TRACKED) as recorded:
        for _ in range(3000):  # three times the capacity of the blocks
            subprocess.run(["/bin/true"], check=True)
        process = subprocess.Popen(["/bin/true"])
        process.wait()
        until(lambda: process.pid in executions.known, "the tracker has been drained", 10)
        assert list(recorded.recorder.running().trackers) == ["executions"]
    assert recorded.deliveries == []
    assert len(executions.known) > 3000


def test_tracker_is_decoded_once_when_it_is_attached() -> None:
    """`decode` is called even without rows: from then on the enricher misses nothing."""
    trackers = attached_trackers({})
    assert len(executions.calls) == 1
    trackers.close()


def test_tracker_counts_dropped_rows() -> None:
    """Blocks of 64 slots are not drained while 400 programs run: rows and drops add up to them."""
    before = dropped("block_full")
    trackers = attached_trackers({"slots": 64})
    for _ in range(400):
        subprocess.run(["/bin/true"], check=True)
    trackers.close()
    dropped_rows = dropped("block_full") - before
    assert dropped_rows >= 400 - 64 * running_kernel().cpus
    assert sum(executions.calls) + dropped_rows >= 400


def test_tracker_that_cannot_be_loaded_fails_alone() -> None:
    """The failure names the tracepoint that does not exist; the probe records and flags rows."""
    recorded = Recording()
    plugins = plugins_with("sample", sample, TRACKED)
    plugins.options = {"executions": {"event": "sched:sched_no_such_thing"}}
    recorder = Recorder(plugins, LoadSettings(), "here", recorded)
    failures = attach_all(recorder, {"sample": ProbeSettings()})
    recorder.start()
    subprocess.run(["/bin/cat", "/mark-untracked"], check=False, stderr=subprocess.DEVNULL)
    recorder.stop()
    assert failures.keys() == {"executions"}
    assert failures["executions"].hook == "load_bpf"
    assert "sched_no_such_thing" in failures["executions"].reason
    (row,) = [row for row in recorded.table.to_pylist() if row["path"] == b"/mark-untracked"]
    assert "exe_missing" in row["quality"]


@pytest.mark.parametrize("returned", [{"exe": None}, "nothing"])
def test_tracker_that_returns_columns_fails(returned: Any) -> None:
    """A result of its `decode` is counted as a failure; the probe records."""
    before = dropped("decode_failed")
    with recording(
        "sample", sample, enrichers={"executions": changed(decode=lambda columns: returned)}
    ) as recorded:
        subprocess.run(["/bin/cat", "/mark-failed"], check=False, stderr=subprocess.DEVNULL)
    assert dropped("decode_failed") - before >= 1
    assert b"/mark-failed" in recorded.table["path"].to_pylist()


def test_tracker_is_not_a_probe() -> None:
    """It is not among the probes, has no counters and no account."""
    names: set[str] = set()

    class Names(Recording):
        def put_account(self, probe: str, account: Account) -> None:
            names.add(probe)

    plugins = plugins_with("sample", sample, TRACKED)
    assert plugins.probes() == list(plugins.schemas()) == ["sample"]
    assert plugins.trackers() == ["executions"]
    recorded = Names()
    with recording("sample", sample, sink=recorded, enrichers=TRACKED):
        subprocess.run(["/bin/true"], check=True)
        assert recorded.recorder.probes() == list(recorded.recorder.counts()) == ["sample"]
    assert {delivery.probe for delivery in recorded.deliveries} == {"sample"}
    assert "sample" in names
    assert names <= {"sample", "dispatcher"}


SETTINGS = AgentSettings(probes=("sample",))


@pytest.fixture
def running(installed: None) -> Iterator[tuple[Reloader, Recorder]]:
    """A recorder with the probe and the trackers attached, and its reloader."""
    plugins = PluginManager.discover(SETTINGS.probes)
    recorder = Recorder(plugins, LoadSettings(), "here", Recording())
    reloader = Reloader(recorder, SETTINGS)
    reloader.start()
    recorder.start()
    yield reloader, recorder
    recorder.stop()
    assert recorder.failure is None


def test_reload_changes_a_tracker_while_the_probe_records(
    running: tuple[Reloader, Recorder],
) -> None:
    """New options load it again without a gap, `disable` ends it; the probe is not touched."""
    reloader, recorder = running
    loaded = recorder.loaded("sample")
    pids: list[int] = []

    def execute() -> None:
        process = subprocess.Popen(["/bin/true"])
        process.wait()
        pids.append(process.pid)

    execute()
    options: Mapping[str, Mapping[str, Any]] = {"executions": {"slots": 128}}
    reloader.reload(evolve(SETTINGS, options=options))
    execute()
    assert list(recorder.running().trackers) == ["containers", "executions"]
    reloader.reload(evolve(SETTINGS, disable=("executions", "containers")))
    assert list(recorder.running().trackers) == []
    assert set(pids) <= executions.known.keys()
    assert recorder.loaded("sample") is loaded
    assert reloader.failures == {}


def test_reload_with_invalid_options_of_a_tracker_changes_nothing(
    running: tuple[Reloader, Recorder],
) -> None:
    """The unknown option is named, and both trackers stay attached."""
    reloader, recorder = running
    with pytest.raises(ConfigError, match=r"unknown key options\.executions\.slotz"):
        reloader.reload(evolve(SETTINGS, options={"executions": {"slotz": 1}}))
    with pytest.raises(ConfigError, match=r"unknown key options\.containers\.nonsense"):
        reloader.reload(evolve(SETTINGS, options={"containers": {"nonsense": 1}}))
    assert list(recorder.running().trackers) == ["containers", "executions"]
