"""A connection to a ClickHouse server over HTTP."""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.exceptions import OperationalError

from infrasight_server.store.errors import CLAIMS_CHANGED
from infrasight_server.store.names import literal, quoted

for _name in ("clickhouse_connect", "urllib3"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # they also raise what they log

_CONNECT_SECONDS = 5
_ROW_FORMAT = "JSONCompact"
_INTEGER = re.compile(r"U?Int\d+")
# Without it, the server would buffer answers on its disk; on a full disk they are empty then.
_UNBUFFERED = {"wait_end_of_query": 0}
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
        """Runs a statement and returns its rows.

        Raises:
            ValueError: The answer is incomplete.
        """
        # A format that shows its end: an answer that is cut off must not look like fewer rows.
        answer = self._client.raw_query(
            sql, parameters=dict(parameters), settings={**settings, **_UNBUFFERED}, fmt=_ROW_FORMAT
        )
        parsed = json.loads(answer.decode("utf-8", "backslashreplace"))
        if len(parsed["data"]) != parsed["rows"]:
            raise ValueError(f"{len(parsed['data'])} of {parsed['rows']} rows")
        types = [_python_type(column["type"]) for column in parsed["meta"]]
        return [
            tuple(convert(value) for convert, value in zip(types, row, strict=True))
            for row in parsed["data"]
        ]

    def text(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> bytes:
        """Runs a statement and returns its only value, which is not empty.

        Raises:
            ClickHouseError: The answer is empty.
        """
        answer = self._client.raw_query(
            sql, parameters=dict(parameters), settings={**settings, **_UNBUFFERED}, fmt="RawBLOB"
        )
        if not answer:
            raise OperationalError("empty answer")
        return answer

    def insert(
        self,
        table: str,
        columns: Sequence[str],
        rows: pa.Table,
        statement_id: str,
        condition: str,
    ) -> None:
        """Inserts rows as one block, if an SQL condition holds; the table's name is quoted.

        Raises:
            ValueError: The store does not confirm the number of rows.
        """
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        names = ", ".join(map(quoted, columns))
        target = f"{table} ({names})"
        if condition:
            message = literal(CLAIMS_CHANGED)
            target += (
                f" SELECT {names} FROM input() WHERE throwIf(NOT ({condition}), {message}) = 0"
            )
        # A buffer, because the client would send bytes again by itself after a broken connection.
        summary = self._client.raw_insert(
            target,
            insert_block=sink.getvalue(),
            settings={"query_id": statement_id},
            fmt="ArrowStream",
        )
        if summary.written_rows < rows.num_rows:  # more, if it wrote to other tables as well
            raise ValueError(f"{summary.written_rows} of {rows.num_rows} rows are confirmed")

    def is_granted(self, right: str) -> bool:
        """Returns whether the user has a right, such as `INSERT ON database.*`."""
        answer = self._client.command(f"CHECK GRANT {right}")
        if answer not in (0, 1):
            raise ValueError(f"{answer!r} instead of 0 or 1")
        return bool(answer)

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


def _python_type(type_: str) -> Callable[[Any], Any]:
    """Returns what makes a value of a ClickHouse type; JSON may have large numbers as strings."""
    return int if _INTEGER.fullmatch(type_) else _unchanged


def _unchanged(value: Any) -> Any:
    return value
