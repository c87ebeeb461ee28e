"""A connection to the store's process."""

import os
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader
from typing import Any

import pyarrow as pa
from clickhouse_connect.driver.binding import bind_query

from infrasight_server.store.embedded import frames
from infrasight_server.store.embedded.process import marker
from infrasight_server.store.names import quoted

_BINARY = {"output_format_arrow_string_as_string": 0}
_BUFFER_BYTES = 1 << 20


class EmbeddedClient:
    """Runs one statement at a time; a `Client` for the store.

    Args:
        sock: A connection to the store's process.
        database: The database of tables that are named without one.
        seconds: How long it waits for the next part of an answer; None: until the process ends.

    Raises:
        AnswerError: By its methods: a statement fails, or the process does not answer.
    """

    def __init__(self, sock: socket.socket, database: str, seconds: float | None) -> None:
        sock.settimeout(seconds)
        self._sock = sock
        self._database = database

    def close(self) -> None:
        """Closes the connection, which ends its statement."""
        self._sock.close()

    def command(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Runs a statement without an answer."""
        self._run(sql, parameters, settings).read()

    def rows(
        self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        """Runs a statement and returns its rows."""
        answer = self._run(sql, parameters, {**_BINARY, **settings}).read()
        columns = pa.ipc.open_stream(answer).read_all().columns
        return list(zip(*(map(_text, column.to_pylist()) for column in columns), strict=True))

    def text(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> bytes:
        """Runs a statement and returns its only value."""
        return self._run(sql, parameters, settings, format="RawBLOB").read()

    def is_granted(self, right: str) -> bool:
        """Returns True: the embedded store has no users."""
        return True

    def insert(
        self,
        table: str,
        columns: Sequence[str],
        rows: pa.Table,
        statement_id: str,
        condition: str,
    ) -> None:
        """Inserts rows as one block; the table's name is quoted.

        No condition is possible: the embedded store has one server, which needs none.
        """
        if condition:
            raise NotImplementedError
        # The process maps the same memory, so the rows are written once and not sent.
        descriptor = os.memfd_create("rows", os.MFD_CLOEXEC)
        try:
            with (
                pa.PythonFile(os.fdopen(descriptor, "wb", buffering=0, closefd=False)) as file,
                pa.ipc.new_stream(file, rows.schema) as writer,
            ):
                writer.write_table(rows)
            names = ", ".join(map(quoted, columns))
            sql = f"INSERT INTO {table} ({names})"
            self._run(sql, {}, {}, statement_id, descriptor).read()
        finally:
            os.close(descriptor)

    @contextmanager
    def stream(
        self, sql: str, settings: Mapping[str, Any], statement_id: str
    ) -> Iterator[Iterator[pa.RecordBatchReader]]:
        """Runs a statement; yields its answer as streams of record batches with one schema."""
        answer = self._run(sql, {}, settings, statement_id, streams=True)
        yield _streams(BufferedReader(answer, _BUFFER_BYTES))

    @staticmethod
    def is_statement(statement_id: str) -> tuple[str, dict[str, str]]:
        """Returns a condition on `system.processes` and its parameters."""
        return "startsWith(query, {start:String})", {"start": marker(statement_id)}

    def _run(
        self,
        sql: str,
        parameters: Mapping[str, Any],
        settings: Mapping[str, Any],
        statement_id: str = "",
        descriptor: int | None = None,
        **options: Any,
    ) -> frames.Answer:
        text, bound = bind_query(sql, dict(parameters))
        request = {
            "sql": text,
            "id": statement_id or uuid.uuid4().hex,
            "settings": dict(settings),
            "parameters": {name.removeprefix("param_"): value for name, value in bound.items()},
            "database": self._database,
            **options,
        }
        frames.send_request(self._sock, request, descriptor)
        return frames.Answer(self._sock)


def _streams(answer: BufferedReader) -> Iterator[pa.RecordBatchReader]:
    while answer.peek(1):
        yield pa.ipc.open_stream(answer)


def _text(value: Any) -> Any:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
