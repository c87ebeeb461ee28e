"""The recorder: one thread that reads the blocks of every probe and delivers batches that conform."""

import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

import pyarrow as pa
import structlog
from attrs import define, field, frozen
from prometheus_client import Counter, Histogram

from infrasight_core.agent.batches import Clock, assemble, conform, merge
from infrasight_core.arrays import recycle_memory
from infrasight_core.columns import Columns
from infrasight_core.context import EnrichContext
from infrasight_core.errors import ProbeError, SchemaError
from infrasight_core.kernel.block import Counts
from infrasight_core.kernel.load import LoadedProbe, LoadSettings, load, running_kernel
from infrasight_core.plugins import PluginManager
from infrasight_core.schema import EventSchema

log = structlog.get_logger(__name__)
SOONEST, LATEST = 0.005, 0.05  # seconds between two looks at the blocks
LINGER = 0.1  # seconds that the first event of a batch waits for others
BATCH_ROWS, BATCH_BYTES = 32768, 8 << 20
FILL = 0.25  # the share of a block that a look should find full

READ = Counter("infrasight_events_read", "Events taken from the blocks.", ["probe"])
BATCHES = Histogram("infrasight_batch_rows", "Rows of a delivered batch.", ["probe"], buckets=(1, 10, 100, 1000, 10000, 100000))


@frozen
class Delivery:
    """Conforming batches, sent and acknowledged as one, and what identifies it.

    Attributes:
        batch_id: Unique on the node for ever: when the probe was loaded, then the first event's CPU and slot number.
        probe: Whose events.
        schema: Of the probe.
        batches: The agent columns.
    """

    batch_id: str
    probe: str
    schema: EventSchema
    batches: list[pa.RecordBatch]

    @property
    def rows(self) -> int:
        """How many events."""
        return sum(batch.num_rows for batch in self.batches)


class Sink(Protocol):
    """Where the recorder's work goes; called by its thread, must not block."""

    def put(self, delivery: Delivery) -> None:
        """Takes a batch."""

    def dropped(self, probe: str, reason: str, events: int) -> None:
        """Takes the news of events that will never come."""


@define
class _Recording:
    loaded: LoadedProbe
    schema: EventSchema
    run: str
    waiting: list[pa.RecordBatch] = field(factory=list)
    rows: int = 0
    bytes: int = 0
    since: float = 0.0
    first: tuple[int, int] = (0, 0)
    counted: dict[str, int] = field(factory=dict)


class Recorder:
    """Loads probes and reads them until it is stopped.

    Args:
        plugins: Where the probes come from.
        settings: How they are loaded.
        node: The host's name.
        sink: Gets the batches.
    """

    def __init__(self, plugins: PluginManager, settings: LoadSettings, node: str, sink: Sink) -> None:
        self._plugins, self._settings, self._node, self._sink = plugins, settings, node, sink
        self._kernel, self._clock = running_kernel(), Clock.of_this_boot()
        self._recordings: dict[str, _Recording] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self.failure: BaseException | None = None

    def attach(self, probe: str, options: Mapping[str, Any]) -> None:
        """Loads a probe and begins to record it; the others go on. Raises ProbeError."""
        program = self._plugins.load_bpf(probe, self._kernel, options)
        schema = self._plugins.schemas()[probe]
        recording = _Recording(load(probe, program, self._kernel, self._settings), schema, f"{time.time_ns():x}")
        with self._lock:
            self._recordings[probe] = recording
        log.info("probe attached", probe=probe, slots=recording.loaded.blocks.layout.slots)

    def detach(self, probe: str) -> Counts:
        """Ends a probe; what it has recorded is delivered first. Returns its last counts."""
        with self._lock:
            recording = self._recordings.pop(probe)
            recording.loaded.detach()
            self._read(recording)
            self._flush(recording)
            counts = recording.loaded.blocks.counts()
            self._count_drops(recording, counts)
        recording.loaded.close()
        return counts

    def probes(self) -> list[str]:
        """The probes that are recording."""
        return sorted(self._recordings)

    def counts(self) -> dict[str, Counts]:
        """What each probe's blocks have counted."""
        with self._lock:
            return {name: r.loaded.blocks.counts() for name, r in self._recordings.items()}

    def start(self) -> None:
        """Begins to read."""
        recycle_memory()
        self._thread.start()

    def stop(self) -> dict[str, Counts]:
        """Detaches every probe, delivers what is left, ends the thread. Returns the last counts by probe."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        return {probe: self.detach(probe) for probe in self.probes()}

    def _run(self) -> None:
        pause = SOONEST
        try:
            while not self._stop.wait(pause):
                began = time.monotonic()
                with self._lock:
                    fill = max((self._look(recording, began) for recording in self._recordings.values()), default=0.0)
                # the fill grew in the time since the look before: the next look comes when it is about FILL
                pause = min(max(pause * FILL / fill, SOONEST), LATEST) if fill else LATEST
        except BaseException as error:
            self.failure = error
            log.exception("the recorder failed")
            raise

    def _look(self, recording: _Recording, now: float) -> float:
        """Reads what waits, delivers what is due; returns the share of the fullest block that was full."""
        blocks = recording.loaded.blocks
        fill = blocks.waiting() / blocks.layout.slots
        if fill:
            self._read(recording)
        due = recording.rows and now - recording.since >= LINGER - LATEST
        if due or recording.rows >= BATCH_ROWS or recording.bytes >= BATCH_BYTES:
            self._flush(recording)
        self._count_drops(recording, blocks.counts())
        return fill

    def _read(self, recording: _Recording) -> None:
        for columns in recording.loaded.blocks.slices():
            batch = self._assembled(recording, columns)
            if batch is None:
                continue
            if not recording.rows:
                recording.since, recording.first = time.monotonic(), (columns.cpu, columns.first)
            recording.waiting.append(batch)
            recording.rows += columns.rows
            recording.bytes += batch.nbytes

    def _assembled(self, recording: _Recording, columns: Columns) -> pa.RecordBatch | None:
        probe = recording.loaded.name
        READ.labels(probe).inc(columns.rows)
        try:
            decoded = self._plugins.decode(probe, columns)
            return assemble(columns, decoded, recording.schema.agent, self._clock)
        except (ProbeError, SchemaError, pa.ArrowException) as error:
            self._lost(probe, "decode", columns.rows, error)
            return None

    def _flush(self, recording: _Recording) -> None:
        if not recording.rows:
            return
        probe, rows = recording.loaded.name, recording.rows
        waiting, recording.waiting, recording.rows, recording.bytes = recording.waiting, [], 0, 0
        try:
            context = EnrichContext("agent", probe, self._node)
            schema, texts = recording.schema.agent, [text.name for text in recording.loaded.blocks.layout.texts]
            batches = [conform(b, self._plugins.enrich(b, context), schema, texts) for b in merge(waiting)]
        except (SchemaError, pa.ArrowException) as error:
            self._lost(probe, "enrich", rows, error)
            return
        BATCHES.labels(probe).observe(rows)
        cpu, first = recording.first
        self._sink.put(Delivery(f"{recording.run}-{cpu}-{first:x}", probe, recording.schema, batches))

    def _lost(self, probe: str, reason: str, rows: int, error: Exception) -> None:
        self._sink.dropped(probe, reason, rows)
        log.error("events dropped", probe=probe, reason=reason, events=rows, error=str(error))

    def _count_drops(self, recording: _Recording, counts: Counts) -> None:
        for reason in ("block_full", "heap_full"):
            dropped: int = getattr(counts, reason)
            if new := dropped - recording.counted.get(reason, 0):
                self._sink.dropped(recording.loaded.name, reason, new)
                recording.counted[reason] = dropped
