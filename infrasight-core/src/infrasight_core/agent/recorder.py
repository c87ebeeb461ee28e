"""The recorder: one thread that reads the blocks of every probe and delivers batches that conform."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import structlog
from attrs import define, field
from prometheus_client import Counter, Histogram

from infrasight_core.agent.accounts import RunAccount, window_at
from infrasight_core.agent.batches import assemble, boot_key_of, conform
from infrasight_core.agent.quality_metrics import count_missing_fields
from infrasight_core.agent.sink import Delivery, Sink
from infrasight_core.agent.trackers import Trackers
from infrasight_core.errors import KernelError, PluginError, SchemaError
from infrasight_core.kernel.attach_points import tracepoints_of
from infrasight_core.kernel.block import Counts
from infrasight_core.kernel.filters import EVERYTHING, Filters
from infrasight_core.kernel.guard import Guard
from infrasight_core.kernel.loader import (
    LoadedProbe,
    LoadSettings,
    check_program,
    load,
    running_kernel,
)
from infrasight_core.plugin.arrays import recycle_memory
from infrasight_core.plugin.clock import boot_time_ns
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.plugin.schema import EventSchema

log = structlog.get_logger(__name__)
SOONEST, LATEST = 0.005, 0.05  # seconds between two looks at the blocks
LINGER = 0.1  # seconds that an event may wait in its block for others
FILL = 0.25  # the share of a block that is worth a batch
TELL = 5.0  # seconds after which an account goes by itself

READ = Counter("infrasight_events_read", "Events taken from the blocks.", ["probe"])
FILTERED = Counter(
    "infrasight_events_filtered",
    "Events that the filters, or being the agent's own, kept out.",
    ["probe"],
)
OPERATIONS_DROPPED = Counter(
    "infrasight_operations_dropped",
    "Operations that a probe wanted and could not see, by how they came.",
    ["way"],
)
BATCHES = Histogram(
    "infrasight_batch_rows",
    "Rows of a delivered batch.",
    ["probe"],
    buckets=(1, 10, 100, 1000, 10000, 100000),
)


@define
class _Recording:
    loaded: LoadedProbe
    schema: EventSchema
    account: RunAccount
    told: float = 0.0
    waiting_since: float | None = None
    left: float = 0.0
    counted: dict[str, int] = field(factory=dict)


class Recorder:
    """Loads probes and reads them until it is stopped.

    Args:
        plugins: Where the probes come from.
        settings: How they are loaded.
        node: The host's name.
        sink: Gets the batches.
    """

    def __init__(
        self, plugins: PluginManager, settings: LoadSettings, node: str, sink: Sink
    ) -> None:
        self._plugins, self._settings, self._node, self._sink = plugins, settings, node, sink
        self._kernel = running_kernel()
        self._boot_key = boot_key_of(boot_time_ns())
        self._guard = Guard(self._kernel, settings)
        self.trackers = Trackers(self._kernel, settings)
        self._recordings: dict[str, _Recording] = {}
        self._untraced: dict[str, int] = {}  # as last counted
        self._guard_account, self._guard_told = RunAccount(f"{time.time_ns():x}", time.time()), 0.0
        self._gone = 0  # requests that probes, detached since, had not seen
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self.failure: BaseException | None = None

    def use(self, plugins: PluginManager) -> None:
        """Takes the probes and enrichers from here from now on; it must have those that are recording."""
        with self._lock:
            self._plugins = plugins

    def check(
        self, plugins: PluginManager, probe: str, options: Mapping[str, Any], filters: Filters
    ) -> None:
        """Raises PluginError for what is known to be wrong before anything is loaded."""
        program = plugins.load_bpf(probe, self._kernel, options)
        try:
            check_program(program, filters)
        except KernelError as error:
            raise PluginError(probe, "load_bpf", str(error)) from error

    def attach(self, probe: str, options: Mapping[str, Any], filters: Filters = EVERYTHING) -> None:
        """Loads a probe and begins to record it; the others go on. Raises PluginError."""
        program = self._plugins.load_bpf(probe, self._kernel, options)
        schema = self._plugins.schemas()[probe]
        loaded = load(probe, program, self._kernel, self._settings, filters)
        try:
            self._guard.put(loaded, tracepoints_of(program))
        except KernelError as error:
            log.error("32-bit calls are not recorded", probe=probe, reason=str(error))
        now = time.time_ns()
        recording = _Recording(loaded, schema, RunAccount(f"{now:x}", now / 1e9))
        with self._lock:
            self._recordings[probe] = recording
        said = {"functions": list(loaded.functions)} if loaded.functions else {}
        log.info("probe attached", probe=probe, slots=loaded.blocks.layout.slots, **said)

    def detach(self, probe: str) -> Counts:
        """Ends a probe; what it has recorded is delivered first. Returns its last counts."""
        with self._lock:
            recording = self._recordings.pop(
                probe
            )  # from here on it is this thread's alone; the others are read on
        self._guard.remove(probe)
        recording.loaded.detach()
        self._at_rest(recording)
        self._take(recording)
        counts = recording.loaded.blocks.counts()
        self._count(recording, counts)
        self._tell(recording, ended=True)
        recording.loaded.close()
        with self._lock:
            self._gone += counts.untraced
        return counts

    def filter(self, probe: str, filters: Filters) -> None:
        """Changes which of a probe's events are recorded, while it records. Raises KernelError; then the old filters hold."""
        maps = self._recordings[probe].loaded.filter_maps
        if filters != maps.filters:
            maps.apply(filters)
            log.info("filters changed", probe=probe)

    def probes(self) -> list[str]:
        """The probes that are recording."""
        return sorted(self._recordings)

    def loaded(self, probe: str) -> LoadedProbe:
        """What runs of a probe that is recording."""
        return self._recordings[probe].loaded

    def counts(self) -> dict[str, Counts]:
        """What each probe's blocks have counted."""
        with self._lock:
            return {name: r.loaded.blocks.counts() for name, r in self._recordings.items()}

    def untraced(self) -> Mapping[str, int]:
        """How many operations a probe wanted and could not see, since the recorder began, by the way they came.

        `compat`: calls of the 32-bit ABI whose program could not be called; `x32`: calls of the x32 ABI, whichever they were;
        `io_uring`: requests that were submitted and whose end nothing told of.
        """
        with self._lock:
            requests = self._gone + sum(
                r.loaded.blocks.counts().untraced for r in self._recordings.values()
            )
        return {**self._guard.untraced(), "io_uring": requests}

    def start(self) -> None:
        """Begins to read."""
        recycle_memory()
        self._thread.start()

    def cpu_clock(self) -> int:
        """The clock of the CPU time that reading has taken, for `time.clock_gettime`; only once it has begun."""
        return time.pthread_getcpuclockid(self._thread.ident or 0)

    def stop(self) -> dict[str, Counts]:
        """Detaches every probe, delivers what is left, ends the thread. Returns the last counts by probe."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        counts = {probe: self.detach(probe) for probe in self.probes()}
        self.trackers.close()
        self._count_untraced(time.monotonic(), ended=True)
        return counts

    def _run(self) -> None:
        pause, looked = SOONEST, time.monotonic()
        try:
            while not self._stop.wait(pause):
                now, before = time.monotonic(), looked
                with self._lock:
                    due = min(
                        (self._look(r, now, now - before) for r in self._recordings.values()),
                        default=LATEST,
                    )
                self._count_untraced(now)
                pause, looked = (
                    SOONEST if self.trackers.drain() else min(max(due, SOONEST), LATEST),
                    now,
                )
        except BaseException as error:
            self.failure = error
            log.exception("the recorder failed")
            raise

    def _look(self, recording: _Recording, now: float, elapsed: float) -> float:
        """Takes what waits if it is much, or has waited long; returns in how many seconds it will be much again."""
        if recording.account.window != (window := window_at(time.time())):
            self._tell(recording)
            recording.account.open(window)
        fill = recording.loaded.blocks.fill_level()
        growth, recording.left = fill - recording.left, fill
        if fill and recording.waiting_since is None:
            recording.waiting_since = now
        if fill >= FILL or (
            recording.waiting_since is not None and now - recording.waiting_since >= LINGER - LATEST
        ):
            self._take(recording)
            recording.waiting_since, recording.left = None, 0.0
        elif now - recording.told >= TELL:
            self._tell(recording)
            recording.told = now
        self._count(recording, recording.loaded.blocks.counts())
        return (FILL - recording.left) * elapsed / growth if growth > 0 else LATEST

    def _take(self, recording: _Recording) -> None:
        """Takes what waits, makes a conforming batch of it and delivers that."""
        probe, schema, blocks = (
            recording.loaded.name,
            recording.schema.agent,
            recording.loaded.blocks,
        )
        columns = blocks.drain()
        if not columns.rows:
            return
        self.trackers.drain()  # what happened before these events is known when they are enriched
        READ.labels(probe).inc(columns.rows)
        BATCHES.labels(probe).observe(columns.rows)
        try:
            batch = assemble(columns, self._plugins.decode(probe, columns), schema, self._boot_key)
            extra = self._plugins.enrich(
                batch, EnrichContext("agent", probe, self._node, publish=self._sink.publish)
            )
            batch = conform(
                batch, extra, schema, [text.name for text in blocks.layout.texts], columns.flags
            )
        except (PluginError, SchemaError, pa.ArrowException) as error:
            self._lost(probe, "decode_failed", columns.rows, error)
            recording.account.decode_failed += columns.rows
            return
        count_missing_fields(probe, batch.column("quality"))
        account = recording.account
        batch_id = f"{account.run}-{account.window}-{columns.cpu[0]}-{columns.sequence[0]:x}"
        told = account.tell(blocks.counts(), recording.loaded.skipped_runs())
        if not self._sink.put(Delivery(batch_id, probe, recording.schema, batch, told)):
            account.outbox_full += columns.rows

    def _tell(self, recording: _Recording, ended: bool = False) -> None:
        """Sends the account by itself, if it says anything new."""
        loaded = recording.loaded
        if account := recording.account.tell(loaded.blocks.counts(), loaded.skipped_runs(), ended):
            self._sink.put_account(loaded.name, account)

    def _at_rest(self, recording: _Recording) -> None:
        """Waits until the last program that was at work when the probe was detached has ended: some microseconds."""
        deadline = time.monotonic() + LATEST
        while recording.loaded.blocks.counts().in_progress and time.monotonic() < deadline:
            time.sleep(0.001)

    def _lost(self, probe: str, reason: str, rows: int, error: Exception) -> None:
        self._sink.count_dropped(probe, reason, rows)
        log.error("events dropped", probe=probe, reason=reason, events=rows, error=str(error))

    def _count_untraced(self, now: float, ended: bool = False) -> None:
        """Counts what no probe saw, and tells of the guard's share in an account of its own."""
        untraced = self.untraced()
        for way, total in untraced.items():
            if new := total - self._untraced.get(way, 0):
                OPERATIONS_DROPPED.labels(way).inc(new)
            self._untraced[way] = total
        window, account = window_at(time.time()), self._guard_account
        if window != account.window or now - self._guard_told >= TELL or ended:
            counts = Counts(0, 0, 0, 0, 0, 0, 0, untraced["compat"] + untraced["x32"])
            if told := account.tell(counts, 0, ended):
                self._sink.put_account("guard", told)
            account.open(window)
            self._guard_told = now

    def _count(self, recording: _Recording, counts: Counts) -> None:
        probe = recording.loaded.name
        for reason in ("filtered", "block_full", "heap_full"):
            total: int = getattr(counts, reason)
            if new := total - recording.counted.get(reason, 0):
                if reason == "filtered":
                    FILTERED.labels(probe).inc(new)
                else:
                    self._sink.count_dropped(probe, reason, new)
                recording.counted[reason] = total
