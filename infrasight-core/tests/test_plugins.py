"""The plugin manager: typed calls, each plugin by itself."""

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
    made = PluginManager()
    for name, module in plugins.items():
        made.register(name, module)
    return made


def test_installed_plugins_are_found() -> None:
    """Discovery finds the execve probe and the core's enrichers by their entry points."""
    found = PluginManager.discover()
    assert {"execve", "users", "errors"} <= found.plugins.keys()
    assert "execve" in found.probes()
    assert "users" not in found.probes()
    assert found.plugins["execve"].distribution.startswith("infrasight-probe-execve ")


def test_probes_are_enabled_and_disabled_by_name() -> None:
    """`enable` leaves only those probes, and the enrichers; `disable` leaves out."""
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
def test_an_unknown_name_is_refused(how: str) -> None:
    """A name that no plugin has is an error that lists those that are there."""
    with pytest.raises(UnknownProbeError, match=r"'exceve'.*installed: .*execve"):
        PluginManager.discover(**{how: ["exceve"]})


@pytest.mark.parametrize("api", [None, 0, 2])
def test_another_api_version_is_refused_with_both_named(api: int | None) -> None:
    """A plugin that is built for another plugin API, or says none, is not called."""
    module = plugin(enrich=lambda batch, context: {})
    module.infrasight_api = api
    failure = manager(old=module).failures["old"]
    assert (failure.hook, "has 1" in failure.reason) == ("import", True)
    assert ("declares no" if api is None else f"API {api}") in failure.reason


def test_schema_hook_must_return_a_schema() -> None:
    """`schema` that raises or returns something else leaves the plugin out, named with the hook."""

    def raises() -> object:
        raise ValueError("no schema today")

    made = manager(a=plugin(schema=raises), b=plugin(schema=lambda: 3), sample=sample)
    assert made.failures["a"].reason == "ValueError: no schema today"
    assert "int, not EventSchema" in made.failures["b"].reason
    assert made.probes() == ["sample"]


def test_load_bpf_hook_gives_a_program() -> None:
    """`load_bpf` of one probe is called with the kernel and its options; what raises or is no program is a PluginError."""
    made = manager(sample=sample, wrong=plugin(load_bpf=lambda kernel, options: None))
    assert made.load_bpf("sample", running_kernel(), {"slots": 128}).slots == 128
    with pytest.raises(PluginError, match=r"'sample': load_bpf: unknown key options\.sample\.x "):
        made.load_bpf("sample", running_kernel(), {"x": 1})
    with pytest.raises(PluginError, match="NoneType, not BpfProgram"):
        made.load_bpf("wrong", running_kernel(), {})


def test_options_are_rejected_where_a_plugin_declares_none() -> None:
    """A plugin without `infrasight_options` has no options: the core itself rejects any."""
    plain = manager(plain=plugin(load_bpf=lambda kernel, options: None))
    plain.check_options("plain", {})
    with pytest.raises(ConfigError, match=r"options\.plain\.x .*: no keys are allowed here"):
        plain.check_options("plain", {"x": 1})
    with pytest.raises(PluginError, match=r"'plain': load_bpf: .*options\.plain\.x"):
        plain.load_bpf("plain", running_kernel(), {"x": 1})


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (5, "int, not a mapping"),
        ({"path": numbers(np.zeros(3, np.uint8))}, "'path' is not an Arrow array of 2 rows"),
        ({"path": [1, 2]}, "'path' is not an Arrow array of 2 rows"),
    ],
)
def test_decode_hook_must_return_arrays_of_all_rows(returned: object, said: str) -> None:
    """`decode` that returns anything but Arrow arrays of the slice's length is a PluginError that says what is wrong."""
    made = manager(p=plugin(decode=lambda columns: returned))
    with pytest.raises(PluginError, match=said):
        made.decode("p", COLUMNS)


def test_decode_hook_is_called_on_its_own_probe_only() -> None:
    """A probe without `decode` gives nothing, even where another has one that would fail."""

    def fails(columns: Columns) -> object:
        raise AssertionError("called for another probe")

    assert manager(sample=sample, p=plugin(decode=fails)).decode("sample", COLUMNS) == {}


def test_enrich_hook_of_every_plugin_is_called_and_a_failure_leaves_the_others() -> None:
    """Each enricher adds its columns; one that raises, or returns nonsense, adds none, and the rest are there."""

    def raises(batch: pa.RecordBatch, context: EnrichContext) -> object:
        raise OSError("the database is away")

    made = manager(
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
    assert made.enrich(BATCH, CONTEXT).keys() == {"x", "y"}


def test_tags_of_three_enrichers_stand_side_by_side_though_one_does_not_know() -> None:
    """A null of the one in the middle makes the row null, which its quality will say, and takes nothing from the others."""

    def gives(pairs: list[tuple[str, str]] | None) -> Any:
        return plugin(
            enrich=lambda batch, context: {"tags": pa.array([pairs] * batch.num_rows, TAGS)}
        )

    tags = manager(a=gives([("a", "1")]), b=gives(None), c=gives([("c", "1")])).enrich(
        BATCH, CONTEXT
    )["tags"]
    assert tags.null_count == BATCH.num_rows
    assert entries_of_all_rows(tags).to_pylist() == [[("a", "1"), ("c", "1")]] * BATCH.num_rows


def test_a_hook_with_wrong_arguments_is_refused_when_it_is_loaded() -> None:
    """An implementation whose arguments are not the specification's is named at once, not at its first call."""
    failure = manager(p=plugin(enrich=lambda rows: {})).failures["p"]
    assert "rows" in failure.reason
