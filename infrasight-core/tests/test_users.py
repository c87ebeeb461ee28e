"""The enricher `users`: names from the host's files and from its name service."""

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from infrasight_core import ConfigError, EnrichContext, numbers
from infrasight_core.enrichers import users
from infrasight_core.enrichers.option_state import OptionState
from infrasight_core.plugin.manager import PluginManager
from infrasight_testbed.system import until

LDAP_ID = 3_999_999_999  # an id that no file names
UNKNOWN_ID = 3_999_999_998


def batch(*ids: int) -> pa.RecordBatch:
    """Returns events of these users, and of groups with the same ids."""
    return pa.record_batch([numbers(np.array(ids, np.uint32))] * 2, names=["uid", "gid"])


def enrich(etc: Path | None, *ids: int) -> dict[str, list[bytes | None]]:
    """Returns the columns that the enricher adds."""
    options = {"etc": str(etc)} if etc else {}
    context = EnrichContext("agent", "execve", "here", options=options)
    columns = users.enrich(batch(*ids), context)
    return {name: array.to_pylist() for name, array in columns.items()}


def test_names_come_from_the_folder_of_the_options(tmp_path: Path) -> None:
    """An id without a name is null, and so is every id if the file cannot be read."""
    (tmp_path / "passwd").write_bytes(b"h\xffst:x:0:0::\n")
    assert enrich(tmp_path, 0, 0, 77, 0) == {
        "user": [b"h\xffst", b"h\xffst", None, b"h\xffst"],
        "group_name": [None] * 4,
    }


def test_name_service_does_not_hold_up_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id that the files lack is null until the service answers, and then has its name."""
    may_answer = threading.Event()

    def slow_query(question: tuple[str, int]) -> bytes:
        may_answer.wait(60)
        return b"from-ldap" if question == ("user", LDAP_ID) else b""

    monkeypatch.setattr(users, "query_name_service", slow_query)
    state = OptionState("users", users.UserOptions, lambda options, _: users.NameResolver(options))
    monkeypatch.setattr(users, "_resolver", state)
    assert enrich(None, LDAP_ID, 0) == {"user": [None, b"root"], "group_name": [None, b"root"]}
    may_answer.set()
    until(lambda: enrich(None, LDAP_ID)["user"] != [None], "the name service has answered")
    named = {"user": [b"from-ldap", b"root"], "group_name": [None, b"root"]}
    assert enrich(None, LDAP_ID, 0) == named
    assert state.current is not None
    state.current.close()


def test_name_service_of_this_system_answers() -> None:
    """The real service names root, and has no name for an unused id."""
    assert users.query_name_service(("user", 0)) == b"root"
    assert users.query_name_service(("group", 0)) == b"root"
    assert users.query_name_service(("user", UNKNOWN_ID)) == b""
    assert users.query_name_service(("group", UNKNOWN_ID)) == b""


def test_invalid_options_are_rejected() -> None:
    """The error names the option and what is allowed."""
    plugins = PluginManager.discover([])
    with pytest.raises(ConfigError, match=r"unknown key options\.users\.ect .*: did you mean etc"):
        plugins.check_options("users", {"ect": "/host/etc"})
    with pytest.raises(ConfigError, match=r"options\.users\.etc = 5 \(.*\): expected a path"):
        plugins.check_options("users", {"etc": 5})
    plugins.check_options("users", {"etc": "/host/etc"})
