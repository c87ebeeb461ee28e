"""Applies the agent's settings to the recorder: at the start, and again whenever they change."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import structlog
from attrs import evolve, fields

from infrasight_core.agent.recorder import Recorder, Running
from infrasight_core.agent.reload_plan import (
    NO_FAILURES,
    Failures,
    ReloadPlan,
    check_names,
    plan_reload,
    without_missing_plugins,
)
from infrasight_core.agent.settings import AgentSettings, ProbeSettings
from infrasight_core.errors import ConfigError, PluginError
from infrasight_core.plugin.manager import PluginManager, installed_plugins

log = structlog.get_logger(__name__)
RELOADABLE = ("probes", "disable", "options", "filters")


class Reloader:
    """Brings a recorder in line with the settings.

    Attributes:
        failures: Why wanted plugins do not run, or not as wanted, by name.

    Args:
        recorder: Runs the probes.
        settings: The settings at the start.
    """

    def __init__(self, recorder: Recorder, settings: AgentSettings) -> None:
        self.failures: Failures = NO_FAILURES
        self._recorder = recorder
        self._settings = settings

    def start(self) -> None:
        """Attaches the probes of the recorder's plugin set.

        Raises:
            ConfigError: No probe is installed, or options are set that a plugin does not have.
            PluginError: No probe can be attached; the reason of the first one.
        """
        plugins = self._recorder.plugins
        check_names(plugins, self._settings.options, filters={})
        probes = {probe: self._settings.of_probe(probe) for probe in plugins.probes()}
        self.failures = attach_all(self._recorder, probes)

    def reload(self, settings: AgentSettings, invalid: Failures = NO_FAILURES) -> None:
        """Changes what differs from the settings; every other probe records on, untouched.

        Args:
            settings: The new settings.
            invalid: Why single plugins cannot run with an operator's configuration.

        Raises:
            InfraSightError: The settings are invalid; nothing has changed.
        """
        failures = dict(invalid)
        if settings.operator:
            settings, missing = without_missing_plugins(settings, installed_plugins())
            failures = {**missing, **failures}
        plugins = PluginManager.discover(settings.enabled(), settings.disable)
        running = self._recorder.running()
        plan = plan_reload(running, plugins, settings, self._recorder.kernel, failures)
        self.failures = apply_plan(plan, plugins, self._recorder)
        _log_failures(self.failures)
        self._warn_of_fixed(settings)
        reloaded = {name: getattr(settings, name) for name in RELOADABLE}
        self._settings = evolve(self._settings, **reloaded)
        log.info("settings changed", probes=self._recorder.probes())

    def _warn_of_fixed(self, settings: AgentSettings) -> None:
        fixed = [
            attribute.name
            for attribute in fields(AgentSettings)
            if attribute.name not in RELOADABLE
            and getattr(settings, attribute.name) != getattr(self._settings, attribute.name)
        ]
        if fixed:
            log.warning("settings that take effect at the next start of the agent", keys=fixed)


def attach_all(recorder: Recorder, probes: Mapping[str, ProbeSettings]) -> Failures:
    """Attaches probes, and before them the trackers of the recorder's plugin set.

    Args:
        recorder: Runs the probes.
        probes: The settings of each probe.

    Returns:
        Why other plugins could not be loaded or attached, by name.

    Raises:
        ConfigError: There is no probe.
        PluginError: No probe can be attached; the reason of the first one.
    """
    plugins = recorder.plugins
    plan = ReloadPlan.between(
        Running(),
        probes=probes,
        trackers=plugins.trackers(),
        options=plugins.options,
        failures=plugins.failures,
    )
    failures = apply_plan(plan, plugins, recorder)
    if recorder.probes():
        _log_failures(failures)
        return failures
    for tracker in recorder.running().trackers:
        recorder.detach_tracker(tracker)
    for name, failure in failures.items():
        if name not in plugins.trackers():
            raise failure
    raise ConfigError(
        "no probe is installed: pip install infrasight-probe-execve, "
        "or another infrasight-probe-… package"
    )


def apply_plan(plan: ReloadPlan, plugins: PluginManager, recorder: Recorder) -> Failures:
    """Changes what a recorder runs. Nothing else does, but the end of the recorder.

    Args:
        plan: The changes.
        plugins: The plugins that the recorder uses from now on.
        recorder: The recorder.

    Returns:
        The failures of the plan and of the changes, by plugin.
    """
    for probe in plan.detach:
        recorder.detach(probe)
        log.info("probe detached", probe=probe)
    for tracker in plan.detach_trackers:
        recorder.detach_tracker(tracker)
    plugins.options = plan.options
    recorder.replace_plugins(plugins)
    failures = dict(plan.failures)
    for tracker, options in plan.attach_trackers.items():
        with _collect(failures):
            recorder.attach_tracker(tracker, options)
    for probe, filters in plan.refilter.items():
        with _collect(failures):
            recorder.filter(probe, filters)
    for probe, wanted in plan.reattach.items():
        with _collect(failures):
            _reattach(recorder, probe, wanted)
    _attach_each(recorder, plan.attach, failures)
    for name, failure in failures.items():
        if name in recorder.probes():
            reason = f"{failure.reason}; the previous settings stay active"
            failures[name] = PluginError(name, failure.hook, reason)
    return failures


def _log_failures(failures: Failures) -> None:
    for name, failure in failures.items():
        log.error(
            "plugin does not run as configured",
            plugin=name,
            hook=failure.hook,
            reason=failure.reason,
        )


@contextmanager
def _collect(failures: dict[str, PluginError]) -> Iterator[None]:
    try:
        yield
    except PluginError as error:
        failures[error.plugin] = error


def _reattach(recorder: Recorder, probe: str, wanted: ProbeSettings) -> None:
    """Loads a probe again; if that fails, with its previous settings. Raises PluginError."""
    previous = recorder.running().probes[probe]
    recorder.detach(probe)
    try:
        recorder.attach(probe, wanted.options, wanted.filters)
    except PluginError:
        recorder.attach(probe, previous.options, previous.filters)
        raise


def _attach_each(
    recorder: Recorder, probes: Mapping[str, ProbeSettings], failures: dict[str, PluginError]
) -> None:
    """Attaches probes, several at once: each is compiled in its own process."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "attach") as threads:
        attachments = [
            threads.submit(recorder.attach, probe, wanted.options, wanted.filters)
            for probe, wanted in probes.items()
        ]
        for attachment in attachments:
            with _collect(failures):
                attachment.result()
