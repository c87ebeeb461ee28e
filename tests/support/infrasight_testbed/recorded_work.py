"""Records the whole machine while work runs, and makes the rows that the server stores of it."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import pyarrow as pa
from attrs import field, mutable
from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.sink import Delivery
from infrasight_core.kernel.loader import LoadSettings
from infrasight_core.plugin.context import EnrichContext
from infrasight_core.plugin.manager import PluginManager
from infrasight_server.ingest.enrichment import Origin, enrich
from infrasight_server.ingest.validation import merge_events
from infrasight_server.limits import BatchLimits

from infrasight_testbed.compared_tracers import Nowhere

_LIMITS: Final = BatchLimits(max_batch_bytes=1 << 30, max_decoded_bytes=1 << 31, max_age_days=365)


@mutable(eq=False)
class RecordedWork(Nowhere):
    """What the probes recorded; complete once the `with` of `recorded_work` has ended.

    Attributes:
        plugins: The plugins that record.
        dropped: How many events were dropped, of all probes.
    """

    plugins: PluginManager
    dropped: int = 0
    _deliveries: list[tuple[int, Delivery]] = field(factory=list)

    def put(self, delivery: Delivery) -> bool:
        """Holds the batch and the time."""
        self._deliveries.append((time.time_ns(), delivery))
        return True

    def rows(self, probe: str) -> int:
        """Returns how many rows of a probe there are so far."""
        return sum(batch.num_rows for batch in self.batches(probe))

    def batches(self, probe: str) -> list[pa.RecordBatch]:
        """Returns a probe's batches so far, as its agent sends them."""
        return [delivery.batch for _, delivery in self._of(probe)]

    def stored_rows(self, probe: str) -> pa.Table:
        """Returns a probe's rows as the server inserts them: with all columns, in one piece."""
        schema = self.plugins.schemas()[probe]
        origins = []
        tables = []
        for received, delivery in self._of(probe):
            context = EnrichContext("server", probe, "here", delivery.batch_id, received)
            origins.append(Origin(context, delivery.batch.num_rows))
            tables.append(pa.Table.from_batches([delivery.batch]))
        merged = merge_events(tables, schema, _LIMITS)
        rows = enrich(merged, schema.stored, origins, self.plugins)
        return pa.Table.from_batches([rows])

    def _of(self, probe: str) -> list[tuple[int, Delivery]]:
        return [pair for pair in list(self._deliveries) if pair[1].probe == probe]


@contextmanager
def recorded_work(probes: Sequence[str]) -> Iterator[RecordedWork]:
    """Records with some probes, in this process, while the body runs."""
    work = RecordedWork(PluginManager.discover(probes))
    recorder = Recorder(work.plugins, LoadSettings(own_work=False), "here", work)
    for probe in probes:
        recorder.attach(probe, {})
    recorder.start()
    try:
        yield work
    finally:
        counts = recorder.stop()
        work.dropped = sum(counts[probe].dropped for probe in probes)
    assert recorder.failure is None


def repeat_until_recorded(
    work: RecordedWork, probe: str, rows: int, run: Callable[[], object]
) -> None:
    """Runs some work again and again until a probe has recorded so many rows."""
    while work.rows(probe) < rows:
        run()
