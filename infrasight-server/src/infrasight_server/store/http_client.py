"""A connection to a ClickHouse server over HTTP."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult

import clickhouse_connect
import pyarrow as pa

for _name in ("clickhouse_connect", "urllib3"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # they also raise what they log

_CONNECT_SECONDS = 5
_QUERY_SETTINGS = {
    "wait_end_of_query": 1,  # report a late failure instead of breaking the connection
    "cancel_http_readonly_queries_on_client_close": 1,
}


class HttpClient:
    """A `Client` for the store.

    Args:
        url: The server's address, with a scheme and a host.
        user: The ClickHouse user.
        password: The user's password.
        database: The database of tables that are named without one; None for the user's own.
        seconds: How long it waits for an answer.

    Raises:
        ClickHouseError: By its methods too: the server does not answer or rejects the statement.
    """

    def __init__(
        self, url: SplitResult, user: str, password: str, database: str | None, seconds: float
    ) -> None:
        self._client = clickhouse_connect.get_client(
            interface=url.scheme,
            host=url.hostname,
            port=url.port or (8443 if url.scheme == "https" else 8123),
            username=user,
            password=password,
            database=database,
            connect_timeout=_CONNECT_SECONDS,
            send_receive_timeout=int(seconds),
            autogenerate_session_id=False,  # a session runs one statement at a time
        )

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def command(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Runs a statement without an answer."""
        self._client.command(sql, parameters=dict(parameters), settings=dict(settings))

    def rows(
        self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        """Runs a statement and returns its rows."""
        answer = self._client.query(sql, parameters=dict(parameters), settings=dict(settings))
        return [tuple(row) for row in answer.result_rows]

    def text(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> bytes:
        """Runs a statement and returns its only value."""
        return self._client.raw_query(
            sql, parameters=dict(parameters), settings=dict(settings), fmt="RawBLOB"
        )

    def insert(self, table: str, columns: Sequence[str], rows: pa.Table, statement_id: str) -> None:
        """Inserts rows as one block; the table's name is quoted."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        # A buffer, because the client would send bytes again by itself after a broken connection.
        self._client.raw_insert(
            table, columns, sink.getvalue(), settings={"query_id": statement_id}, fmt="ArrowStream"
        )

    @contextmanager
    def stream(
        self, sql: str, settings: Mapping[str, Any], statement_id: str
    ) -> Iterator[Iterator[pa.RecordBatchReader]]:
        """Runs a statement; yields its answer as one stream of record batches."""
        own_settings = {**settings, **_QUERY_SETTINGS, "query_id": statement_id}
        answer: Any = self._client.raw_stream(sql, settings=own_settings, fmt="ArrowStream")
        try:
            yield iter([pa.ipc.open_stream(answer)])
        finally:
            answer.close()

    @staticmethod
    def is_statement(statement_id: str) -> tuple[str, dict[str, str]]:
        """Returns a condition on `system.processes` and its parameters."""
        return "query_id = {id:String}", {"id": statement_id}
