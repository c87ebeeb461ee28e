"""A node's configuration: read, laid over the agent's own settings, kept."""

from pathlib import Path

import pytest
from infrasight.v1.control_pb2 import Configuration, Package
from infrasight_core.agent.configuration import NodeConfiguration
from infrasight_core.agent.saved_configuration import SavedConfiguration
from infrasight_core.agent.settings import AgentSettings
from infrasight_core.errors import ConfigError
from infrasight_core.kernel.filters import Filters

KEPT = Configuration(
    digest="a",
    settings='{"probes": ["execve"]}',
    packages=[Package(name="x", version="1", hashes=["sha256:0"])],
)


def test_it_comes_over_the_agents_own_settings_by_plugin() -> None:
    """Probes are the configuration's alone; options and filters are its own where it has any, by plugin, else the agent's."""
    own = AgentSettings(
        operator="localhost:1",
        probes=("chmod",),
        options={"users": {"etc": "/host/etc"}, "containers": {"wait": 1}},
        filters={
            "all": Filters(exclude_uid=(1,)),
            "open": Filters(include_uid=(2,), include_comm=("x",)),
        },
    )
    given = '"options": {"containers": {}}, "filters": {"open": {"include_uid": [3]}}'
    message = Configuration(settings=f'{{"probes": ["open", "execve", "open"], {given}}}')
    settings = NodeConfiguration.parse(message).merge_into(own)
    assert settings.probes == settings.enabled() == ("open", "execve")
    assert settings.options == {"users": {"etc": "/host/etc"}, "containers": {}}
    assert settings.filters_of("open") == Filters(exclude_uid=(1,), include_uid=(3,))
    assert settings.filters_of("execve") == Filters(exclude_uid=(1,))


def test_no_probes_means_all_without_an_operator_and_none_with_one() -> None:
    """An empty list is a configuration's way to say: record nothing."""
    assert AgentSettings().enabled() is None
    assert (
        NodeConfiguration.parse(Configuration(settings="{}"))
        .merge_into(AgentSettings(operator="localhost:1"))
        .enabled()
        == ()
    )


def test_what_is_wrong_with_one_plugin_is_set_apart() -> None:
    """Wrong options or filters of a plugin are its own; the others' are there."""
    given = '"options": {"a": [], "b": {"x": 1}}, "filters": {"b": {"include_uids": [1]}, "a": {}}'
    read = NodeConfiguration.parse(Configuration(settings=f'{{"probes": ["a", "b"], {given}}}'))
    assert (read.probes, read.options, read.filters) == (
        ("a", "b"),
        {"b": {"x": 1}},
        {"a": Filters()},
    )
    assert {name: error.hook for name, error in read.invalid.items()} == {
        "a": "options",
        "b": "filters",
    }
    assert "did you mean include_uid?" in read.invalid["b"].reason


def test_what_was_kept_is_read_again(tmp_path: Path) -> None:
    """A folder without one has none; what was written last is read, whole; nobody else may read it."""
    kept = SavedConfiguration(tmp_path / "a/b")
    assert kept.read() is None
    kept.write(Configuration(digest="before"))
    kept.write(KEPT)
    assert SavedConfiguration(tmp_path / "a/b").read() == KEPT
    assert [file.name for file in (tmp_path / "a/b").iterdir()] == ["configuration.json"]
    assert (tmp_path / "a/b/configuration.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text", ["", "{", '{"digest": 1}', '{"unknown": ""}', '["a"]', '{"settings": "\\ud800"}', "\0"]
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    """The error names the file."""
    (tmp_path / "configuration.json").write_text(text)
    with pytest.raises(
        ConfigError, match=r"configuration\.json: the saved configuration is damaged"
    ):
        SavedConfiguration(tmp_path).read()


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    """Also where it is a folder, or bytes."""
    (tmp_path / "configuration.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot read the saved configuration"):
        SavedConfiguration(tmp_path).read()
