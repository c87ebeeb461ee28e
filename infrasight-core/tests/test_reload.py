"""Probes switched on, off and re-configured while others record; settings with a mistake; under the real kernel."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import infrasight_probe_sample.plugin as sample
import pyarrow as pa
import pytest
from attrs import evolve
from infrasight_core import Tracepoint
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
    """Three probes with entry points, all of the same code."""
    text = Path(sample.__file__).read_text()
    for name in PROBES:
        (tmp_path / f"reload_{name}.py").write_text(
            text.replace('options_of("sample"', f'options_of("{name}"')
        )
    entry = tmp_path / "reload-0.dist-info"
    entry.mkdir()
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: reload\nVersion: 0\n")
    (entry / "entry_points.txt").write_text(
        "[infrasight]\n" + "".join(f"{name} = reload_{name}\n" for name in PROBES)
    )
    monkeypatch.syspath_prepend(tmp_path)


@contextmanager
def running(
    kept: Recording, settings: AgentSettings = SETTINGS
) -> Iterator[tuple[Reloader, Recorder]]:
    """Probes that record into `kept`."""
    plugins = PluginManager.discover(settings.probes)
    recorder = Recorder(plugins, LoadSettings(), "here", kept)
    probes = Reloader(recorder, settings)
    probes.start()
    recorder.start()
    try:
        yield probes, recorder
    finally:
        kept.counts = recorder.stop()["sample"]
        assert recorder.failure is None


def runs(kept: Recording, probe: str) -> list[str]:
    """The times that a probe was loaded, as its batches tell."""
    return sorted(
        {delivery.batch_id.split("-")[0] for delivery in kept.deliveries if delivery.probe == probe}
    )


def of_sample(kept: Recording) -> pa.Table:
    """All events of the probe `sample`."""
    return pa.Table.from_batches(
        [delivery.batch for delivery in kept.deliveries if delivery.probe == "sample"]
    )


@pytest.mark.alone
def test_reload_accounts_for_every_event_of_another_probe_under_a_storm(tmp_path: Path) -> None:
    """One probe is switched off, on and re-configured and another is added, under a storm.

    The probe that stays is not loaded again, and each event of the storm is one of its rows or
    counted as dropped.
    """
    storm = tmp_path / "open_storm"
    count = 400_000
    recorded = Recording()
    source = Path(__file__).parents[2] / "tests/support/workloads/open_storm.c"
    subprocess.run(["cc", "-O2", "-static", "-o", storm, source], check=True)
    storm_only = Filters(include_comm=("open_storm",))
    settings = evolve(SETTINGS, filters={"sample": storm_only})
    second_filter = {"sample": storm_only, "second": Filters(include_uid=(1,))}
    steps: list[dict[str, Any]] = [
        {"options": {"second": {"slots": 1024}}},
        {"probes": ("sample",)},
        {"probes": ("sample", "third"), "options": {"third": {"slots": 256}}},
        {"probes": ("sample", "second"), "filters": second_filter},
    ]
    pids: list[int] = []
    with running(recorded, settings) as (probes, recorder):
        for step in steps:
            process = subprocess.Popen([storm, str(count)], stdout=subprocess.DEVNULL)
            pids.append(process.pid)
            changed = evolve(settings, **step)
            probes.reload(changed)
            assert tuple(recorder.probes()) == tuple(sorted(changed.probes))
            assert probes.failures == {}
            assert process.wait() == 0
    counts = recorded.counts
    paths = of_sample(recorded)["path"].to_pylist()
    assert len(runs(recorded, "sample")) == 1
    assert len(paths) == counts.submitted == counts.read
    assert len(paths) + counts.dropped == len(steps) * count
    made = {f"/storm/{pid}-{number}".encode() for pid in pids for number in range(count)}
    assert len(set(paths)) == len(paths)
    assert made.issuperset(paths)
    assert len(runs(recorded, "second")) == 2
    assert len(runs(recorded, "third")) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
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
def test_settings_with_a_mistake_change_nothing(wrong: dict[str, Any], said: str) -> None:
    """A mistake is named by its key, and every probe records on, not loaded anew, with its options and filters."""
    kept = Recording()
    with running(kept) as (probes, recorder):
        with pytest.raises(InfraSightError, match=said):
            probes.reload(
                evolve(
                    SETTINGS,
                    filters={"sample": Filters(exclude_uid=(0,)), **wrong.pop("filters", {})},
                    **wrong,
                )
            )
        assert recorder.probes() == ["sample", "second"]
        subprocess.run(["/bin/true"], check=True)
    assert kept.counts.submitted > 0
    assert kept.counts.filtered == 0
    assert len(runs(kept, "second")) == len(runs(kept, "sample")) == 1


def test_options_that_cannot_be_loaded_leave_the_others_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What only attaching can refuse: it is among the failures, the other probe records on, and the next change tries again."""
    kept = Recording()
    with running(kept) as (probes, recorder):
        real = Tracepoint
        with monkeypatch.context() as broken:
            broken.setattr(
                "reload_second.Tracepoint",
                lambda name, event: real(name, event.replace("exit_openat", "exit_nothing")),
            )
            probes.reload(evolve(SETTINGS, options={"second": {"slots": 512}}))
        assert recorder.probes() == ["sample"]
        assert "exit_nothing" in str(probes.failures["second"])
        probes.reload(evolve(SETTINGS, options={"second": {"slots": 512}}))
        assert recorder.probes() == ["sample", "second"]
        assert probes.failures == {}
    assert len(runs(kept, "sample")) == 1
