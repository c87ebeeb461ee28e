"""Which probes to run, and attaching them each by itself, so that one that fails leaves the others running."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from infrasight_core.agent.recorder import Recorder
from infrasight_core.errors import ConfigError, PluginError
from infrasight_core.kernel.filters import Filters
from infrasight_core.plugin.manager import PluginManager

log = structlog.get_logger(__name__)


def attach_all(
    plugins: PluginManager,
    recorder: Recorder,
    options: Mapping[str, Mapping[str, Any]],
    filters_of: Callable[[str], Filters],
) -> dict[str, PluginError]:
    """Attaches every loaded probe with its options and filters, and before them what the enrichers track.

    Returns:
        Why the others, and trackers, could not be attached, by name.

    Raises:
        ConfigError: There is no probe, or options are given for one that is not loaded.
        PluginError: Not one could be attached; the first one's reason.
    """
    check_names(plugins, options, {})
    untracked = recorder.trackers.use(plugins)
    told = {probe: (options.get(probe, {}), filters_of(probe)) for probe in plugins.probes()}
    failures = plugins.failures | attach_each(recorder, told)
    if not recorder.probes():
        recorder.trackers.close()
        if failures:
            raise next(iter(failures.values()))
        raise ConfigError(
            "no probe is installed: pip install infrasight-probe-execve, or another infrasight-probe-… package"
        )
    for probe, failure in failures.items():
        log.error("probe not attached", probe=probe, reason=failure.reason)
    for name, failure in untracked.items():
        log.error(
            "tracker not attached; its enricher goes without", tracker=name, reason=failure.reason
        )
    return failures | untracked


def attach_each(
    recorder: Recorder, told: Mapping[str, tuple[Mapping[str, Any], Filters]]
) -> dict[str, PluginError]:
    """Attaches probes, several at once.

    Args:
        recorder: What runs them.
        told: Options and filters of each.

    Returns:
        Why others could not be attached, by probe.
    """
    failures: dict[str, PluginError] = {}

    def attach(probe: str) -> None:
        try:
            recorder.attach(probe, *told[probe])
        except PluginError as error:
            failures[probe] = error

    with ThreadPoolExecutor(
        len(os.sched_getaffinity(0)), "attach"
    ) as threads:  # each compiles in a process of its own
        for attached in [threads.submit(attach, probe) for probe in told]:
            attached.result()
    return failures


def check_names(
    plugins: PluginManager, options: Mapping[str, Mapping[str, Any]], filters: Mapping[str, Filters]
) -> None:
    """Raises ConfigError where options or filters are given for a plugin that is not loaded, or an enricher's are wrong."""
    known = plugins.plugins.keys() | plugins.failures.keys()
    for key, given in (("options", options.keys()), ("filters", filters.keys() - {"all"})):
        if unknown := sorted(given - known):
            raise ConfigError(
                f"{key}.{unknown[0]}: no loaded plugin of that name; loaded: {_names(plugins.probes())}"
            )
    for name in plugins.plugins:
        plugins.check_options(name, options.get(name, {}))


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
