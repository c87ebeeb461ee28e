"""The contract that every probe keeps: subclass it, name the probe, get the tests."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest
from infrasight.v1.stream_pb2 import Account, Container

from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.sink import Delivery
from infrasight_core.kernel.loader import LoadSettings, load, running_kernel
from infrasight_core.plugin import ddl
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.plugin.program import BpfProgram
from infrasight_core.plugin.schema import EventSchema, is_optional

CONTAINER = {
    "container_id",
    "container_name",
    "container_image",
    "pod_name",
    "pod_namespace",
    "pod_container",
}
BY_CORE = frozenset(
    {"cpu", "sequence", "user", "group_name", "error", *CONTAINER}
)  # in no block; no probe has to fill them


class _Nowhere:
    def put(self, delivery: Delivery) -> bool:
        """Lets it go."""
        return True

    def account(self, probe: str, account: Account) -> None:
        """Lets it go."""

    def dropped(self, probe: str, reason: str, events: int) -> None:
        """Fails: nothing may be dropped in these tests."""
        raise AssertionError(f"{events} events of {probe} dropped: {reason}")

    def containers(self, found: Sequence[Container]) -> None:
        """Lets them go."""


class ProbeContract:
    """Tests of one probe; those that load it need root and a kernel with BTF.

    Attributes:
        probe: Its entry-point name.
        options: What to load it with.
        decoded: Agent columns that the block does not hold, because the probe's `decode` makes them.
        unfilled: Agent columns that the probe leaves to enrichers, or flagged `_missing`.
    """

    probe: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    decoded: ClassVar[frozenset[str]] = frozenset()
    unfilled: ClassVar[frozenset[str]] = frozenset()

    @pytest.fixture
    def plugins(self) -> PluginManager:
        """A manager with the probe and every enricher that is installed."""
        return PluginManager.discover([self.probe])

    @pytest.fixture
    def schema(self, plugins: PluginManager) -> EventSchema:
        """The probe's schema."""
        return plugins.schemas()[self.probe]

    @pytest.fixture
    def program(self, plugins: PluginManager) -> BpfProgram:
        """The probe's program."""
        return plugins.load_bpf(self.probe, running_kernel(), self.options)

    def test_it_is_found_by_its_name(self, plugins: PluginManager) -> None:
        """The entry point can be loaded, has schema and load_bpf, and nothing failed."""
        assert plugins.failures == {}
        assert self.probe in plugins.probes()

    def test_its_table_agrees_with_its_message(self, schema: EventSchema) -> None:
        """The DDL creates `<probe>_events` with the message's columns, in order, of fitting types."""
        ddl.check(self.probe, schema)

    def test_its_strings_are_bytes(self, schema: EventSchema) -> None:
        """What the kernel calls a string may hold any byte: the probe's own columns are bytes, not protobuf strings."""
        own = schema.message.DESCRIPTOR.fields[1:]
        assert [f.name for f in own if f.type == f.TYPE_STRING] == []

    def test_its_functions_are_in_its_source(self, program: BpfProgram) -> None:
        """Every function that is attached stands in the C source, or in a header of the probe's own."""
        source = "".join(
            file.read_text(encoding="utf-8") for file in (program.source, *program.headers)
        )
        assert [
            point.function for point in program.attach if f"int {point.function}(" not in source
        ] == []

    def test_it_loads_and_its_columns_are_those_of_its_message(
        self, schema: EventSchema, program: BpfProgram
    ) -> None:
        """The kernel takes it; each column of its block is one of the message's, and each of the message's is filled."""
        loaded = load(self.probe, program, running_kernel(), LoadSettings())
        layout = loaded.blocks.layout
        loaded.close()
        held = {column.name for column in layout.fixed} | {column.name for column in layout.texts}
        assert held - set(schema.agent.names) == set()
        wanted = {field.name for field in schema.agent if not is_optional(field)}
        assert wanted - held - BY_CORE - self.decoded - self.unfilled == set()

    def test_it_starts_and_stops_and_loses_nothing(self, plugins: PluginManager) -> None:
        """Attached, read and detached: what it has seen it has submitted, and that was read."""
        recorder = Recorder(plugins, LoadSettings(), "here", _Nowhere())
        recorder.attach(self.probe, self.options)
        recorder.start()
        counts = recorder.stop()[self.probe]
        assert recorder.failure is None
        assert counts.seen == counts.submitted == counts.read

    def test_an_unknown_option_is_refused(self, plugins: PluginManager) -> None:
        """An option that it does not know is named in the error, not ignored."""
        with pytest.raises(Exception, match="no_such_option"):
            plugins.load_bpf(self.probe, running_kernel(), {"no_such_option": 1})
