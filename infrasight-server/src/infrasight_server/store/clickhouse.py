"""The ClickHouse client: for a server by URL, or for chDB embedded in this process.

All methods block: call them from worker threads. Two kinds of connections exist: those of the
server's own statements, and those of users' queries, which are opened in ClickHouse's read-only
mode and cannot leave it.
"""

import fcntl
import logging
import re
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import pyarrow as pa
from infrasight_core.errors import ConfigError, QueryError, StoreError
from infrasight_core.plugin.schema import IP_ADDRESS, IP_ADDRESS_MARK
from urllib3.exceptions import HTTPError

from infrasight_server.store.connections import Connections
from infrasight_server.store.errors import one_line, query_errors, store_errors
from infrasight_server.store.query_limits import QueryLimits

for _name in ("clickhouse_connect", "urllib3"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # they also raise what they log

_QUERY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ADDRESS_TYPE = re.compile(r"((Array|LowCardinality|Nullable)\()*IPv6\)*")


class Store:
    """An open store.

    Args:
        connect: Opens a client with the given settings; raises ClickHouseError.
        database: The database of all tables; created if it does not exist.
        query_seconds: The longest time that a user's query may run.
        query_bytes: The largest size of its answer.
        user: The user whom the dictionary of containers reads its table as.
        password: That user's password.

    Raises:
        StoreError: The store cannot be opened.
    """

    def __init__(
        self,
        connect: Callable[..., Any],
        database: str,
        query_seconds: float,
        query_bytes: int,
        user: str = "default",
        password: str = "",
    ) -> None:
        self.database = database
        self.user = user
        self.password = password
        self.default_limits = QueryLimits(seconds=query_seconds, bytes=query_bytes)
        with store_errors():
            client = connect(settings={})
            client.command(f"CREATE DATABASE IF NOT EXISTS {_quoted(database)}", use_database=False)
            client.close()
        self._connect = connect
        self._own_connections = Connections(lambda: connect(database=database, settings={}))
        self._query_connections = Connections(
            lambda: connect(database=database, settings=_query_settings(self.default_limits))
        )

    @classmethod
    def embedded(
        cls, folder: Path, database: str, query_seconds: float = 60, query_bytes: int = 1 << 30
    ) -> "Store":
        """Opens chDB with its data in a folder, which only one process at a time may use.

        Args:
            folder: The folder; created if it does not exist.
            database: See `Store`.
            query_seconds: See `Store`.
            query_bytes: See `Store`.

        Raises:
            StoreError: The folder is not writable, or another process uses it.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            trial = folder / f".{uuid.uuid4().hex}"
            trial.touch()
            trial.unlink()
        except OSError as error:
            raise StoreError(
                f"data directory {folder} is not writable: {error.strerror}; "
                "choose another one with --data, or change its owner"
            ) from error
        if _is_in_use(folder):
            raise StoreError(
                f"data directory {folder} is in use by another infrasight-server; "
                "choose another one with --data"
            )

        def connect(**arguments: Any) -> Any:
            return clickhouse_connect.get_client(interface="chdb", path=str(folder), **arguments)

        try:
            return cls(connect, database, query_seconds, query_bytes)
        except StoreError as error:
            raise StoreError(f"cannot open the embedded store in {folder}: {error}") from error

    @classmethod
    def at(
        cls,
        url: str,
        database: str,
        password: str = "",
        query_seconds: float = 60,
        query_bytes: int = 1 << 30,
    ) -> "Store":
        """Connects to a ClickHouse server.

        Args:
            url: `http://user@host:8123/` or `https://user@host:8443/`, without a password.
            database: See `Store`.
            password: The user's password.
            query_seconds: See `Store`.
            query_bytes: See `Store`.

        Raises:
            ConfigError: The URL is malformed or contains a password.
            StoreError: The server does not answer or rejects the user.
        """
        parts = urlsplit(url)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname)
        if not is_http or parts.password is not None:
            raise ConfigError(
                "store: must be `embedded` or http[s]://user@host:port/; "
                "the password belongs in store_password"
            )
        user = parts.username or "default"
        default_port = 8443 if parts.scheme == "https" else 8123

        def connect(**arguments: Any) -> Any:
            return clickhouse_connect.get_client(
                interface=parts.scheme,
                host=parts.hostname,
                port=parts.port or default_port,
                username=user,
                password=password,
                connect_timeout=5,
                send_receive_timeout=60,
                autogenerate_session_id=False,  # a session runs one statement at a time
                **arguments,
            )

        try:
            return cls(connect, database, query_seconds, query_bytes, user, password)
        except StoreError as error:
            raise StoreError(f"cannot use the ClickHouse server at {url}: {error}") from error

    def close(self) -> None:
        """Closes every connection that is not in use."""
        self._own_connections.close()
        self._query_connections.close()

    def insert(self, table: str, rows: pa.Table, insert_id: str) -> None:
        """Inserts rows as one block.

        Args:
            table: The table's name.
            rows: The rows, with the table's column names.
            insert_id: Identifies this attempt to `is_running`.

        Raises:
            StoreUnavailableError: The store did not confirm the insert; it may have the rows.
            StoreError: The store rejects the rows; a retry fails again.
        """
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        # A buffer, because the client would send bytes again by itself after a broken connection.
        with store_errors(), self._own_connections.acquire() as client:
            client.raw_insert(
                _quoted(table),
                rows.schema.names,
                sink.getvalue(),
                settings={"query_id": insert_id},
                fmt="ArrowStream",
            )

    def is_running(self, insert_id: str) -> bool:
        """Returns whether the store still runs an insert whose connection was lost.

        Raises:
            StoreUnavailableError: The store does not answer.
        """
        sql = "SELECT count() FROM system.processes WHERE query_id = {id:String}"
        return bool(self._rows(sql, {"id": insert_id})[0][0])

    def stored_rows(
        self, table: str, nodes: Collection[str], batches: Collection[str]
    ) -> dict[tuple[str, str], int]:
        """Counts the stored rows of some batches, by node and batch id.

        Raises:
            StoreError: The store rejects the query.
            StoreUnavailableError: The store does not answer.
        """
        sql = (
            f"SELECT node, batch_id, count() FROM {_quoted(table)} "
            "WHERE node IN {nodes:Array(String)} AND batch_id IN {batches:Array(String)} "
            "GROUP BY node, batch_id"
        )
        parameters = {"nodes": list(nodes), "batches": list(batches)}
        return {(node, batch): rows for node, batch, rows in self._rows(sql, parameters)}

    def delete_batch(self, table: str, node: str, batch: str) -> None:
        """Deletes the rows of a batch that was inserted in part.

        Raises:
            StoreError: The store rejects the statement.
            StoreUnavailableError: The store does not answer.
        """
        condition = "node = {node:String} AND batch_id = {batch:String}"
        self.command(
            f"DELETE FROM {_quoted(table)} WHERE {condition}", {"node": node, "batch": batch}
        )

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Runs a statement that returns no rows.

        Raises:
            StoreError: The store rejects the statement.
            StoreUnavailableError: The store does not answer.
        """
        with store_errors(), self._own_connections.acquire() as client:
            client.command(sql, parameters=dict(parameters or {}))

    def columns(self, table: str) -> dict[str, str]:
        """Returns the types of a table's columns by name, in order; empty for a missing table.

        Raises like `command`.
        """
        sql = (
            "SELECT name, type FROM system.columns "
            "WHERE database = {database:String} AND table = {table:String} ORDER BY position"
        )
        return dict(self._rows(sql, {"database": self.database, "table": table}))

    def aliases(self, table: str) -> dict[str, str]:
        """Returns the expressions of a table's ALIAS columns by name. Raises like `command`."""
        sql = (
            "SELECT name, default_expression FROM system.columns "
            "WHERE database = {database:String} AND table = {table:String} "
            "AND default_kind = 'ALIAS'"
        )
        return dict(self._rows(sql, {"database": self.database, "table": table}))

    def canonical(self, expression: str) -> str:
        """Returns an expression in the spelling of `aliases`. Raises like `command`."""
        sql = "SELECT formatQuerySingleLine({sql:String})"
        (row,) = self._rows(sql, {"sql": f"SELECT {expression}"})
        return str(row[0]).removeprefix("SELECT ")

    def create_statement(self, table: str) -> str:
        """Returns the answer of `SHOW CREATE TABLE`. Raises like `command`."""
        return str(self._rows(f"SHOW CREATE TABLE {_quoted(table)}", {})[0][0])

    def set_ttl(self, table: str, days: int | None) -> None:
        """Sets after how many days the store deletes a row, from its `time`; None: never.

        Raises like `command`.
        """
        if days is not None:
            # The setting avoids a rewrite of the table: expired parts are dropped as they are.
            self.command(
                f"ALTER TABLE {_quoted(table)} MODIFY TTL toDateTime(time) + INTERVAL {days} DAY "
                "SETTINGS materialize_ttl_after_modify = 0"
            )
        elif "\nTTL " in self.create_statement(table):
            self.command(f"ALTER TABLE {_quoted(table)} REMOVE TTL")

    @staticmethod
    def literal(text: str) -> str:
        """Returns a text as an SQL string literal."""
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    def functions(self) -> frozenset[str]:
        """Returns the names of all functions that an expression can have. Raises like `command`."""
        return frozenset(name for (name,) in self._rows("SELECT name FROM system.functions", {}))

    def databases(self) -> frozenset[str]:
        """Returns the names of all databases. Raises like `command`."""
        return frozenset(name for (name,) in self._rows("SELECT name FROM system.databases", {}))

    def ping(self) -> None:
        """Checks that the store answers. Raises StoreUnavailableError."""
        self._rows("SELECT 1", {})

    def _rows(self, sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        with store_errors(), self._own_connections.acquire() as client:
            return list(client.query(sql, parameters=dict(parameters)).result_rows)

    def formatted(self, sql: str) -> str:
        """Returns a statement as ClickHouse's parser reads it, in canonical form without comments.

        It is one line, because indentation would make deeply nested statements much longer.

        Raises:
            QueryError: The text is not one statement of ClickHouse SQL.
            StoreUnavailableError: The store does not answer.
        """
        with query_errors(), self._query_connections.acquire() as client:
            text: bytes = client.raw_query(
                "SELECT formatQuerySingleLine({sql:String})", parameters={"sql": sql}, fmt="RawBLOB"
            )
            # A byte that is not UTF-8 stays the escape that the statement wrote: \xNN.
            return text.decode("utf-8", "backslashreplace")

    def query(
        self, sql: str, limits: QueryLimits | None = None, query_id: str = ""
    ) -> Iterator[pa.RecordBatch]:
        """Runs a read-only statement and yields its answer in pieces, beginning with an empty one.

        Strings are binary columns; IPv6 addresses are 16 bytes, and their field has the mark
        `schema.IP_ADDRESS_MARK`. The connection is read-only, so the store rejects every write.

        Args:
            sql: The statement.
            limits: What it may use; None: `default_limits`.
            query_id: Identifies the query to `cancel`: letters, digits, `-` and `_`; unique.

        Raises:
            QueryError: The store rejects the statement or fails to run it, also in a later piece.
            StoreUnavailableError: The store does not answer.
        """
        query_id = query_id or uuid.uuid4().hex
        with query_errors(), self._reader(limits or self.default_limits) as client:
            statement = f"/* {_marker(query_id)} */ {sql}"
            answer = client.raw_stream(statement, fmt="ArrowStream")
            try:
                with pa.ipc.open_stream(answer) as reader:
                    schema = self._marked(reader.schema, sql)
                    yield pa.RecordBatch.from_pylist([], schema)
                    for batch in reader:
                        yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)
            except (pa.ArrowException, OSError, HTTPError) as error:
                raise QueryError(
                    f"the answer was cut off: {one_line(error)}; repeat the query"
                ) from error
            finally:
                answer.close()

    def cancel(self, query_id: str) -> None:
        """Ends a running query; does nothing when it is not running.

        The query raises a QueryError. Until the store has ended it, it may still use resources.

        Raises:
            StoreUnavailableError: The store does not answer.
        """
        self.command(
            "KILL QUERY WHERE startsWith(query, {start:String}) ASYNC",
            {"start": f"/* {_marker(query_id)} */"},
        )

    @contextmanager
    def _reader(self, limits: QueryLimits) -> Iterator[Any]:
        """Yields a read-only client for one query."""
        client = self._connect(database=self.database, settings=_query_settings(limits))
        try:
            yield client
        finally:
            client.close()

    def _marked(self, schema: pa.Schema, sql: str) -> pa.Schema:
        """Marks an answer's address columns; Arrow has one type for IPv6 and FixedString(16)."""
        if not any(_may_hold_addresses(field.type) for field in schema):
            return schema
        with query_errors(), self._query_connections.acquire() as client:
            types = client.query(f"DESCRIBE TABLE ({sql})").result_columns[1]
        marks = [IP_ADDRESS_MARK if _ADDRESS_TYPE.fullmatch(type_) else None for type_ in types]
        return pa.schema(
            field.with_metadata(mark) for field, mark in zip(schema, marks, strict=True)
        )


def _query_settings(limits: QueryLimits) -> dict[str, Any]:
    return {
        "output_format_arrow_string_as_string": 0,  # strings from the kernel are bytes
        **limits.settings(),
        "wait_end_of_query": 1,  # report a late failure instead of breaking the connection
        "readonly": 1,  # last, because no setting can be changed after it
    }


def _marker(query_id: str) -> str:
    """Returns what identifies a query in its text."""
    if not _QUERY_ID.fullmatch(query_id):
        raise ValueError(f"malformed query id {query_id!r}")
    return f"query {query_id}"


def _may_hold_addresses(arrow: pa.DataType) -> bool:
    return IP_ADDRESS in (arrow, getattr(arrow, "value_type", None))


def _is_in_use(folder: Path) -> bool:
    """Returns whether a chDB has the folder open; chDB's own message would be many lines long."""
    try:
        with (folder / "status").open("rb") as status:
            fcntl.flock(status, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"
