"""Both stores, empty for every test: chDB in this process, and a ClickHouse server over HTTP."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from infrasight_server.settings import ServerSettings
from infrasight_server.store.clickhouse import Store
from infrasight_testbed.clickhouse import ClickHouseServer


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A ClickHouse server for the whole run; each test uses its own databases."""
    server = ClickHouseServer(tmp_path_factory.mktemp("clickhouse")).start()
    yield server
    server.kill()


@pytest.fixture(params=["embedded", "clickhouse"])
def make_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., ServerSettings]:
    """Makes the settings of a server on free ports with an empty store of either kind."""
    database = f"test_{uuid.uuid4().hex}"
    is_embedded = request.param == "embedded"
    url = "embedded" if is_embedded else request.getfixturevalue("clickhouse").url
    defaults = {
        "listen": "127.0.0.1:0",
        "status_listen": "127.0.0.1:0",
        "data": tmp_path,
        "store": url,
        "database": database,
    }

    def make(**settings: Any) -> ServerSettings:
        return ServerSettings(**{**defaults, **settings})

    return make


@pytest.fixture
def store(make_settings: Callable[..., ServerSettings]) -> Iterator[Store]:
    """An open, empty store."""
    opened = make_settings().open_store()
    yield opened
    opened.close()
