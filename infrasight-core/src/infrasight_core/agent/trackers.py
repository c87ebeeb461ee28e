"""Trackers: programs of enrichers, whose rows are no events to store, but what the enricher must know of the kernel."""

import threading
from collections.abc import Mapping
from typing import Any

import structlog
from attrs import asdict, define, evolve, field
from prometheus_client import Counter

from infrasight_core.errors import KernelError, PluginError
from infrasight_core.kernel.filters import EVERYTHING
from infrasight_core.kernel.loader import LoadedProbe, LoadSettings, check_program, load
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.plugin.program import Kernel

log = structlog.get_logger(__name__)
TAKEN = Counter(
    "infrasight_tracker_rows", "Rows that trackers have taken from their blocks.", ["tracker"]
)
DROPPED = Counter(
    "infrasight_tracker_dropped",
    "What happened in the kernel and its tracker never heard of.",
    ["tracker", "reason"],
)


@define
class _Tracker:
    loaded: LoadedProbe
    options: Mapping[str, Any]
    counted: dict[str, int] = field(factory=dict)


class Trackers:
    """The trackers that run. They see everything, the agent's own work too, and no filter keeps anything from them.

    Args:
        kernel: The kernel.
        settings: How probes are loaded.
    """

    def __init__(self, kernel: Kernel, settings: LoadSettings) -> None:
        self._kernel, self._settings = kernel, evolve(settings, own_work=True)
        self._plugins = PluginManager()
        self._running: dict[str, _Tracker] = {}
        self._lock = (
            threading.Lock()
        )  # taken and decoded in one: who comes second finds the plugin knowing what was there

    def names(self) -> list[str]:
        """Those that run."""
        return sorted(self._running)

    def check(self, plugins: PluginManager, name: str) -> None:
        """Raises PluginError for what is known to be wrong before anything is loaded."""
        program = plugins.load_bpf(name, self._kernel, plugins.options.get(name, {}))
        try:
            check_program(program, EVERYTHING)
        except KernelError as error:
            raise PluginError(name, "load_bpf", str(error)) from error

    def use(self, plugins: PluginManager) -> dict[str, PluginError]:
        """Runs the trackers of these plugins from now on, and no others; one whose options are new is loaded anew.

        Returns:
            Why others could not be loaded; their enrichers go without.
        """
        failures: dict[str, PluginError] = {}
        with self._lock:
            for name in self._running.keys() - set(plugins.trackers()):
                self._end(name, self._running.pop(name))
            self._plugins = plugins
        for name in plugins.trackers():
            options = plugins.options.get(name, {})
            if name not in self._running or self._running[name].options != options:
                try:
                    self._begin(name, options)
                except PluginError as error:
                    failures[name] = error
        return failures

    def drain(self) -> bool:
        """Lets every plugin know what has happened until now; returns whether it was so much that it is to be done again."""
        with self._lock:
            fills = {
                name: tracker.loaded.blocks.fill_level() for name, tracker in self._running.items()
            }
            for name, fill in fills.items():
                if fill:
                    self._drain(name, self._running[name])
        return max(fills.values(), default=0) > 1 / 16

    def close(self) -> None:
        """Ends them all."""
        with self._lock:
            while self._running:
                self._end(*self._running.popitem())

    def _begin(self, name: str, options: Mapping[str, Any]) -> None:
        program = self._plugins.load_bpf(name, self._kernel, options)
        tracker = _Tracker(load(name, program, self._kernel, self._settings), options)
        with self._lock:
            before = self._running.get(name)
            self._running[name] = tracker
            if before:
                self._end(name, before)
            self._drain(
                name, tracker
            )  # once, whether there are rows or not: from here on the plugin misses nothing
        log.info("tracker attached", tracker=name, slots=tracker.loaded.blocks.layout.slots)

    def _end(self, name: str, tracker: _Tracker) -> None:
        tracker.loaded.detach()
        self._drain(name, tracker)
        tracker.loaded.close()

    def _drain(self, name: str, tracker: _Tracker) -> None:
        columns = tracker.loaded.blocks.drain()
        TAKEN.labels(name).inc(columns.rows)
        try:
            if self._plugins.decode(name, columns):
                raise PluginError(
                    name, "decode", "the rows of a tracker are no events: it must return nothing"
                )
        except PluginError as error:
            DROPPED.labels(name, "decode_failed").inc(columns.rows)
            log.error("tracker failed", tracker=name, rows=columns.rows, reason=error.reason)
        self._count(name, tracker)

    def _count(self, name: str, tracker: _Tracker) -> None:
        counts = asdict(tracker.loaded.blocks.counts()) | {"skipped": tracker.loaded.skipped_runs()}
        for reason in ("block_full", "heap_full", "skipped"):
            if new := counts[reason] - tracker.counted.get(reason, 0):
                DROPPED.labels(name, reason).inc(new)
                log.error("a tracker has skipped something", tracker=name, reason=reason, times=new)
            tracker.counted[reason] = counts[reason]
