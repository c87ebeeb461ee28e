"""What is wrong with a node's configuration, probe by probe: each fails by itself, and the others run."""

from collections.abc import Iterator
from importlib.metadata import entry_points

from attrs import evolve

from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.settings import AgentSettings
from infrasight_core.errors import ConfigError, PluginError
from infrasight_core.plugin.hookspecs import ENTRY_POINT_GROUP
from infrasight_core.plugin.manager import PluginManager


def without_absent(settings: AgentSettings) -> tuple[AgentSettings, dict[str, PluginError]]:
    """The settings without the probes that cannot even be looked for, and why they cannot."""
    installed = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)}
    there = ", ".join(sorted(installed)) or "none"
    failures = {}
    for probe in settings.probes:
        if probe not in installed:
            failures[probe] = PluginError(
                probe, "import", f"no installed plugin is called {probe!r}; installed: {there}"
            )
        elif probe in settings.disable:
            failures[probe] = PluginError(
                probe, "import", "the agent's own setting `disable` names it"
            )
    for key, given in (
        ("options", settings.options),
        ("filters", settings.filters.keys() - {"all"}),
    ):
        for name in sorted(set(given) - installed - failures.keys()):
            reason = f"{key} are given for it, and no installed plugin is called {name!r}; installed: {there}"
            failures[name] = PluginError(name, key, reason)
    present = tuple(probe for probe in settings.probes if probe not in failures)
    return evolve(settings, probes=present), failures


def wrong_ones(
    plugins: PluginManager, recorder: Recorder, settings: AgentSettings
) -> dict[str, PluginError]:
    """Why single plugins cannot do what they are told, as far as it shows before anything is changed."""
    return {error.plugin: error for error in _wrong(plugins, recorder, settings)}


def _wrong(
    plugins: PluginManager, recorder: Recorder, settings: AgentSettings
) -> Iterator[PluginError]:
    for name in settings.probes:
        if name in plugins.plugins and not plugins.plugins[name].is_probe:
            yield PluginError(
                name,
                "load_bpf",
                "it is no probe: it records nothing itself, and need not be named to run",
            )
    for name, plugin in plugins.plugins.items():
        options = settings.options.get(name, {})
        try:
            plugins.check_options(name, options)
            if plugin.is_probe:
                recorder.check(plugins, name, options, settings.filters_of(name))
            elif plugin.is_tracker:
                recorder.trackers.check(plugins, name)
        except ConfigError as error:
            yield PluginError(name, "options", str(error))
        except PluginError as error:
            yield error
