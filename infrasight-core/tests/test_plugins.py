"""The plugin manager calls each plugin separately and checks what it returns."""

from types import ModuleType
from typing import Any

import infrasight_probe_sample.plugin as sample
import numpy as np
import pyarrow as pa
import pytest
from infrasight_core import TAGS, Columns, EnrichContext, PluginError, hookimpl, numbers
from infrasight_core.errors import ConfigError, UnknownProbeError
from infrasight_core.kernel.loader import running_kernel
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.plugin.tags import entries_of_all_rows

CONTEXT = EnrichContext("agent", "sample", "here")
BATCH = pa.record_batch([numbers(np.zeros(2, np.uint32))], names=["uid"])
COLUMNS = Columns(2, np.zeros(2, np.uint32), np.arange(2, dtype=np.uint64), {})


def plugin(**hooks: Any) -> Any:
    """A plugin with these hooks."""
    module = ModuleType("plugin")
    module.__dict__.update(
        {name: hookimpl(function) for name, function in hooks.items()}, infrasight_api=1
    )
    return module


def manager(**plugins: object) -> PluginManager:
    """A manager with these plugins."""
    manager = PluginManager()
    for name, module in plugins.items():
        manager.register(name, module)
    return manager


def test_discovery_finds_installed_plugins() -> None:
    """The probe `execve` and the core's enrichers are found by their entry points."""
    found = PluginManager.discover()
    assert {"execve", "users", "errors"} <= found.plugins.keys()
    assert "execve" in found.probes()
    assert "users" not in found.probes()
    assert found.plugins["execve"].distribution.startswith("infrasight-probe-execve ")


def test_discovery_selects_probes_by_name() -> None:
    """`enable` selects probes and loads every enricher; `disable` leaves plugins out."""
    assert PluginManager.discover(["execve"]).plugins.keys() == {
        "execve",
        "users",
        "errors",
        "containers",
        "reverse_dns",
    }
    assert "execve" not in PluginManager.discover(disable=["execve"]).plugins
    assert "users" not in PluginManager.discover(disable=["users"]).plugins


@pytest.mark.parametrize("how", ["enable", "disable"])
def test_discovery_rejects_an_unknown_name(how: str) -> None:
    """The error lists the installed plugins."""
    with pytest.raises(UnknownProbeError, match=r"'exceve'.*installed: .*execve"):
        PluginManager.discover(**{how: ["exceve"]})


@pytest.mark.parametrize("api", [None, 0, 2])
def test_plugin_for_another_api_version_is_rejected_with_both_versions(api: int | None) -> None:
    """A plugin that is built for another plugin API, or declares none, is not called."""
    module = plugin(enrich=lambda batch, context: {})
    module.infrasight_api = api
    failure = manager(old=module).failures["old"]
    assert (failure.hook, "has 1" in failure.reason) == ("import", True)
    assert ("declares no" if api is None else f"API {api}") in failure.reason


def test_schema_hook_must_return_a_schema() -> None:
    """A plugin whose `schema` raises or returns something else fails alone."""

    def raises() -> object:
        raise ValueError("no schema today")

    plugins = manager(a=plugin(schema=raises), b=plugin(schema=lambda: 3), sample=sample)
    assert plugins.failures["a"].reason == "ValueError: no schema today"
    assert "int, not EventSchema" in plugins.failures["b"].reason
    assert plugins.probes() == ["sample"]


def test_load_bpf_hook_must_return_a_program() -> None:
    """Invalid options, and anything but a BpfProgram, are a PluginError."""
    plugins = manager(sample=sample, wrong=plugin(load_bpf=lambda kernel, options: None))
    assert plugins.load_bpf("sample", running_kernel(), {"slots": 128}).slots == 128
    with pytest.raises(PluginError, match=r"'sample': load_bpf: unknown key options\.sample\.x "):
        plugins.load_bpf("sample", running_kernel(), {"x": 1})
    with pytest.raises(PluginError, match="NoneType, not BpfProgram"):
        plugins.load_bpf("wrong", running_kernel(), {})


def test_options_are_rejected_where_a_plugin_declares_none() -> None:
    """A plugin without `infrasight_options` has no options: the core itself rejects any."""
    plugins = manager(plain=plugin(load_bpf=lambda kernel, options: None))
    plugins.check_options("plain", {})
    with pytest.raises(ConfigError, match=r"options\.plain\.x .*: no keys are allowed here"):
        plugins.check_options("plain", {"x": 1})
    with pytest.raises(PluginError, match=r"'plain': load_bpf: .*options\.plain\.x"):
        plugins.load_bpf("plain", running_kernel(), {"x": 1})


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (5, "int, not a mapping"),
        ({"path": numbers(np.zeros(3, np.uint8))}, "'path' is not an Arrow array of 2 rows"),
        ({"path": [1, 2]}, "'path' is not an Arrow array of 2 rows"),
    ],
)
def test_decode_hook_must_return_arrays_of_all_rows(returned: object, message: str) -> None:
    """Anything but Arrow arrays of the slice's length is a PluginError."""
    plugins = manager(p=plugin(decode=lambda columns: returned))
    with pytest.raises(PluginError, match=message):
        plugins.decode("p", COLUMNS)


def test_decode_hook_is_called_on_its_own_probe_only() -> None:
    """A probe without `decode` decodes nothing, even if another probe's would fail."""

    def fails(columns: Columns) -> object:
        raise AssertionError("called for another probe")

    assert manager(sample=sample, p=plugin(decode=fails)).decode("sample", COLUMNS) == {}


def test_enrich_hook_that_fails_adds_no_columns_and_the_others_do() -> None:
    """An enricher that raises or returns something else is left out."""

    def raises(batch: pa.RecordBatch, context: EnrichContext) -> object:
        raise OSError("the database is unavailable")

    plugins = manager(
        a=plugin(enrich=lambda batch, context: {"x": batch.column("uid")}),
        b=plugin(enrich=raises),
        c=plugin(enrich=lambda batch, context: [1]),
        d=plugin(enrich=lambda batch, context: None),
        e=plugin(
            enrich=lambda batch, context: (
                {"y": batch.column("uid")} if context.side == "agent" else {}
            )
        ),
    )
    assert plugins.enrich(BATCH, CONTEXT).keys() == {"x", "y"}


def test_tags_of_an_enricher_without_a_value_leave_the_others_entries() -> None:
    """A null makes the row null, so that `quality` flags it, but the other entries stay."""

    def gives(pairs: list[tuple[str, str]] | None) -> Any:
        return plugin(
            enrich=lambda batch, context: {"tags": pa.array([pairs] * batch.num_rows, TAGS)}
        )

    tags = manager(a=gives([("a", "1")]), b=gives(None), c=gives([("c", "1")])).enrich(
        BATCH, CONTEXT
    )["tags"]
    assert tags.null_count == BATCH.num_rows
    assert entries_of_all_rows(tags).to_pylist() == [[("a", "1"), ("c", "1")]] * BATCH.num_rows


def test_hook_with_wrong_arguments_is_rejected_when_it_is_loaded() -> None:
    """The failure names the argument, before the first call."""
    failure = manager(p=plugin(enrich=lambda rows: {})).failures["p"]
    assert "rows" in failure.reason
