"""Plans what a reload changes, from what runs and the new settings, without touching the kernel."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from attrs import Factory, evolve, frozen

from infrasight_core.agent.recorder import Running
from infrasight_core.agent.settings import AgentSettings, ProbeSettings
from infrasight_core.errors import ConfigError, KernelError, PluginError
from infrasight_core.kernel.filters import Filters
from infrasight_core.kernel.loader import check_program
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.plugin.program import Kernel
from infrasight_core.settings.reserved_names import EVERY_PROBE

Failures = Mapping[str, PluginError]
NO_FAILURES: Failures = MappingProxyType({})


@frozen
class ReloadPlan:
    """What a reload changes, in the order in which it is applied.

    A probe that is in none of the groups records on, untouched.

    Attributes:
        detach: Probes that are no longer wanted.
        detach_trackers: Trackers that are no longer wanted.
        options: The options of every plugin; enrichers get theirs with each batch.
        attach_trackers: The options of trackers that are new or have new options.
        refilter: The new filters of probes of which nothing else changes.
        reattach: The new settings of probes with new options, which must be loaded again.
        attach: The settings of new probes.
        failures: Why other wanted plugins do not run, or not as wanted, by name.
    """

    detach: tuple[str, ...] = ()
    detach_trackers: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = Factory(dict)
    attach_trackers: Mapping[str, Mapping[str, Any]] = Factory(dict)
    refilter: Mapping[str, Filters] = Factory(dict)
    reattach: Mapping[str, ProbeSettings] = Factory(dict)
    attach: Mapping[str, ProbeSettings] = Factory(dict)
    failures: Failures = Factory(dict)

    @classmethod
    def between(
        cls,
        running: Running,
        probes: Mapping[str, ProbeSettings],
        trackers: Iterable[str],
        options: Mapping[str, Mapping[str, Any]],
        failures: Failures = NO_FAILURES,
    ) -> "ReloadPlan":
        """Compares what runs with what is wanted.

        A probe that failed is neither attached nor changed, but detached if it is no longer wanted.
        An enricher that failed keeps its previous options.

        Args:
            running: What runs.
            probes: The settings of each wanted probe.
            trackers: The wanted trackers; none are needed without a probe.
            options: The wanted options of every plugin.
            failures: Why some of the wanted plugins cannot run as wanted.
        """
        kept_options = {name: running.options.get(name, {}) for name in failures}
        options = {**options, **kept_options}
        wanted_trackers = {name: options.get(name, {}) for name in trackers} if probes else {}
        refilter: dict[str, Filters] = {}
        reattach: dict[str, ProbeSettings] = {}
        attach: dict[str, ProbeSettings] = {}
        for probe, wanted in probes.items():
            current = running.probes.get(probe)
            if probe in failures or wanted == current:
                continue
            if current is None:
                attach[probe] = wanted
            elif wanted.options == current.options:
                refilter[probe] = wanted.filters
            else:
                reattach[probe] = wanted
        return cls(
            detach=tuple(sorted(running.probes.keys() - probes.keys())),
            detach_trackers=tuple(sorted(running.trackers.keys() - wanted_trackers.keys())),
            options=options,
            attach_trackers={
                name: tracker_options
                for name, tracker_options in wanted_trackers.items()
                if running.trackers.get(name) != tracker_options
            },
            refilter=refilter,
            reattach=reattach,
            attach=attach,
            failures=failures,
        )


def plan_reload(
    running: Running,
    plugins: PluginManager,
    settings: AgentSettings,
    kernel: Kernel,
    failures: Failures = NO_FAILURES,
) -> ReloadPlan:
    """Validates new settings and plans what they change.

    An operator's configuration fails plugin by plugin. The agent's own settings are rejected as a
    whole, unless a plugin fails through no fault of theirs.

    Args:
        running: What runs.
        plugins: The plugins that the settings select.
        settings: The new settings.
        kernel: The running kernel.
        failures: Why some plugins are already known to fail.

    Raises:
        ConfigError: The agent's own settings are invalid.
        PluginError: A plugin cannot run with the agent's own settings.
    """
    if settings.operator:
        invalid = {error.plugin: error for error in _find_invalid(plugins, settings, kernel)}
    else:
        invalid = _require_valid(running, plugins, settings, kernel)
    return ReloadPlan.between(
        running,
        probes={probe: settings.of_probe(probe) for probe in plugins.probes()},
        trackers=plugins.trackers(),
        options=settings.options,
        failures={**failures, **plugins.failures, **invalid},
    )


def without_missing_plugins(
    settings: AgentSettings, installed: Collection[str]
) -> tuple[AgentSettings, dict[str, PluginError]]:
    """Removes probes that cannot be loaded from an operator's settings.

    Args:
        settings: The settings.
        installed: The names of the installed plugins.

    Returns:
        The settings without these probes, and why each named plugin cannot be loaded.
    """
    listed = ", ".join(sorted(installed)) or "none"
    failures = {}
    for probe in settings.probes:
        if probe not in installed:
            reason = f"no installed plugin is called {probe!r}; installed: {listed}"
            failures[probe] = PluginError(probe, "import", reason)
        elif probe in settings.disable:
            reason = "the agent's own setting `disable` names it"
            failures[probe] = PluginError(probe, "import", reason)
    for key, table in (("options", settings.options), ("filters", settings.filters)):
        for name in sorted(table.keys() - {EVERY_PROBE} - set(installed) - failures.keys()):
            reason = (
                f"{key} are set for it, but no installed plugin is called {name!r}; "
                f"installed: {listed}"
            )
            failures[name] = PluginError(name, key, reason)
    loadable = tuple(probe for probe in settings.probes if probe not in failures)
    return evolve(settings, probes=loadable), failures


def check_names(
    plugins: PluginManager,
    options: Mapping[str, Mapping[str, Any]],
    filters: Mapping[str, Filters],
) -> None:
    """Validates that options and filters are set for loaded plugins, and the options themselves.

    Raises:
        ConfigError: A plugin is not loaded, or does not have the options.
    """
    known = plugins.plugins.keys() | plugins.failures.keys()
    for key, names in (("options", options.keys()), ("filters", filters.keys() - {EVERY_PROBE})):
        unknown = sorted(names - known)
        if unknown:
            loaded = ", ".join(plugins.probes()) or "none"
            raise ConfigError(
                f"{key}.{unknown[0]}: no loaded plugin has this name; loaded probes: {loaded}"
            )
    for name in plugins.plugins:
        plugins.check_options(name, options.get(name, {}))


def _find_invalid(
    plugins: PluginManager, settings: AgentSettings, kernel: Kernel
) -> Iterator[PluginError]:
    for name in settings.probes:
        if name in plugins.plugins and not plugins.plugins[name].is_probe:
            reason = "it is not a probe: it records nothing, and runs without being named"
            yield PluginError(name, "load_bpf", reason)
    for name, plugin in plugins.plugins.items():
        options = settings.options.get(name, {})
        try:
            plugins.check_options(name, options)
            if plugin.is_probe:
                _check_program(plugins, name, settings.of_probe(name), kernel)
            elif plugin.is_tracker:
                _check_program(plugins, name, ProbeSettings(options), kernel)
        except ConfigError as error:
            yield PluginError(name, "options", str(error))
        except PluginError as error:
            yield error


def _require_valid(
    running: Running, plugins: PluginManager, settings: AgentSettings, kernel: Kernel
) -> dict[str, PluginError]:
    """Returns the failures that the settings did not cause. Raises ConfigError, PluginError."""
    if not plugins.probes():
        raise ConfigError("probes, disable: no probe is left to run")
    check_names(plugins, settings.options, settings.filters)
    failures: dict[str, PluginError] = {}
    for probe in plugins.probes():
        probe_settings = settings.of_probe(probe)
        try:
            _check_program(plugins, probe, probe_settings, kernel)
        except PluginError as error:
            is_set = probe in settings.options or probe_settings.filters.has_paths
            if probe in running.probes or is_set:
                raise
            failures[probe] = error
    for tracker in plugins.trackers():
        options = settings.options.get(tracker, {})
        try:
            _check_program(plugins, tracker, ProbeSettings(options), kernel)
        except PluginError as error:
            if tracker in running.trackers or tracker in settings.options:
                raise
            failures[tracker] = error
    return failures


def _check_program(
    plugins: PluginManager, name: str, settings: ProbeSettings, kernel: Kernel
) -> None:
    """Validates a program as far as possible before it is compiled. Raises PluginError."""
    program = plugins.load_bpf(name, kernel, settings.options)
    try:
        check_program(program, settings.filters)
    except KernelError as error:
        raise PluginError(name, "load_bpf", str(error)) from error
