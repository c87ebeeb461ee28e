"""Drains the programs of trackers: enrichers whose rows are not events but state that they need.

The recorder drains them before it enriches events that happened later.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import structlog
from attrs import asdict, define, evolve, field
from prometheus_client import Counter

from infrasight_core.errors import KernelError, PluginError
from infrasight_core.kernel.attach_points import calls_of
from infrasight_core.kernel.dispatcher import Dispatcher
from infrasight_core.kernel.loader import LoadedProbe, LoadSettings, load
from infrasight_core.plugin.columns import Columns
from infrasight_core.plugin.program import BpfProgram, Kernel

log = structlog.get_logger(__name__)
ROWS = Counter("infrasight_tracker_rows", "Rows read from the blocks of trackers.", ["tracker"])
DROPPED = Counter(
    "infrasight_tracker_dropped",
    "Rows that a tracker did not get, by the reason.",
    ["tracker", "reason"],
)
_DROP_REASONS = ("block_full", "heap_full", "skipped")
_FILLS_FAST = 1 / 16  # the share of a block from which another look should follow soon


@define
class _Tracker:
    loaded: LoadedProbe
    options: Mapping[str, Any]
    counted: dict[str, int] = field(factory=lambda: dict.fromkeys(_DROP_REASONS, 0))


class Trackers:
    """The attached trackers. No filter applies to them, and they see the agent's own work too.

    Args:
        settings: How to load programs.
        dispatcher: Attaches programs to system calls.
        decode: Calls a tracker's `decode` hook with drained columns. Raises PluginError.
    """

    def __init__(
        self,
        settings: LoadSettings,
        dispatcher: Dispatcher,
        decode: Callable[[str, Columns], Mapping[str, pa.Array]],
    ) -> None:
        self._settings = evolve(settings, own_work=True)
        self._dispatcher = dispatcher
        self._decode = decode
        self._trackers: dict[str, _Tracker] = {}
        # Held from draining until `decode` returns: a second thread then finds the plugin informed.
        self._lock = threading.Lock()

    def running(self) -> dict[str, Mapping[str, Any]]:
        """Returns the options of each attached tracker."""
        with self._lock:
            return {name: tracker.options for name, tracker in sorted(self._trackers.items())}

    def attach(
        self, name: str, program: BpfProgram, kernel: Kernel, options: Mapping[str, Any]
    ) -> None:
        """Loads a tracker. One of the same name is ended after that, so that it misses nothing.

        Raises:
            PluginError: The program cannot be loaded; one of the same name goes on.
        """
        loaded = load(name, program, kernel, self._settings)
        try:
            self._dispatcher.attach(loaded, calls_of(program))
        except KernelError as error:
            loaded.close()
            raise PluginError(name, "load_bpf", str(error)) from error
        tracker = _Tracker(loaded, options)
        with self._lock:
            previous = self._trackers.get(name)
            self._trackers[name] = tracker
            if previous is not None:
                self._end(name, previous)
            # Even without rows: `decode` learns that from here on it misses nothing.
            self._drain(name, tracker)
        log.info("tracker attached", tracker=name, slots=tracker.loaded.blocks.layout.slots)

    def detach(self, name: str) -> None:
        """Ends a tracker after draining it."""
        with self._lock:
            self._end(name, self._trackers.pop(name))

    def drain(self) -> bool:
        """Hands the waiting rows of every tracker to its plugin.

        Returns:
            Whether a block fills so fast that it should be drained again soon.
        """
        fullest = 0.0
        with self._lock:
            for name, tracker in self._trackers.items():
                fill_level = tracker.loaded.blocks.fill_level()
                fullest = max(fullest, fill_level)
                if fill_level:
                    self._drain(name, tracker)
        return fullest > _FILLS_FAST

    def detached_programs(self) -> dict[str, list[str]]:
        """Returns the attach points from which a program is detached, by tracker."""
        with self._lock:
            detached = {name: each.loaded.detached() for name, each in self._trackers.items()}
        return {name: events for name, events in detached.items() if events}

    def restore_filters(self) -> dict[str, list[str]]:
        """Restores the filters, which reject nothing; returns how they differed, by tracker."""
        with self._lock:
            loaded = {name: tracker.loaded for name, tracker in self._trackers.items()}
        return {name: each.filter_maps.restore() for name, each in loaded.items()}

    def close(self) -> None:
        """Ends all trackers."""
        with self._lock:
            while self._trackers:
                self._end(*self._trackers.popitem())

    def _end(self, name: str, tracker: _Tracker) -> None:
        self._dispatcher.detach(tracker.loaded)
        tracker.loaded.detach()
        self._drain(name, tracker)
        tracker.loaded.close()

    def _drain(self, name: str, tracker: _Tracker) -> None:
        columns = tracker.loaded.blocks.drain()
        ROWS.labels(name).inc(columns.rows)
        try:
            if self._decode(name, columns):
                raise PluginError(
                    name, "decode", "returned columns; a tracker must return an empty mapping"
                )
        except PluginError as error:
            DROPPED.labels(name, "decode_failed").inc(columns.rows)
            log.error("tracker failed", tracker=name, rows=columns.rows, reason=error.reason)
        self._count_dropped(name, tracker)

    def _count_dropped(self, name: str, tracker: _Tracker) -> None:
        totals = asdict(tracker.loaded.blocks.counts())
        totals["skipped"] = tracker.loaded.skipped_runs()
        for reason in _DROP_REASONS:
            added = totals[reason] - tracker.counted[reason]
            if added:
                DROPPED.labels(name, reason).inc(added)
                log.error("tracker rows dropped", tracker=name, reason=reason, rows=added)
            tracker.counted[reason] = totals[reason]
