"""Reads the blocks of every attached probe in one thread and makes conforming batches of them.

This is the agent's first step on the way of a record: blocks, recorder, outbox, uplink.
"""

import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa
import structlog
from attrs import Factory, frozen

from infrasight_core.agent.batches import assemble, boot_key_of, conform
from infrasight_core.agent.quality_metrics import count_missing_fields
from infrasight_core.agent.recording import LONGEST_PAUSE, SHORTEST_PAUSE, Recording
from infrasight_core.agent.settings import ProbeSettings
from infrasight_core.agent.sink import Sink
from infrasight_core.agent.trackers import Trackers
from infrasight_core.agent.untraced import UntracedOperations
from infrasight_core.errors import KernelError, PluginError, SchemaError
from infrasight_core.kernel.attach_points import calls_of
from infrasight_core.kernel.block import Counts
from infrasight_core.kernel.dispatcher import Dispatcher
from infrasight_core.kernel.filters import EVERYTHING, Filters
from infrasight_core.kernel.loader import LoadedProbe, LoadSettings, load, running_kernel
from infrasight_core.kernel.store_files import StoreFiles
from infrasight_core.plugin.arrays import recycle_memory
from infrasight_core.plugin.clock import boot_time_ns
from infrasight_core.plugin.columns import Columns
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.settings.reserved_names import DISPATCHER

log = structlog.get_logger(__name__)
_UNTRACED_INTERVAL = 1.0  # seconds between two counts of operations that no program traces


@frozen
class Running:
    """What a recorder runs at one moment.

    Attributes:
        probes: The settings of each attached probe.
        trackers: The options of each attached tracker.
        options: The options of every plugin that has any, by name.
    """

    probes: Mapping[str, ProbeSettings] = Factory(dict)
    trackers: Mapping[str, Mapping[str, Any]] = Factory(dict)
    options: Mapping[str, Mapping[str, Any]] = Factory(dict)


class Recorder:
    """Records probes until it is stopped. It owns the plugin set of the process.

    Attributes:
        kernel: The running kernel.
        failure: What ended the recorder's thread; None while it runs, and after `stop`.

    Args:
        plugins: The plugins with which it begins.
        settings: How to load programs.
        node: The name of the host.
        sink: Receives batches and accounts.
    """

    def __init__(
        self, plugins: PluginManager, settings: LoadSettings, node: str, sink: Sink
    ) -> None:
        self.kernel = running_kernel()
        self.failure: BaseException | None = None
        self._plugins = plugins
        self._settings = settings
        self._node = node
        self._sink = sink
        self._boot_key = boot_key_of(boot_time_ns())
        self._dispatcher = Dispatcher(self.kernel, settings)
        self._trackers = Trackers(settings, self._dispatcher, self._decode_tracker)
        self._untraced = UntracedOperations(sink)
        self._untraced_by_ended_probes = 0
        self._untraced_counted = 0.0
        self._recordings: dict[str, Recording] = {}
        self._store: StoreFiles | None = None
        self._lock = threading.Lock()  # of the recordings, held while they are drained
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    @property
    def plugins(self) -> PluginManager:
        """The current plugin set."""
        return self._plugins

    def replace_plugins(self, plugins: PluginManager) -> None:
        """Decodes and enriches with these plugins from now on.

        Args:
            plugins: A plugin set with every attached probe and tracker.
        """
        with self._lock:
            self._plugins = plugins

    def running(self) -> Running:
        """Returns what the recorder runs now."""
        with self._lock:
            probes = {name: recording.settings for name, recording in self._recordings.items()}
        return Running(probes, self._trackers.running(), self._plugins.options)

    def attach(self, probe: str, options: Mapping[str, Any], filters: Filters = EVERYTHING) -> None:
        """Loads a probe and begins to record it, while the others go on. Raises PluginError."""
        program = self._plugins.load_bpf(probe, self.kernel, options)
        schema = self._plugins.schemas()[probe]
        loaded = load(probe, program, self.kernel, self._settings, filters)
        try:
            self._dispatcher.attach(loaded, calls_of(program))
        except KernelError as error:
            loaded.close()
            raise PluginError(probe, "load_bpf", str(error)) from error
        recording = Recording(loaded, schema, ProbeSettings(options, filters), self._sink)
        with self._lock:
            self._recordings[probe] = recording
            self._exclude_store(recording)
        functions = {"functions": list(loaded.functions)} if loaded.functions else {}
        log.info("probe attached", probe=probe, slots=loaded.blocks.layout.slots, **functions)

    def detach(self, probe: str) -> Counts:
        """Ends a probe after delivering what it has recorded. Returns its last counters."""
        with self._lock:
            recording = self._recordings.pop(probe)  # only this thread uses it from here on
        self._dispatcher.detach(recording.loaded)
        recording.detach()
        while recording.has_events():
            self._drain(recording)
        counts = recording.close()
        with self._lock:
            self._untraced_by_ended_probes += counts.untraced
        return counts

    def filter(self, probe: str, filters: Filters) -> None:
        """Changes the filters of an attached probe.

        Raises:
            PluginError: The kernel's maps cannot be written; the previous filters stay active.
        """
        recording = self._recordings[probe]
        if filters == recording.settings.filters:
            return
        try:
            recording.loaded.filter_maps.apply(filters)
        except KernelError as error:
            raise PluginError(probe, "filters", str(error)) from error
        recording.settings = ProbeSettings(recording.settings.options, filters)
        log.info("filters changed", probe=probe)

    def exclude_store(self, store: StoreFiles | None) -> None:
        """Stops recording that an embedded store works on its own files; None: records it again."""
        with self._lock:
            if store == self._store:
                return
            self._store = store
            for recording in self._recordings.values():
                self._exclude_store(recording)
        if store is not None:
            folder = os.fsdecode(store.folder)
            log.info("the store's work on its own files is not recorded", folder=folder)

    def _exclude_store(self, recording: Recording) -> None:
        try:
            recording.loaded.filter_maps.exclude_store(self._store)
        except KernelError as error:
            log.warning(
                "the store's work on its own files is recorded",
                probe=recording.probe,
                reason=str(error),
            )

    def attach_tracker(self, tracker: str, options: Mapping[str, Any]) -> None:
        """Loads a tracker; one that runs is replaced without a gap. Raises PluginError."""
        program = self._plugins.load_bpf(tracker, self.kernel, options)
        self._trackers.attach(tracker, program, self.kernel, options)

    def detach_tracker(self, tracker: str) -> None:
        """Ends a tracker."""
        self._trackers.detach(tracker)

    def probes(self) -> list[str]:
        """Returns the names of the attached probes, sorted."""
        return sorted(self._recordings)

    def loaded(self, probe: str) -> LoadedProbe:
        """Returns the loaded programs of an attached probe."""
        return self._recordings[probe].loaded

    def counts(self) -> dict[str, Counts]:
        """Returns the counters of each attached probe."""
        with self._lock:
            return {name: recording.counts() for name, recording in self._recordings.items()}

    def untraced(self) -> Mapping[str, int]:
        """Returns how many operations of a recorded kind no program traced, by the way they came.

        `x32` are all calls of the x32 ABI, `io_uring` submitted requests whose completion was not
        seen.
        """
        with self._lock:
            requests = self._untraced_by_ended_probes
            for recording in self._recordings.values():
                requests += recording.counts().untraced
        return {"x32": self._dispatcher.x32_calls(), "io_uring": requests}

    def can_cause_canary(self, probe: str) -> bool:
        """Returns whether a probe is attached and has a canary."""
        with self._lock:
            recording = self._recordings.get(probe)
        return recording is not None and recording.loaded.canary is not None

    def cause_canary(self, probe: str, token: str) -> None:
        """Causes an event of a probe that has this text; nothing if the probe is not attached."""
        with self._lock:
            recording = self._recordings.get(probe)
        if recording is not None and recording.loaded.canary is not None:
            with suppress(OSError):  # the operation may fail; it is recorded all the more
                recording.loaded.canary(token)

    def has_canary(self, probe: str, token: str) -> bool:
        """Returns whether a canary event with this text has come out of a probe's blocks."""
        with self._lock:
            recording = self._recordings.get(probe)
            texts = recording.loaded.blocks.canary_texts() if recording is not None else []
        return any(token.encode() in text for text in texts)

    def detached_programs(self) -> dict[str, list[str]]:
        """Returns the attach points from which a program is detached.

        Returns:
            The attach points by probe, tracker or `dispatcher`, for those that have lost any.
        """
        detached = {**self._trackers.detached_programs(), DISPATCHER: self._dispatcher.detached()}
        with self._lock:  # so that no probe is detached meanwhile
            for probe, recording in self._recordings.items():
                detached[probe] = recording.loaded.detached()
        return {name: points for name, points in detached.items() if points}

    def restore_maps(self) -> dict[str, list[str]]:
        """Restores the maps in the kernel that the agent has written: filters and the
        dispatcher's tables.

        Returns:
            How they differed, by probe, tracker or `dispatcher`, for those that did.
        """
        restored = {**self._trackers.restore_filters(), DISPATCHER: self._dispatcher.restore()}
        with self._lock:
            loaded = {name: recording.loaded for name, recording in self._recordings.items()}
        for probe, each in loaded.items():
            restored[probe] = each.filter_maps.restore()
        return {name: differences for name, differences in restored.items() if differences}

    def start(self) -> None:
        """Starts the thread that reads the blocks."""
        recycle_memory()
        self._thread.start()

    def cpu_clock(self) -> int:
        """Returns the clock of the thread's CPU time, for `time.clock_gettime`, after `start`."""
        return time.pthread_getcpuclockid(self._thread.ident or 0)

    def stop(self) -> dict[str, Counts]:
        """Ends the thread and every probe. Returns the last counters by probe."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        counts = {probe: self.detach(probe) for probe in self.probes()}
        self._trackers.close()
        self._count_untraced(time.monotonic(), ended=True)
        return counts

    def _run(self) -> None:
        pause = SHORTEST_PAUSE
        last_look = time.monotonic()
        try:
            while not self._stop.wait(pause):
                now = time.monotonic()
                pause = self._look(now, now - last_look)
                last_look = now
        except BaseException as error:
            self.failure = error
            log.exception("recorder failed")
            raise

    def _look(self, now: float, elapsed: float) -> float:
        """Drains what is due. Returns the seconds until the next look."""
        pause = LONGEST_PAUSE
        with self._lock:
            for recording in self._recordings.values():
                recording.begin_window_if_due()
                if recording.is_due(now):
                    self._drain(recording)
                else:
                    recording.send_account_if_due(now)
                recording.count()
                pause = min(pause, recording.seconds_until_due(elapsed))
        if now - self._untraced_counted >= _UNTRACED_INTERVAL:
            self._count_untraced(now)
            self._untraced_counted = now
        if self._trackers.drain():
            return SHORTEST_PAUSE
        return max(pause, SHORTEST_PAUSE)

    def _count_untraced(self, now: float, ended: bool = False) -> None:
        self._untraced.count(self.untraced(), self._dispatcher.skipped_runs(), now, ended)

    def _drain(self, recording: Recording) -> None:
        """Drains a probe's blocks and delivers a conforming batch."""
        columns = recording.drain()
        if not columns.rows:
            return
        self._trackers.drain()  # enrichers must know what happened before these events
        try:
            batch = self._make_batch(recording, columns)
        except (PluginError, SchemaError, pa.ArrowException) as error:
            recording.drop(columns, error)
            return
        count_missing_fields(recording.probe, batch.column("quality"))
        recording.deliver(batch, columns)

    def _make_batch(self, recording: Recording, columns: Columns) -> pa.RecordBatch:
        probe = recording.probe
        schema = recording.schema.agent
        decoded = self._plugins.decode(probe, columns)
        batch = assemble(columns, decoded, schema, self._boot_key)
        context = EnrichContext("agent", probe, self._node, publish=self._sink.publish)
        enriched = self._plugins.enrich(batch, context)
        texts = [text.name for text in recording.loaded.blocks.layout.texts]
        return conform(batch, enriched, schema, texts, columns.flags)

    def _decode_tracker(self, tracker: str, columns: Columns) -> Mapping[str, pa.Array]:
        return self._plugins.decode(tracker, columns)
