"""The probes that run and what each was told: started once, changed as the settings change, each by itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
from attrs import evolve, fields, frozen

from infrasight_core import config
from infrasight_core.agent.attach import attach_all, check_names
from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.settings import AgentSettings
from infrasight_core.errors import ConfigError, KernelError, ProbeError
from infrasight_core.plugins import PluginManager

log = structlog.get_logger(__name__)
ENV_PREFIX = "INFRASIGHT_AGENT_"
CHANGEABLE = ("probes", "disable", "options", "filters")


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
        return config.load(AgentSettings, file=self.file, env_prefix=ENV_PREFIX, flags=self.flags)

    def signature(self) -> tuple[int, ...]:
        """Changes whenever the file does; empty while there is none."""
        path = self.file or config.named_file(ENV_PREFIX)
        try:
            stat = path.stat() if path else None
        except OSError:  # it is being replaced, or gone: `read` will say so
            stat = None
        return (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size) if stat else ()


class RunningProbes:
    """Which probes run.

    Attributes:
        failures: Why others that are wanted do not, by probe.

    Args:
        recorder: What runs them.
        plugins: Where they come from.
        settings: What they are told.
    """

    def __init__(self, recorder: Recorder, plugins: PluginManager, settings: AgentSettings) -> None:
        self._recorder, self._settings = recorder, settings
        self._plugins = plugins
        self._options: dict[str, Mapping[str, Any]] = {}  # what each running probe was told
        self.failures: dict[str, ProbeError] = {}

    def start(self) -> None:
        """Attaches them. Raises ConfigError or ProbeError when there is none."""
        self.failures = attach_all(self._plugins, self._recorder, self._settings.options, self._settings.filters_of)
        self._options = {probe: self._settings.options.get(probe, {}) for probe in self._recorder.probes()}

    def change(self, settings: AgentSettings) -> PluginManager:
        """Makes the running probes what the settings say; a probe that they say nothing new of records on, untouched.

        Returns:
            The plugins from now on.

        Raises:
            InfraSightError: The settings are wrong; nothing has been changed.
        """
        plugins = PluginManager.discover(settings.probes or None, settings.disable)
        plugins.options = settings.options
        wanted, running = plugins.probes(), self._recorder.probes()
        broken = self._check(plugins, settings)
        for probe in sorted(set(running) - set(wanted)):
            self._recorder.detach(probe)
            log.info("probe switched off", probe=probe)
        self._recorder.use(plugins)
        untracked = self._recorder.trackers.use(plugins)
        for name, error in untracked.items():
            log.error("tracker not changed as wanted", tracker=name, reason=error.reason)
        failures = {**plugins.failures, **broken, **untracked}
        for probe in wanted:
            try:
                if probe in running:
                    self._reconfigure(probe, settings)
                elif probe not in broken:
                    self._recorder.attach(probe, settings.options.get(probe, {}), settings.filters_of(probe))
                    self._options[probe] = settings.options.get(probe, {})
            except ProbeError as error:
                failures[probe] = error
                log.error("probe not changed as wanted", probe=probe, reason=error.reason)
        if fixed := [
            a.name
            for a in fields(AgentSettings)
            if a.name not in CHANGEABLE and getattr(settings, a.name) != getattr(self._settings, a.name)
        ]:
            log.warning("settings that take effect at the next start of the agent", keys=fixed)
        self._settings = evolve(self._settings, **{name: getattr(settings, name) for name in CHANGEABLE})
        self._plugins, self.failures = plugins, failures
        log.info("settings changed", probes=self._recorder.probes())
        return plugins

    def _reconfigure(self, probe: str, settings: AgentSettings) -> None:
        """New options: the probe is loaded anew, and as it was if that fails. New filters: some map writes."""
        options, filters = settings.options.get(probe, {}), settings.filters_of(probe)
        if options == self._options[probe]:
            try:
                self._recorder.filter(probe, filters)
            except KernelError as error:
                raise ProbeError(probe, "filters", str(error)) from error
            return
        before = self._settings.filters_of(probe)
        self._recorder.detach(probe)
        try:
            self._recorder.attach(probe, options, filters)
        except ProbeError:
            self._recorder.attach(probe, self._options[probe], before)
            raise
        self._options[probe] = options

    def _check(self, plugins: PluginManager, settings: AgentSettings) -> dict[str, ProbeError]:
        """Raises what is wrong with the settings, before anything is changed; returns what fails through no fault of theirs."""
        if not plugins.probes():
            raise ConfigError("probes, disable: they leave no probe to run")
        check_names(plugins, settings.options, settings.filters)
        broken = {}
        for probe in plugins.probes():
            try:
                self._recorder.check(plugins, probe, settings.options.get(probe, {}), settings.filters_of(probe))
            except ProbeError as error:
                if probe in self._recorder.probes() or probe in settings.options or settings.filters_of(probe).has_paths:
                    raise
                broken[probe] = error
        for name in plugins.trackers():
            try:
                self._recorder.trackers.check(plugins, name)
            except ProbeError:
                if name in settings.options or name in self._recorder.trackers.names():
                    raise
        return broken
