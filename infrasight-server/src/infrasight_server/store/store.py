"""ClickHouse: a server by URL, or chDB embedded in this process. Nothing else here knows which.

All methods block; call them from worker threads. Two kinds of connection are kept: those that write, and those that read
people's queries, which are put into ClickHouse's read-only mode for ever when they are opened.
"""

import fcntl
import logging
import re
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
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

for _name in ("clickhouse_connect", "urllib3"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # what they would log, they raise too

_ADDRESSES = re.compile(r"((Array|LowCardinality|Nullable)\()*IPv6\)*")


class Store:
    """An open store.

    Args:
        connect: Opens a client with the given settings; raises ClickHouseError.
        database: The database of all tables; created when it is not there.
        query_seconds: How long one query of a person may run.
        query_bytes: How large its answer may be.
        user: As whom the store is to read itself, for a dictionary of its own tables.
        password: That user's.

    Raises:
        StoreError: It cannot be opened.
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
        self.database, self.user, self.password = database, user, password
        reading = {
            "output_format_arrow_string_as_string": 0,  # what the kernel gives are bytes
            "max_execution_time": query_seconds,
            "max_result_bytes": query_bytes,
            "wait_end_of_query": 1,  # a query that fails in the middle says why, instead of breaking the connection
            "readonly": 1,  # last: nothing can be set after it
        }
        with store_errors():
            client = connect(settings={})
            client.command(f"CREATE DATABASE IF NOT EXISTS {_quoted(database)}", use_database=False)
            client.close()
        self._writers = Connections(lambda: connect(database=database, settings={}))
        self._readers = Connections(lambda: connect(database=database, settings=reading))

    @classmethod
    def embedded(
        cls, folder: Path, database: str, query_seconds: float = 60, query_bytes: int = 1 << 30
    ) -> "Store":
        """chDB with its data in a folder, which is created; one process at a time may have it open.

        Raises:
            StoreError: The folder cannot be written, or another process has it open.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StoreError(
                f"data directory {folder} cannot be written: {error.strerror}; name another one with --data, or mend its owner"
            ) from error
        if _in_use(folder):
            raise StoreError(
                f"data directory {folder} is in use by another infrasight-server; name another one with --data"
            )

        def connect(**arguments: Any) -> Any:
            return clickhouse_connect.get_client(interface="chdb", path=str(folder), **arguments)

        try:
            return cls(connect, database, query_seconds, query_bytes)
        except StoreError as error:
            raise StoreError(f"the embedded store in {folder} cannot be opened: {error}") from error

    @classmethod
    def at(
        cls,
        url: str,
        database: str,
        password: str = "",
        query_seconds: float = 60,
        query_bytes: int = 1 << 30,
    ) -> "Store":
        """A ClickHouse server, `http://user@host:8123/` or `https://…`.

        Raises:
            ConfigError: The URL is not one, or has a password in it.
            StoreError: The server is not there, or does not let us in.
        """
        parts = urlsplit(url)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.password is not None
        ):
            raise ConfigError(
                "store: write `embedded` or http[s]://user@host:port/; the password goes into store_password"
            )

        user = parts.username or "default"

        def connect(**arguments: Any) -> Any:
            return clickhouse_connect.get_client(
                interface=parts.scheme,
                host=parts.hostname,
                port=parts.port or (8443 if parts.scheme == "https" else 8123),
                username=user,
                password=password,
                connect_timeout=5,
                send_receive_timeout=60,
                autogenerate_session_id=False,  # a session would let only one statement run at a time
                **arguments,
            )

        try:
            return cls(connect, database, query_seconds, query_bytes, user, password)
        except StoreError as error:
            raise StoreError(f"the ClickHouse server at {url} cannot be used: {error}") from error

    def close(self) -> None:
        """Closes every connection that is not in use."""
        self._writers.close()
        self._readers.close()

    def insert(self, table: str, rows: pa.Table, insert_id: str) -> None:
        """Inserts all rows as one block.

        Args:
            table: The table's name.
            rows: Its columns, by name.
            insert_id: Names this attempt for `is_running`.

        Raises:
            StoreUnavailableError: Whether the rows are in is not known.
            StoreError: The store rejects them for good.
        """
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        # A buffer, not bytes: bytes the client would send a second time when the connection breaks.
        with store_errors(), self._writers.one() as client:
            client.raw_insert(
                _quoted(table),
                rows.schema.names,
                sink.getvalue(),
                settings={"query_id": insert_id},
                fmt="ArrowStream",
            )

    def is_running(self, insert_id: str) -> bool:
        """Whether an insert whose connection was lost still runs, so that its rows may yet arrive. Raises StoreUnavailableError."""
        sql = "SELECT count() FROM system.processes WHERE query_id = {id:String}"
        return bool(self._rows(sql, {"id": insert_id})[0][0])

    def stored_rows(
        self, table: str, nodes: Collection[str], batches: Collection[str]
    ) -> dict[tuple[str, str], int]:
        """How many rows of some batches are in a table, by node and batch id. Raises StoreUnavailableError, StoreError."""
        sql = (
            f"SELECT node, batch_id, count() FROM {_quoted(table)} "
            "WHERE node IN {nodes:Array(String)} AND batch_id IN {batches:Array(String)} GROUP BY node, batch_id"
        )
        return {
            (node, batch): rows
            for node, batch, rows in self._rows(
                sql, {"nodes": list(nodes), "batches": list(batches)}
            )
        }

    def delete_batch(self, table: str, node: str, batch: str) -> None:
        """Takes out the rows of a batch that came in only partly. Raises StoreUnavailableError, StoreError."""
        self.command(
            f"DELETE FROM {_quoted(table)} WHERE node = {{node:String}} AND batch_id = {{batch:String}}",
            {"node": node, "batch": batch},
        )

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Runs a statement that answers nothing. Raises StoreUnavailableError, StoreError."""
        with store_errors(), self._writers.one() as client:
            client.command(sql, parameters=dict(parameters or {}))

    def columns(self, table: str) -> dict[str, str]:
        """The types of a table's columns by name, in order; empty where there is no such table. Raises as `command`."""
        sql = (
            "SELECT name, type FROM system.columns "
            "WHERE database = {database:String} AND table = {table:String} ORDER BY position"
        )
        return dict(self._rows(sql, {"database": self.database, "table": table}))

    def aliases(self, table: str) -> dict[str, str]:
        """What a table's ALIAS columns compute, by name. Raises as `command`."""
        sql = (
            "SELECT name, default_expression FROM system.columns "
            "WHERE database = {database:String} AND table = {table:String} AND default_kind = 'ALIAS'"
        )
        return dict(self._rows(sql, {"database": self.database, "table": table}))

    def canonical(self, expression: str) -> str:
        """An expression as `aliases` gives it. Raises as `command`."""
        (row,) = self._rows(
            "SELECT formatQuerySingleLine({sql:String})", {"sql": f"SELECT {expression}"}
        )
        return str(row[0]).removeprefix("SELECT ")

    def create_statement(self, table: str) -> str:
        """What `SHOW CREATE TABLE` says. Raises as `command`."""
        return str(self._rows(f"SHOW CREATE TABLE {_quoted(table)}", {})[0][0])

    def set_ttl(self, table: str, days: int | None) -> None:
        """Has rows deleted that many days after their `time`; None: never. Raises as `command`."""
        if days is not None:
            # Only parts that are due are dropped; nothing is rewritten now.
            ttl = f"MODIFY TTL toDateTime(time) + INTERVAL {days} DAY SETTINGS materialize_ttl_after_modify = 0"
        elif "\nTTL " in self.create_statement(table):
            ttl = "REMOVE TTL"
        else:
            return
        self.command(f"ALTER TABLE {_quoted(table)} {ttl}")

    @staticmethod
    def literal(text: str) -> str:
        """A text as SQL writes it."""
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    def table_functions(self) -> frozenset[str]:
        """The names of everything that can stand for a table, in lower case. Raises as `command`."""
        return frozenset(
            name.lower() for (name,) in self._rows("SELECT name FROM system.table_functions", {})
        )

    def ping(self) -> None:
        """Sees that it answers. Raises StoreUnavailableError."""
        self._rows("SELECT 1", {})

    def _rows(self, sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        with store_errors(), self._writers.one() as client:
            return list(client.query(sql, parameters=dict(parameters)).result_rows)

    def formatted(self, sql: str) -> str:
        """One statement as ClickHouse's own parser understood it: no comments, and one way to write everything.

        Raises:
            QueryError: It is not one statement of ClickHouse SQL.
            StoreUnavailableError: The store does not answer.
        """
        with query_errors(), self._readers.one() as client:
            text: bytes = client.raw_query(
                "SELECT formatQuery({sql:String})", parameters={"sql": sql}, fmt="RawBLOB"
            )
            return text.decode("utf-8", "surrogateescape")

    def query(self, sql: str) -> Iterator[pa.RecordBatch]:
        """The answer of a reading statement, in pieces; the first comes even when there are no rows.

        Strings come as binary, IPv6 addresses as 16 bytes whose field is marked (`schema.IP_ADDRESS_MARK`). The store itself
        refuses to write anything here.

        Raises:
            QueryError: The store refuses the statement or fails at it; later pieces may raise it too.
            StoreUnavailableError: The store does not answer.
        """
        with query_errors(), self._readers.one() as client:
            answer = client.raw_stream(sql, fmt="ArrowStream")
            try:
                with pa.ipc.open_stream(answer) as reader:
                    schema = self._marked(reader.schema, sql)
                    yield pa.RecordBatch.from_pylist([], schema)
                    for batch in reader:
                        yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)
            except (pa.ArrowException, OSError, HTTPError) as error:
                raise QueryError(f"the answer broke off: {one_line(error)}; ask again") from error
            finally:
                answer.close()

    def _marked(self, schema: pa.Schema, sql: str) -> pa.Schema:
        """The schema of a statement's answer with addresses marked: Arrow has one type for IPv6 and FixedString(16)."""
        if not any(
            IP_ADDRESS in (field.type, getattr(field.type, "value_type", None)) for field in schema
        ):
            return schema
        with query_errors(), self._readers.one() as client:
            types = client.query(f"DESCRIBE TABLE ({sql})").result_columns[1]
        marks = [IP_ADDRESS_MARK if _ADDRESSES.fullmatch(type) else None for type in types]
        return pa.schema(
            field.with_metadata(mark) for field, mark in zip(schema, marks, strict=True)
        )


def _in_use(folder: Path) -> bool:
    """Whether a chDB has the folder open; its own complaint would be lines long."""
    try:
        with (folder / "status").open("rb") as status:
            fcntl.flock(status, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _quoted(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
