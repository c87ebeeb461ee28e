"""An operator's configuration of a node: parsed, merged into the agent's own settings, saved."""

import json
from pathlib import Path
from typing import Any

import pytest
from infrasight.v1.control_pb2 import Configuration, Package
from infrasight_core.agent.configuration import NodeConfiguration
from infrasight_core.agent.saved_configuration import SavedConfiguration
from infrasight_core.agent.settings import AgentSettings
from infrasight_core.errors import ConfigError
from infrasight_core.kernel.filters import Filters

CONFIGURATION = Configuration(
    digest="a",
    settings='{"probes": ["execve"]}',
    packages=[Package(name="x", version="1", hashes=["sha256:0"])],
)


def test_configuration_replaces_probes_and_each_plugins_options_and_filters() -> None:
    """Probes are the operator's alone; options and filters complete the agent's own."""
    own = AgentSettings(
        operator="localhost:1",
        probes=("chmod",),
        options={"users": {"etc": "/host/etc"}, "containers": {"wait": 1}},
        filters={
            "all": Filters(exclude_uid=(1,)),
            "open": Filters(include_uid=(2,), include_comm=("x",)),
        },
    )
    tables = '"options": {"containers": {}}, "filters": {"open": {"include_uid": [3]}}'
    message = Configuration(settings=f'{{"probes": ["open", "execve", "open"], {tables}}}')
    settings = NodeConfiguration.parse(message).merge_into(own)
    assert settings.probes == settings.enabled() == ("open", "execve")
    assert settings.options == {"users": {"etc": "/host/etc"}, "containers": {}}
    assert settings.filters_of("open") == Filters(exclude_uid=(1,), include_uid=(3,))
    assert settings.filters_of("execve") == Filters(exclude_uid=(1,))


def test_no_probes_means_all_without_an_operator_and_none_with_one() -> None:
    """An operator's empty list means that nothing is recorded."""
    configuration = NodeConfiguration.parse(Configuration(settings='{"probes": []}'))
    assert AgentSettings().enabled() is None
    assert configuration.merge_into(AgentSettings(operator="localhost:1")).enabled() == ()


def test_invalid_settings_of_one_plugin_are_set_apart() -> None:
    """Invalid options or filters fail for their plugin; the valid ones are parsed."""
    tables = '"options": {"a": [], "b": {"x": 1}}, "filters": {"b": {"include_uids": [1]}, "a": {}}'
    message = Configuration(settings=f'{{"probes": ["a", "b"], {tables}}}')
    configuration = NodeConfiguration.parse(message)
    assert configuration.probes == ("a", "b")
    assert configuration.options == {"b": {"x": 1}}
    assert configuration.filters == {"a": Filters()}
    hooks = {name: error.hook for name, error in configuration.invalid.items()}
    assert hooks == {"a": "options", "b": "filters"}
    assert "did you mean include_uid?" in configuration.invalid["b"].reason


@pytest.mark.parametrize(
    ("settings", "reported", "reason"),
    [
        ({"server": "x:1"}, "configuration", "unknown key 'server'"),
        ({"options": []}, "configuration", "options: expected a table"),
        ({"probes": ["a", 5]}, "configuration", "probes[1]: expected text"),
        ({"filters": {"all": {"exclude_uid": [-1]}}}, "all", "'all' is a reserved word"),
        ({"filters": {"b": {"include_comm": ["\ud800"]}}}, "b", "filters.b"),
        ({"options": {"none": {"x": 1}}}, "none", "'none' is a reserved word"),
        ({"probes": ["a", "any"]}, "any", "'any' is a reserved word"),
    ],
)
def test_invalid_part_of_a_configuration_is_left_out(
    settings: dict[str, Any], reported: str, reason: str
) -> None:
    """It is reported under its own name, and everything else is parsed."""
    table = {"probes": ["a"], "options": {"a": {"x": 1}}, **settings}
    configuration = NodeConfiguration.parse(Configuration(settings=json.dumps(table)))
    assert configuration.probes == ("a",)
    assert {name: reason in error.reason for name, error in configuration.invalid.items()} == {
        reported: True
    }
    assert configuration.filters == {}
    if "options" not in settings:
        assert configuration.options == {"a": {"x": 1}}


@pytest.mark.parametrize("levels", [32, 33, 400, 900])
@pytest.mark.parametrize("key", ["options", "filters"])
def test_deeply_nested_settings_of_a_plugin_are_left_out(key: str, levels: int) -> None:
    """Tables of many levels fail for their plugin, not with an error of Python."""
    nested: dict[str, Any] = {}
    for _ in range(levels - 1):
        nested = {"x": nested}
    table = {"probes": ["a", "b"], key: {"b": nested}}
    configuration = NodeConfiguration.parse(Configuration(settings=json.dumps(table)))
    assert configuration.probes == ("a", "b")
    is_allowed = key == "options" and levels <= 32
    assert ("b" in configuration.invalid) != is_allowed


def test_saved_configuration_is_read_back_and_private(tmp_path: Path) -> None:
    """An empty folder has none; the last one written is read, and only the owner may read it."""
    folder = tmp_path / "a/b"
    saved = SavedConfiguration(folder)
    assert saved.read() is None
    saved.write(Configuration(digest="before"))
    saved.write(CONFIGURATION)
    assert SavedConfiguration(folder).read() == CONFIGURATION
    assert [file.name for file in folder.iterdir()] == ["configuration.json"]
    assert (folder / "configuration.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text", ["", "{", '{"digest": 1}', '{"unknown": ""}', '["a"]', '{"settings": "\\ud800"}', "\0"]
)
def test_damaged_saved_configuration_is_named(tmp_path: Path, text: str) -> None:
    """The error names the file and the remedy."""
    (tmp_path / "configuration.json").write_text(text)
    with pytest.raises(
        ConfigError, match=r"configuration\.json: the saved configuration is damaged .*; remove"
    ):
        SavedConfiguration(tmp_path).read()


def test_saved_configuration_that_is_not_text_is_named(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are an error that names the file."""
    (tmp_path / "configuration.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot read the saved configuration"):
        SavedConfiguration(tmp_path).read()
