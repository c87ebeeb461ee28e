"""Reloads under the real kernel: probes come, go and change while others record."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import infrasight_probe_sample.plugin as sample
import pyarrow as pa
import pytest
from attrs import evolve
from infrasight_core import SystemCall
from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.reload import Reloader
from infrasight_core.agent.settings import AgentSettings
from infrasight_core.errors import InfraSightError
from infrasight_core.kernel.filters import Filters
from infrasight_core.kernel.loader import LoadSettings
from infrasight_core.plugin.manager import PluginManager
from infrasight_recording import Recording

PROBES = ("sample", "second", "third")
SETTINGS = AgentSettings(probes=("sample", "second"))


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs three probes with the same code."""
    source = Path(sample.__file__).read_text()
    for name in PROBES:
        module = source.replace('options_of("sample"', f'options_of("{name}"')
        (tmp_path / f"reload_{name}.py").write_text(module)
    metadata = tmp_path / "reload-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: reload\nVersion: 0\n")
    entry_points = "".join(f"{name} = reload_{name}\n" for name in PROBES)
    (metadata / "entry_points.txt").write_text(f"[infrasight]\n{entry_points}")
    monkeypatch.syspath_prepend(tmp_path)


@contextmanager
def running(
    recorded: Recording, settings: AgentSettings = SETTINGS
) -> Iterator[tuple[Reloader, Recorder]]:
    """Records into `recorded`."""
    plugins = PluginManager.discover(settings.probes)
    recorder = Recorder(plugins, LoadSettings(), "here", recorded)
    reloader = Reloader(recorder, settings)
    reloader.start()
    recorder.start()
    try:
        yield reloader, recorder
    finally:
        recorded.counts = recorder.stop()["sample"]
        assert recorder.failure is None


def runs(recorded: Recording, probe: str) -> set[str]:
    """The runs of a probe that delivered batches: one for each time that it was loaded."""
    return {
        delivery.batch_id.split("-")[0]
        for delivery in recorded.deliveries
        if delivery.probe == probe
    }


def table_of_sample(recorded: Recording) -> pa.Table:
    """All events of the probe `sample`."""
    return pa.Table.from_batches(
        [delivery.batch for delivery in recorded.deliveries if delivery.probe == "sample"]
    )


@pytest.mark.alone
def test_reload_accounts_for_every_event_of_another_probe_under_a_storm(tmp_path: Path) -> None:
    """One probe is switched off, on and re-configured and another is added, under a storm.

    The probe that stays is not loaded again, and each event of the storm is one of its rows or
    counted as dropped.
    """
    storm = tmp_path / f"storm-{os.getpid()}"
    count = 400_000
    recorded = Recording()
    source = Path(__file__).parents[2] / "tests/support/workloads/open_storm.c"
    subprocess.run(["cc", "-O2", "-static", "-o", storm, source], check=True)
    storm_only = Filters(include_comm=(storm.name,))
    settings = evolve(SETTINGS, filters={"sample": storm_only})
    second_filter = {"sample": storm_only, "second": Filters(include_uid=(1,))}
    steps: list[dict[str, Any]] = [
        {"options": {"second": {"slots": 1024}}},
        {"probes": ("sample",)},
        {"probes": ("sample", "third"), "options": {"third": {"slots": 256}}},
        {"probes": ("sample", "second"), "filters": second_filter},
    ]
    pids: list[int] = []
    with running(recorded, settings) as (reloader, recorder):
        for step in steps:
            process = subprocess.Popen([storm, str(count)], stdout=subprocess.DEVNULL)
            pids.append(process.pid)
            changed = evolve(settings, **step)
            reloader.reload(changed)
            assert tuple(recorder.probes()) == tuple(sorted(changed.probes))
            assert reloader.failures == {}
            assert process.wait() == 0
    counts = recorded.counts
    paths = table_of_sample(recorded)["path"].to_pylist()
    assert len(runs(recorded, "sample")) == 1
    assert len(paths) == counts.submitted == counts.read
    assert len(paths) + counts.dropped == len(steps) * count
    made = {f"/storm/{pid}-{number}".encode() for pid in pids for number in range(count)}
    assert len(set(paths)) == len(paths)
    assert made.issuperset(paths)
    assert len(runs(recorded, "second")) == 2
    assert len(runs(recorded, "third")) == 1


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (
            {"options": {"second": {"slotz": 1}}},
            "unknown key options.second.slotz .*: did you mean slots?",
        ),
        ({"options": {"second": {"slots": 1000}}}, "slots = 1000 is not a power of two"),
        ({"options": {"nonsense": {}}}, "options.nonsense: no loaded plugin has this name"),
        ({"filters": {"nonsense": Filters()}}, "filters.nonsense: no loaded plugin has this name"),
        ({"probes": ("sample", "nonsense")}, "no installed plugin is called 'nonsense'"),
        ({"disable": ("sample", "second")}, "no probe is left to run"),
    ],
)
def test_reload_with_a_mistake_changes_nothing(mistake: dict[str, Any], message: str) -> None:
    """The error names the key; no probe is loaded again, and the new valid filter is not active."""
    recorded = Recording()
    valid_filters = {"sample": Filters(exclude_uid=(0,))}
    filters = {**valid_filters, **mistake.get("filters", {})}
    with running(recorded) as (reloader, recorder):
        with pytest.raises(InfraSightError, match=message):
            reloader.reload(evolve(SETTINGS, **{**mistake, "filters": filters}))
        assert recorder.probes() == ["sample", "second"]
        subprocess.run(["/bin/true"], check=True)
    assert recorded.counts.submitted > 0
    assert recorded.counts.filtered == 0
    assert len(runs(recorded, "second")) == len(runs(recorded, "sample")) == 1


def test_probe_that_cannot_be_attached_fails_alone_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is among the failures, the other probe records on, and the next reload attaches it."""
    recorded = Recording()
    changed = evolve(SETTINGS, options={"second": {"slots": 512}})

    def misspelt(name: str, enter: str, leave: str) -> SystemCall:
        return SystemCall("opnat", enter, leave)

    with running(recorded) as (reloader, recorder):
        with monkeypatch.context() as broken:
            broken.setattr("reload_second.SystemCall", misspelt)
            reloader.reload(changed)
        assert recorder.probes() == ["sample"]
        assert "opnat" in str(reloader.failures["second"])
        reloader.reload(changed)
        assert recorder.probes() == ["sample", "second"]
        assert reloader.failures == {}
    assert len(runs(recorded, "sample")) == 1
