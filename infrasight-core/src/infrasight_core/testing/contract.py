"""The contract of every probe, as tests to inherit: subclass `ProbeContract` and name the probe."""

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from infrasight.v1.stream_pb2 import Account, Container

from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.sink import Delivery, Sink
from infrasight_core.kernel.loader import LoadSettings, load, running_kernel
from infrasight_core.plugin import ddl
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.plugin.program import BpfProgram
from infrasight_core.plugin.schema import EventSchema, is_optional

_CONTAINER_COLUMNS = frozenset(
    {
        "container_id",
        "container_name",
        "container_image",
        "pod_name",
        "pod_namespace",
        "pod_container",
    }
)
# The core fills these columns; no block holds them.
_CORE_COLUMNS = _CONTAINER_COLUMNS | {"cpu", "sequence", "user", "group_name", "error"}
_EVENTS = 10


class _CountingSink(Sink):
    """Counts the rows that a recorder delivers, and the events that it drops."""

    def __init__(self) -> None:
        self.rows = 0
        self.own_rows = 0  # of this thread and its child processes, from `own_since` on
        self.own_since = 0  # nanoseconds since the epoch
        self.dropped_events: Counter[str] = Counter()  # by reason
        self._own_pid = os.getpid()
        self._own_tid = threading.get_native_id()

    def put(self, delivery: Delivery) -> bool:
        """Counts the rows of a batch."""
        batch = delivery.batch
        self.rows += batch.num_rows
        recent = pc.greater_equal(batch.column("time").cast(pa.int64()), self.own_since)
        of_thread = pc.equal(batch.column("tid"), self._own_tid)
        of_child = pc.equal(batch.column("ppid"), self._own_pid)
        own = pc.and_(recent, pc.or_(of_thread, of_child))
        self.own_rows += pc.sum(own).as_py() or 0
        return True

    def put_account(self, probe: str, account: Account) -> None:
        """Ignores an account: the contract compares the counters of the blocks."""

    def count_dropped(self, probe: str, reason: str, events: int) -> None:
        """Counts dropped events."""
        self.dropped_events[reason] += events

    def publish(self, containers: Sequence[Container]) -> None:
        """Ignores updates of containers."""


class ProbeContract:
    """The tests that every probe must pass. Those that load it need root and a kernel with BTF.

    A subclass sets `probe` and overrides `make_event`:

        class TestMkdir(ProbeContract):
            probe = "mkdir"

            def make_event(self) -> None:
                with tempfile.TemporaryDirectory():
                    pass

    Attributes:
        probe: The probe's entry-point name.
        options: The options to load the probe with.
        decoded: The agent columns that the probe's `decode` makes, so that no block holds them.
        unfilled: The agent columns that the probe leaves to enrichers or flags as `_missing`.
    """

    probe: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    decoded: ClassVar[frozenset[str]] = frozenset()
    unfilled: ClassVar[frozenset[str]] = frozenset()

    def make_event(self) -> None:
        """Performs one operation that the probe records; every subclass overrides this method.

        The calling thread or a direct child process performs it, it has ended when the method
        returns, and it gives at least one row. Whether the operation succeeds does not matter.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must override make_event() with a method that performs one "
            f"operation that the probe {self.probe!r} records"
        )

    @pytest.fixture
    def plugins(self) -> PluginManager:
        """A plugin manager with the probe and every installed enricher."""
        return PluginManager.discover([self.probe])

    @pytest.fixture
    def schema(self, plugins: PluginManager) -> EventSchema:
        """The probe's schema."""
        return plugins.schemas()[self.probe]

    @pytest.fixture
    def program(self, plugins: PluginManager) -> BpfProgram:
        """The probe's BPF program."""
        return plugins.load_bpf(self.probe, running_kernel(), self.options)

    def test_probe_is_discovered_by_its_name(self, plugins: PluginManager) -> None:
        """The entry point loads and implements `schema` and `load_bpf`; no plugin fails."""
        assert plugins.failures == {}
        assert self.probe in plugins.probes()

    def test_table_matches_message(self, schema: EventSchema) -> None:
        """The DDL creates `<probe>_events` with the message's columns, in order and type."""
        ddl.define_table(self.probe, schema)

    def test_own_texts_are_bytes(self, schema: EventSchema) -> None:
        """No column of the probe is a protobuf string: kernel strings may hold any byte."""
        own_fields = schema.message.DESCRIPTOR.fields[1:]
        strings = [field.name for field in own_fields if field.type == field.TYPE_STRING]
        assert strings == []

    def test_attached_functions_are_in_the_source(self, program: BpfProgram) -> None:
        """The C source, or a header of the probe, defines every function that is attached."""
        files = (program.source, *program.headers)
        source = "".join(file.read_text(encoding="utf-8") for file in files)
        attached = [name for point in program.attach for name in point.functions]
        assert [name for name in attached if f"int {name}(" not in source] == []

    def test_loaded_block_has_the_columns_of_the_message(
        self, schema: EventSchema, program: BpfProgram
    ) -> None:
        """The program loads without warnings; its block holds no other columns and lacks none."""
        loaded = load(self.probe, program, running_kernel(), LoadSettings())
        layout = loaded.blocks.layout
        loaded.close()
        assert loaded.warnings == ()
        in_block = {column.name for column in layout.fixed}
        in_block |= {column.name for column in layout.texts}
        assert in_block - set(schema.agent.names) == set()
        required = {field.name for field in schema.agent if not is_optional(field)}
        assert required - in_block - _CORE_COLUMNS - self.decoded - self.unfilled == set()

    def test_every_event_is_a_row_or_counted_as_dropped(self, plugins: PluginManager) -> None:
        """Of events that are made and of all others: rows and dropped events add up exactly."""
        sink = _CountingSink()
        recorder = Recorder(plugins, LoadSettings(), "contract", sink)
        recorder.attach(self.probe, self.options)
        recorder.start()
        sink.own_since = time.time_ns()
        try:
            for _ in range(_EVENTS):
                self.make_event()
        finally:
            counts = recorder.stop()[self.probe]
        assert recorder.failure is None
        assert sink.dropped_events["decode_failed"] == 0
        assert counts.seen >= _EVENTS, "the probe saw fewer events than make_event() made"
        assert counts.in_progress == 0
        assert counts.seen == counts.filtered + counts.dropped + counts.submitted
        assert sink.rows == counts.submitted == counts.read
        dropped = sink.dropped_events.total()
        assert dropped == counts.dropped
        assert sink.own_rows + dropped >= _EVENTS, "events of make_event() have no row"

    def test_unknown_option_is_rejected(self, plugins: PluginManager) -> None:
        """An error names an option that the probe does not have; the option is not ignored."""
        with pytest.raises(Exception, match="no_such_option"):
            plugins.load_bpf(self.probe, running_kernel(), {"no_such_option": 1})
