"""Records with one probe on the running kernel, for tests and benchmarks: no server, no wire."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import infrasight_core.enrichers.containers
import infrasight_core.enrichers.errors
import infrasight_core.enrichers.users
import infrasight_testbed.no_container
import pyarrow as pa
import pyarrow.compute as pc
from attrs import define, field
from infrasight.v1.stream_pb2 import Account, Container
from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.reload import attach_all
from infrasight_core.agent.settings import ProbeSettings
from infrasight_core.agent.sink import Delivery, Sink
from infrasight_core.kernel.block import Counts
from infrasight_core.kernel.filters import EVERYTHING, Filters
from infrasight_core.kernel.loader import LoadSettings
from infrasight_core.plugin.manager import PluginManager

CONTAINERS = {"containers": infrasight_core.enrichers.containers}
_POLL_SECONDS = 0.01


@define(slots=False)
class Recording(Sink):
    """A sink that holds what is recorded; it is complete once the `with` of `recording` has ended.

    Attributes:
        deliveries: The batches, in order, since the beginning or the last `clear`.
        accounts: Every account, in order.
        drops: Dropped events by reason.
        rows_delivered: The number of rows since the beginning.
        counts: The blocks' last counters.
        recorder: The recorder that fills this sink.
    """

    deliveries: list[Delivery] = field(factory=list)
    accounts: list[Account] = field(factory=list)
    drops: dict[str, int] = field(factory=dict)
    rows_delivered: int = 0
    counts: Counts = field(default=Counts(0, 0, 0, 0, 0, 0, 0))
    recorder: Recorder = field(init=False, repr=False)

    def put(self, delivery: Delivery) -> bool:
        """Stores a delivery."""
        self.deliveries.append(delivery)
        self.rows_delivered += delivery.batch.num_rows
        if delivery.account:
            self.accounts.append(delivery.account)
        return True

    def put_account(self, probe: str, account: Account) -> None:
        """Stores an account."""
        self.accounts.append(account)

    def count_dropped(self, probe: str, reason: str, events: int) -> None:
        """Adds up dropped events."""
        self.drops[reason] = self.drops.get(reason, 0) + events

    def publish(self, containers: Sequence[Container]) -> None:
        """Ignores containers: the rows carry their columns."""

    def clear(self) -> None:
        """Discards the deliveries so far, so that a long recording stays small."""
        self.deliveries = []

    def wait(self, probe: str) -> None:
        """Waits until every event recorded so far is delivered; for recordings that continue."""
        submitted = self.recorder.counts()[probe].submitted
        while self.recorder.counts()[probe].read < submitted:
            time.sleep(_POLL_SECONDS)

    @property
    def table(self) -> pa.Table:
        """All events since the last `clear`; without columns if there was none."""
        if not self.deliveries:
            return pa.table({})
        return pa.Table.from_batches([delivery.batch for delivery in self.deliveries])

    def rows_of(self, pid: int) -> list[dict[str, Any]]:
        """The rows of one process, in order of time."""
        rows: list[dict[str, Any]] = []
        for delivery in list(self.deliveries):
            rows += delivery.batch.filter(pc.equal(delivery.batch["pid"], pid)).to_pylist()
        return sorted(rows, key=lambda row: row["time"])

    def assert_accounted(self) -> None:
        """Asserts that every event of an ended recording was filtered, dropped or delivered."""
        counts = self.counts
        assert counts.in_progress == 0
        assert counts.submitted == counts.read == self.rows_delivered
        assert counts.dropped == sum(self.drops.values())


def plugins_with(
    probe: str, module: object, enrichers: Mapping[str, object] = MappingProxyType({})
) -> PluginManager:
    """Makes a manager with one probe, further enrichers, and the core's own without a program."""
    plugins = PluginManager()
    for name, plugin in (
        (probe, module),
        ("no_container", infrasight_testbed.no_container),
        *enrichers.items(),
        ("users", infrasight_core.enrichers.users),
        ("errors", infrasight_core.enrichers.errors),
    ):
        plugins.register(name, plugin)
    assert not plugins.failures
    return plugins


@contextmanager
def recording(
    probe: str,
    module: object,
    options: Mapping[str, Any] | None = None,
    sink: Recording | None = None,
    filters: Filters = EVERYTHING,
    enrichers: Mapping[str, object] = MappingProxyType({}),
) -> Iterator[Recording]:
    """Records while the body runs.

    Args:
        probe: The probe's name.
        module: Its plugin.
        options: Its options.
        sink: Where the events go; a new one by default.
        filters: Which events are recorded.
        enrichers: Further enrichers and what they track: `CONTAINERS`, or a test's own.
    """
    recorded = sink or Recording()
    plugins = plugins_with(probe, module, enrichers)
    recorder = Recorder(plugins, LoadSettings(), "here", recorded)
    recorded.recorder = recorder
    assert attach_all(recorder, {probe: ProbeSettings(options or {}, filters)}) == {}
    recorder.start()
    try:
        yield recorded
    finally:
        recorded.counts = recorder.stop()[probe]
        assert recorder.failure is None
