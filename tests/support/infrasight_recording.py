"""Records with one probe under the running kernel, for tests and benchmarks: no server, no wire."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import infrasight_core.enrichers.containers
import infrasight_core.enrichers.errors
import infrasight_core.enrichers.users
import infrasight_testbed.nowhere
import pyarrow as pa
from attrs import define, field
from infrasight.v1.stream_pb2 import Account, Container
from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.sink import Delivery
from infrasight_core.kernel.block import Counts
from infrasight_core.kernel.filters import EVERYTHING, Filters
from infrasight_core.kernel.loader import LoadSettings
from infrasight_core.plugin.manager import PluginManager

CONTAINERS = {"containers": infrasight_core.enrichers.containers}


@define(slots=False)
class Recording:
    """What was recorded; complete once the `with` has ended.

    Attributes:
        deliveries: In order.
        accounts: Every account, in order.
        drops: Events that never came, by reason.
        counts: The blocks' last counters.
        recorder: What records.
    """

    deliveries: list[Delivery] = field(factory=list)
    accounts: list[Account] = field(factory=list)
    drops: dict[str, int] = field(factory=dict)
    counts: Counts = field(default=Counts(0, 0, 0, 0, 0, 0, 0))
    recorder: Recorder = field(init=False, repr=False)

    def put(self, delivery: Delivery) -> bool:
        """Keeps a delivery."""
        self.deliveries.append(delivery)
        if delivery.account:
            self.accounts.append(delivery.account)
        return True

    def account(self, probe: str, account: Account) -> None:
        """Keeps an account."""
        self.accounts.append(account)

    def dropped(self, probe: str, reason: str, events: int) -> None:
        """Adds up."""
        self.drops[reason] = self.drops.get(reason, 0) + events

    def containers(self, found: Sequence[Container]) -> None:
        """Keeps none."""

    def wait(self, probe: str) -> None:
        """Waits until all that has been recorded so far is delivered; for recordings that go on."""
        wanted = self.recorder.counts()[probe].submitted
        while self.recorder.counts()[probe].read < wanted:
            time.sleep(0.01)

    @property
    def table(self) -> pa.Table:
        """All events."""
        return pa.Table.from_batches([delivery.batch for delivery in self.deliveries])


def plugins_with(
    probe: str, module: object, enrichers: Mapping[str, object] = MappingProxyType({})
) -> PluginManager:
    """A manager with one probe, those of the core's enrichers that need no program in the kernel, and further ones."""
    plugins = PluginManager()
    for name, plugin in (
        (probe, module),
        ("nowhere", infrasight_testbed.nowhere),
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
        enrichers: Further enrichers, with what they track: `CONTAINERS`, or a test's own.
    """
    kept, plugins = sink or Recording(), plugins_with(probe, module, enrichers)
    recorder = kept.recorder = Recorder(plugins, LoadSettings(), "here", kept)
    assert recorder.trackers.use(plugins) == {}
    recorder.attach(probe, options or {}, filters)
    recorder.start()
    try:
        yield kept
    finally:
        kept.counts = recorder.stop()[probe]
        assert recorder.failure is None
