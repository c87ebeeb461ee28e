"""Attacks of a local user on the files and folders of server and agent."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from infrasight.v1.control_pb2 import Configuration
from infrasight_core.agent.saved_configuration import SavedConfiguration
from infrasight_core.errors import ConfigError
from infrasight_testbed.local_user import USER, LocalUser, open_folder
from infrasight_testbed.system import System, execute, running_system, until

OUTSIDER = LocalUser()
READABLE = """
found = []
for parent, folders, files in os.walk(arguments):
    for name in files:
        try:
            with open(os.path.join(parent, name), "rb") as file:
                file.read(1)
        except OSError:
            continue
        found.append(name)
report(found)
"""
CONFIGURATION = Configuration(digest="of the operator")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can reach."""
    with open_folder() as created:
        yield created


@pytest.fixture
def state(folder: Path) -> Path:
    """The path of an agent's state folder, in a folder where everyone may write."""
    shared = folder / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    return shared / "state"


def store_an_event(system: System) -> None:
    """Stores an event whose arguments other users may not read."""
    agent = system.start_agent()
    execute("mark-secret", 1)
    until(lambda: len(system.rows("mark-secret")) == 1, "the event is stored")
    assert agent.stop() == 0


def readable_files(folder: Path) -> list[str]:
    """The files below a folder that another user can read."""
    return list(OUTSIDER.run("import os\n" + READABLE, str(folder)))


def test_data_directory_cannot_be_read_by_other_users(folder: Path) -> None:
    """Another user reads the rows in the embedded store's files; every file is closed to it."""
    with running_system(folder) as system:
        server = system.start_server()
        store_an_event(system)
        server.stop()
        assert [name for name in readable_files(folder) if not name.endswith(".log")] == []
        assert OUTSIDER.attempt("os.listdir(arguments)", str(folder / "store")) == "EACCES"


def test_store_of_an_older_version_is_closed_when_the_server_starts(folder: Path) -> None:
    """Another user reads a store whose modes an older version left wide; they are corrected."""
    store = folder / "store"
    store.mkdir()
    store.chmod(0o755)
    with running_system(folder) as system:
        server = system.start_server()
        assert OUTSIDER.attempt("os.listdir(arguments)", str(store)) == "EACCES"
        assert "mode corrected to 0700" in server.log()


def test_store_that_another_user_prepared_is_rejected(folder: Path) -> None:
    """A user creates the store's folder first, to own what is in it; the server does not start."""
    store = folder / "store"
    store.mkdir()
    os.chown(store, USER, USER)
    with running_system(folder) as system, pytest.raises(AssertionError) as ended:
        system.start_server()
    assert f"{store} belongs to user {USER}" in str(ended.value)
    assert list(store.iterdir()) == []


def test_link_in_place_of_the_store_is_not_followed(folder: Path) -> None:
    """A user plants a link as the store's folder; the server writes nothing where it leads."""
    target = folder / "target"
    target.mkdir()
    (folder / "store").symlink_to(target)
    with running_system(folder) as system, pytest.raises(AssertionError) as ended:
        system.start_server()
    assert f"cannot use {folder / 'store'} as a folder" in str(ended.value)
    assert list(target.iterdir()) == []


def test_saved_configuration_is_written_through_no_link(state: Path, folder: Path) -> None:
    """A user plants a link where root saves the configuration; the link's target is unchanged."""
    victim = folder / "victim"
    victim.write_text("precious")
    link = str(state / "configuration.json.new")
    plant = "os.mkdir(arguments[0]); os.symlink(arguments[1], arguments[2])"
    assert OUTSIDER.attempt(plant, [str(state), str(victim), link]) == "done"
    with pytest.raises(ConfigError, match=f"state: {state} belongs to user {USER}"):
        SavedConfiguration(state).write(CONFIGURATION)
    assert victim.read_text() == "precious"


def test_planted_configuration_is_not_used(state: Path) -> None:
    """A user plants a configuration that records nothing; the agent does not start with it."""
    plant = "os.mkdir(arguments); open(arguments + '/configuration.json', 'w').write('{}')"
    assert OUTSIDER.attempt(plant, str(state)) == "done"
    with pytest.raises(ConfigError, match=f"belongs to user {USER}"):
        SavedConfiguration(state).read()


def test_saved_configuration_cannot_be_read_by_other_users(state: Path) -> None:
    """A user reads the configuration, which may hold passwords; folder and file are closed."""
    state.mkdir()
    state.chmod(0o777)
    SavedConfiguration(state).write(CONFIGURATION)
    assert SavedConfiguration(state).read() == CONFIGURATION
    assert OUTSIDER.attempt("os.listdir(arguments)", str(state)) == "EACCES"
    path = str(state / "configuration.json")
    assert OUTSIDER.attempt("open(arguments)", path) == "EACCES"
