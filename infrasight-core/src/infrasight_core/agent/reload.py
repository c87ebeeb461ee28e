"""The probes that run and what each was told: started once, changed as the settings change, each by itself."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog
from attrs import evolve, fields, frozen

from infrasight_core.agent.attach import attach_all, attach_each, check_names
from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.settings import AgentSettings
from infrasight_core.agent.validation import without_absent, wrong_ones
from infrasight_core.errors import ConfigError, KernelError, PluginError
from infrasight_core.kernel.filters import Filters
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.settings.reader import file_from_environment, read_settings

log = structlog.get_logger(__name__)
ENV_PREFIX = "INFRASIGHT_AGENT_"
CHANGEABLE = ("probes", "disable", "options", "filters")
NOTHING: Mapping[str, PluginError] = MappingProxyType({})


@frozen
class Source:
    """Where the settings come from.

    Attributes:
        file: The file, if any.
        flags: The command's options, which win over it.
    """

    file: Path | None
    flags: Mapping[str, object]

    def read(self) -> AgentSettings:
        """The settings as they stand there now. Raises ConfigError."""
        return read_settings(AgentSettings, file=self.file, env_prefix=ENV_PREFIX, flags=self.flags)

    def signature(self) -> tuple[int, ...]:
        """Changes whenever the file does; empty while there is none."""
        path = self.file or file_from_environment(ENV_PREFIX)
        try:
            stat = path.stat() if path else None
        except OSError:  # it is being replaced, or gone: `read` will say so
            stat = None
        return (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size) if stat else ()


class RunningProbes:
    """Which probes run.

    Where they are an operator's (`settings.operator`), what is wrong with one of them, or with an enricher, is its failure
    alone: it goes on as it was, and the others change. Where they are the agent's own, a mistake changes nothing at all.

    Attributes:
        failures: Why others that are wanted do not run, or not as wanted, by probe.

    Args:
        recorder: What runs them.
        plugins: Where they come from.
        settings: What they are told.
    """

    def __init__(self, recorder: Recorder, plugins: PluginManager, settings: AgentSettings) -> None:
        self._recorder, self._settings = recorder, settings
        self._plugins = plugins
        self._told: dict[
            str, tuple[Mapping[str, Any], Filters]
        ] = {}  # options and filters of each running probe
        self.failures: Mapping[str, PluginError] = {}

    def start(self) -> None:
        """Attaches them. Raises ConfigError or PluginError when there is none."""
        self.failures = attach_all(
            self._plugins, self._recorder, self._settings.options, self._settings.filters_of
        )
        self._told = {probe: _told(self._settings, probe) for probe in self._recorder.probes()}

    def change(
        self, settings: AgentSettings, wrong: Mapping[str, PluginError] = NOTHING
    ) -> PluginManager:
        """Makes the running probes what the settings say; a probe that they say nothing new of records on, untouched.

        Args:
            settings: What they say.
            wrong: What is known to be wrong with single plugins of an operator's.

        Returns:
            The plugins from now on.

        Raises:
            InfraSightError: The settings are wrong; nothing has been changed.
        """
        failures: dict[str, PluginError] = {}
        if settings.operator:
            settings, failures = without_absent(settings)
        plugins = PluginManager.discover(settings.enabled(), settings.disable)
        plugins.options = settings.options
        if settings.operator:
            broken = {**wrong_ones(plugins, self._recorder, settings), **wrong}
            before = {n: self._settings.options.get(n, {}) for n in broken if n in plugins.plugins}
            plugins.options = {**settings.options, **before}
            settings = evolve(settings, options=plugins.options)
        else:
            broken = self._check(plugins, settings)
        failures |= plugins.failures | broken
        wanted, running = plugins.probes(), self._recorder.probes()
        for probe in sorted(set(running) - set(wanted)):
            self._recorder.detach(probe)
            log.info("probe switched off", probe=probe)
        self._recorder.use(plugins)
        failures |= self._recorder.trackers.use(plugins if wanted else PluginManager())
        for probe in sorted(set(wanted) & set(running) - broken.keys()):
            try:
                self._reconfigure(probe, settings)
            except PluginError as error:
                failures[probe] = error
        new = {
            probe: _told(settings, probe)
            for probe in wanted
            if probe not in running and probe not in broken
        }
        failures |= attach_each(self._recorder, new)
        self._told = {
            probe: self._told.get(probe) or new[probe] for probe in self._recorder.probes()
        }
        for name, failure in failures.items():
            if name in self._told:
                failures[name] = PluginError(
                    name, failure.hook, f"{failure.reason}; it records on as before"
                )
            log.error(
                "plugin not changed as wanted",
                plugin=name,
                hook=failure.hook,
                reason=failure.reason,
            )
        self._say_fixed(settings)
        self._settings = evolve(
            self._settings, **{name: getattr(settings, name) for name in CHANGEABLE}
        )
        self._plugins, self.failures = plugins, failures
        log.info("settings changed", probes=self._recorder.probes())
        return plugins

    def _reconfigure(self, probe: str, settings: AgentSettings) -> None:
        """New options: the probe is loaded anew, and as it was if that fails. New filters: some map writes."""
        before, now = self._told[probe], _told(settings, probe)
        if before[0] == now[0]:
            try:
                self._recorder.filter(probe, now[1])
            except KernelError as error:
                raise PluginError(probe, "filters", str(error)) from error
        else:
            self._recorder.detach(probe)
            try:
                self._recorder.attach(probe, *now)
            except PluginError:
                self._recorder.attach(probe, *before)
                raise
        self._told[probe] = now

    def _check(self, plugins: PluginManager, settings: AgentSettings) -> dict[str, PluginError]:
        """Raises what is wrong with the settings, before anything is changed; returns what fails through no fault of theirs."""
        if not plugins.probes():
            raise ConfigError("probes, disable: they leave no probe to run")
        check_names(plugins, settings.options, settings.filters)
        broken = {}
        for probe in plugins.probes():
            try:
                self._recorder.check(plugins, probe, *_told(settings, probe))
            except PluginError as error:
                if (
                    probe in self._recorder.probes()
                    or probe in settings.options
                    or settings.filters_of(probe).has_paths
                ):
                    raise
                broken[probe] = error
        for name in plugins.trackers():
            try:
                self._recorder.trackers.check(plugins, name)
            except PluginError:
                if name in settings.options or name in self._recorder.trackers.names():
                    raise
        return broken

    def _say_fixed(self, settings: AgentSettings) -> None:
        names = [a.name for a in fields(AgentSettings) if a.name not in CHANGEABLE]
        if fixed := [
            name for name in names if getattr(settings, name) != getattr(self._settings, name)
        ]:
            log.warning("settings that take effect at the next start of the agent", keys=fixed)


def _told(settings: AgentSettings, probe: str) -> tuple[Mapping[str, Any], Filters]:
    return settings.options.get(probe, {}), settings.filters_of(probe)
