"""Both stores, fresh for every test: chDB in this process, and a real ClickHouse server over HTTP."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from infrasight_server.settings import ServerSettings
from infrasight_server.store.store import Store
from infrasight_testbed.clickhouse import ClickHouseServer


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A ClickHouse server for the whole run; tests use databases of their own."""
    server = ClickHouseServer(tmp_path_factory.mktemp("clickhouse")).start()
    yield server
    server.kill()


@pytest.fixture(params=["embedded", "clickhouse"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., ServerSettings]:
    """Makes settings of a server on free ports with a store of its own, once for each kind of store."""
    database = f"test_{uuid.uuid4().hex}"
    url = request.getfixturevalue("clickhouse").url if request.param == "clickhouse" else "embedded"

    def make(**settings: Any) -> ServerSettings:
        own = {
            "listen": "127.0.0.1:0",
            "status_listen": "127.0.0.1:0",
            "data": tmp_path,
            "store": url,
            "database": database,
        }
        return ServerSettings(**{**own, **settings})

    return make


@pytest.fixture
def store(config: Callable[..., ServerSettings]) -> Iterator[Store]:
    """An open, empty store."""
    opened = config().open_store()
    yield opened
    opened.close()
