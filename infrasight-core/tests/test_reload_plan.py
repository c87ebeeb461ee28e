"""What a reload changes, planned from what runs and the new settings: no root, no kernel."""

from types import ModuleType
from typing import Any

import infrasight_probe_sample.plugin as sample
import infrasight_tracker_sample.plugin as executions
import pytest
from attrs import evolve
from infrasight_core import Kernel, hookimpl
from infrasight_core.agent.recorder import Running
from infrasight_core.agent.reload_plan import (
    ReloadPlan,
    check_names,
    plan_reload,
    without_missing_plugins,
)
from infrasight_core.agent.settings import AgentSettings, ProbeSettings
from infrasight_core.errors import ConfigError, PluginError
from infrasight_core.kernel.filters import Filters
from infrasight_core.plugin.manager import PluginManager

KERNEL = Kernel("6.12.0", "x86_64", 2)
OWN = AgentSettings()
OPERATED = AgentSettings(operator="localhost:1")
SMALL = {"slots": 64}
ROOT_ONLY = Filters(include_uid=(0,))
INVALID = {"slots": 1000}


def plugins(*probes: str, **others: object) -> PluginManager:
    """A plugin set of probes with the code of `sample`, and of other plugins."""
    manager = PluginManager()
    for probe in probes:
        manager.register(probe, sample)
    for name, module in others.items():
        manager.register(name, module)
    assert not manager.failures
    return manager


def running(probes: dict[str, ProbeSettings], **trackers: dict[str, Any]) -> Running:
    """What runs: probes and trackers, and the options of both."""
    options = {name: settings.options for name, settings in probes.items()}
    return Running(probes, trackers, {**options, **trackers})


def plan(state: Running, manager: PluginManager, settings: AgentSettings) -> ReloadPlan:
    """The plan for this kernel."""
    return plan_reload(state, manager, settings, KERNEL)


def copy_of(module: ModuleType) -> ModuleType:
    """A plugin with the same hooks; pluggy registers no module twice."""
    copy = ModuleType(module.__name__)
    copy.__dict__.update(vars(module))
    return copy


def failing(message: str) -> ModuleType:
    """A probe whose `load_bpf` raises."""

    def load_bpf(kernel: Kernel, options: Any) -> Any:
        raise RuntimeError(message)

    module = copy_of(sample)
    vars(module)["load_bpf"] = hookimpl(load_bpf)
    return module


def test_plan_of_unchanged_settings_is_empty() -> None:
    """A probe and a tracker with the same settings are in no group of the plan."""
    state = running({"sample": ProbeSettings(SMALL, ROOT_ONLY)}, executions=SMALL)
    settings = AgentSettings(
        options={"sample": SMALL, "executions": SMALL}, filters={"sample": ROOT_ONLY}
    )
    result = plan(state, plugins("sample", executions=executions), settings)
    assert result == ReloadPlan(options=settings.options)


def test_plan_separates_each_kind_of_change() -> None:
    """One probe goes, one comes, one gets other filters and one other options."""
    manager = plugins()
    for name in ("attached", "filtered", "reloaded"):
        manager.register(name, copy_of(sample))
    state = running(dict.fromkeys(("detached", "filtered", "reloaded"), ProbeSettings()))
    options = {"reloaded": SMALL}
    result = plan(state, manager, AgentSettings(options=options, filters={"filtered": ROOT_ONLY}))
    assert result == ReloadPlan(
        detach=("detached",),
        options=options,
        refilter={"filtered": ROOT_ONLY},
        reattach={"reloaded": ProbeSettings(SMALL)},
        attach={"attached": ProbeSettings()},
    )


def test_plan_attaches_trackers_with_new_options_and_none_without_a_probe() -> None:
    """A tracker with new options is attached again; without any probe all trackers are detached."""
    state = running({"sample": ProbeSettings()}, executions={}, gone={})
    manager = plugins("sample", executions=executions)
    result = plan(state, manager, AgentSettings(options={"executions": SMALL}))
    assert result.attach_trackers == {"executions": SMALL}
    assert result.detach_trackers == ("gone",)
    nothing = plan(state, plugins(executions=executions), OPERATED)
    assert nothing.detach == ("sample",)
    assert nothing.detach_trackers == ("executions", "gone")
    assert nothing.attach_trackers == {}


def test_invalid_own_settings_of_one_plugin_are_rejected_as_a_whole() -> None:
    """Options that a probe or a tracker does not have, or cannot run with, raise an error."""
    state = running({"sample": ProbeSettings()}, executions={})
    manager = plugins("sample", executions=executions)
    for name in ("sample", "executions"):
        with pytest.raises(PluginError, match="slots = 1000 is not a power of two") as caught:
            plan(state, manager, AgentSettings(options={name: INVALID}))
        assert caught.value.plugin == name
        with pytest.raises(ConfigError, match=rf"unknown key options\.{name}\.slotz"):
            plan(state, manager, AgentSettings(options={name: {"slotz": 64}}))
    with pytest.raises(ConfigError, match="no probe is left to run"):
        plan(state, plugins(executions=executions), OWN)


def test_plugin_that_fails_without_settings_of_its_own_fails_alone() -> None:
    """A new probe without options whose `load_bpf` raises fails alone."""
    manager = plugins("sample", broken=failing("on purpose"))
    result = plan(running({"sample": ProbeSettings()}), manager, OWN)
    assert result.failures["broken"].reason == "RuntimeError: on purpose"
    assert result.attach == {}
    assert result.detach == ()
    with pytest.raises(PluginError, match="on purpose"):
        plan(running({"broken": ProbeSettings()}), manager, OWN)


def test_operators_configuration_fails_plugin_by_plugin() -> None:
    """Invalid options leave the probe as it runs and the tracker with its previous options."""
    state = running({"sample": ProbeSettings(SMALL)}, executions=SMALL)
    manager = plugins("sample", executions=executions)
    manager.register("other", copy_of(sample))
    options = {"sample": INVALID, "executions": {"slotz": 64}, "other": SMALL}
    result = plan(state, manager, evolve(OPERATED, options=options))
    assert result.attach == {"other": ProbeSettings(SMALL)}
    assert result.reattach == {}
    assert result.attach_trackers == {}
    assert result.options == {"sample": SMALL, "executions": SMALL, "other": SMALL}
    assert {name: error.hook for name, error in result.failures.items()} == {
        "sample": "load_bpf",
        "executions": "options",
    }


def test_enricher_that_an_operator_names_as_a_probe_is_a_failure() -> None:
    """It is a failure of that name; the probes run."""
    manager = plugins("sample", executions=executions)
    settings = evolve(OPERATED, probes=("sample", "executions"))
    result = plan(Running(), manager, settings)
    assert "it is not a probe" in result.failures["executions"].reason
    assert result.attach == {"sample": ProbeSettings()}


def test_probe_with_a_known_failure_is_not_changed() -> None:
    """A probe whose filters could not be parsed records on with those that it has."""
    known = {"sample": PluginError("sample", "filters", "why")}
    state = running({"sample": ProbeSettings(filters=ROOT_ONLY)})
    result = plan_reload(state, plugins("sample"), OPERATED, KERNEL, known)
    assert result.refilter == {}
    assert result.failures == known


def test_plugins_that_are_not_installed_are_left_out_with_a_reason() -> None:
    """An operator may name probes, options and filters that this node cannot have."""
    settings = evolve(
        OPERATED,
        probes=("sample", "nowhere", "off"),
        disable=("off",),
        options={"unknown": {}},
        filters={"all": Filters(), "other": Filters()},
    )
    loadable, failures = without_missing_plugins(settings, {"sample", "off"})
    assert loadable.probes == ("sample",)
    assert {name: error.hook for name, error in failures.items()} == {
        "nowhere": "import",
        "off": "import",
        "unknown": "options",
        "other": "filters",
    }
    assert "`disable` names it" in failures["off"].reason


@pytest.mark.parametrize("key", ["options", "filters"])
def test_settings_of_a_plugin_that_is_not_loaded_are_rejected(key: str) -> None:
    """The error names the key and the loaded probes; the filters of all probes are no plugin's."""
    manager = plugins("sample")
    tables: dict[str, Any] = {"options": {}, "filters": {"all": Filters()}}
    check_names(manager, **tables)
    tables[key] = {"nonsense": {}}
    with pytest.raises(
        ConfigError, match=rf"{key}\.nonsense: no loaded plugin has this name; .*: sample"
    ):
        check_names(manager, **tables)
