"""The store: a ClickHouse server by URL, or chDB in its own process.

All methods block: call them from worker threads. Two kinds of connections exist: those of the
server's own statements, and those of users' queries. The store does not write for a query, and
bounds its memory, time and answer.
"""

import re
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from attrs import evolve, frozen
from infrasight_core.errors import ConfigError, QueryError, StoreError, StoreUnavailableError
from infrasight_core.plugin.schema import IP_ADDRESS, IP_ADDRESS_MARK
from urllib3.exceptions import HTTPError

from infrasight_server.store.client import Client
from infrasight_server.store.connections import Connections
from infrasight_server.store.embedded.client import EmbeddedClient
from infrasight_server.store.embedded.folder import prepare_folder
from infrasight_server.store.embedded.process import Options
from infrasight_server.store.embedded.supervisor import Supervisor
from infrasight_server.store.errors import one_line, query_errors, store_errors
from infrasight_server.store.http_client import HttpClient
from infrasight_server.store.memory import store_memory
from infrasight_server.store.names import literal, quoted
from infrasight_server.store.query_limits import QueryLimits

_ANSWER_SECONDS = 60.0
_CONTROL_SECONDS = 5.0
_GRACE_SECONDS = 30.0
"""How long after a query's time limit the store may take to report it."""
_WRITING_RIGHTS = ("INSERT ON {}.*", "ALTER ON {}.*", "CREATE TABLE ON {}.*", "FILE ON *.*")
_QUERY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ADDRESS_TYPE = re.compile(r"((Array|LowCardinality|Nullable)\()*IPv6\)*")

POSITIONS = pa.schema([("time", pa.int64()), ("cpu", pa.uint32()), ("sequence", pa.uint64())])
"""What tells the events of a batch apart."""


@frozen
class BatchSummary:
    """The rows of a batch in short, to compare what is stored with what is sent.

    Attributes:
        rows: The number of rows.
        first: The time of the earliest event in nanoseconds since the epoch.
        last: The time of the latest event.
        sequences: The sum of the sequence numbers, modulo 2^64.
    """

    rows: int
    first: int
    last: int
    sequences: int


class Store:
    """An open store.

    Args:
        connect: Opens a connection for the server's own statements, with the database as default
            or, for None, without it.
        connect_reader: Opens a connection for users' queries.
        connect_control: Opens a connection for statements that the store answers at once.
        database: The database of all tables; created if it does not exist.
        default_limits: What a query may use for which `query` gets no limits.
        user: The user whom the dictionary of containers reads its table as.
        password: That user's password.
        supervisor: Runs the store's process; `close` closes it.
        reader_settings: Further settings of users' queries.
        folder: The folder of an embedded store.

    Raises:
        StoreError: The store cannot be opened.
    """

    def __init__(
        self,
        connect: Callable[[str | None], Client],
        connect_reader: Callable[[str], Client],
        connect_control: Callable[[str], Client],
        database: str,
        default_limits: QueryLimits,
        user: str = "default",
        password: str = "",
        supervisor: Supervisor | None = None,
        reader_settings: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.database = database
        self.folder = folder
        self.default_limits = default_limits
        self.user = user
        self.password = password
        self._supervisor = supervisor
        self._reader_settings = dict(reader_settings or {})
        self._reader_warnings: list[str] = []
        self._connect = connect
        self.create_database()
        self._own_connections = Connections(lambda: connect(database))
        # Apart from the others: the end of a query and `/readyz` must not wait for inserts.
        self._control_connections = Connections(lambda: connect_control(database))
        self._query_connections = Connections(lambda: connect_reader(database))
        # Apart from the others: a running query must not wait for a connection of other queries.
        self._side_connections = Connections(lambda: connect_reader(database))

    @classmethod
    def embedded(
        cls,
        folder: Path,
        database: str,
        limits: QueryLimits | None = None,
        memory_bytes: int | None = None,
        require_confinement: bool = False,
    ) -> "Store":
        """Starts chDB, with its data in a folder, which only one process at a time may use.

        Args:
            folder: The folder; created if it does not exist.
            database: See `Store`.
            limits: What a query may use.
            memory_bytes: The most memory that chDB may use; None: a share of the machine's.
            require_confinement: Whether to fail if the kernel cannot confine chDB's process.

        Raises:
            StoreError: The folder is not writable, another process uses it, or chDB does not start.
        """
        prepare_folder(folder)
        limits = limits or QueryLimits()
        supervisor = Supervisor(Options(str(folder.resolve()), memory_bytes or store_memory()))

        def connect(name: str | None) -> Client:
            # Without a time limit: an insert that is given up here could still run there.
            return EmbeddedClient(supervisor.connect(), name or "", None)

        def connect_reader(name: str) -> Client:
            return EmbeddedClient(supervisor.connect(), name, limits.seconds + _GRACE_SECONDS)

        def connect_control(name: str) -> Client:
            return EmbeddedClient(supervisor.connect(), name, _CONTROL_SECONDS)

        try:
            supervisor.start()
            if require_confinement and supervisor.missing:
                raise StoreError(
                    f"its process is not confined: {'; '.join(supervisor.missing)}; "
                    "or set require_store_confinement to false"
                )
            return cls(
                connect,
                connect_reader,
                connect_control,
                database,
                limits,
                supervisor=supervisor,
                folder=folder.resolve(),
            )
        except StoreError as error:
            supervisor.close()
            raise StoreError(f"cannot open the embedded store in {folder}: {error}") from error

    @classmethod
    def at(
        cls,
        url: str,
        database: str,
        password: str = "",
        limits: QueryLimits | None = None,
        query_user: str = "",
        query_password: str = "",
        query_memory: int | None = None,
    ) -> "Store":
        """Connects to a ClickHouse server.

        Args:
            url: `http://user@host:8123/` or `https://user@host:8443/`, without a password.
            database: See `Store`.
            password: The user's password.
            limits: What a query may use.
            query_user: The user who runs users' queries; "" for the user of the URL.
            query_password: That user's password.
            query_memory: The most memory that all of that user's queries may use.

        Raises:
            ConfigError: The URL is malformed or contains a password.
            StoreError: The server does not answer or rejects a user.
        """
        parts = urlsplit(url)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname)
        if not is_http or parts.password is not None:
            raise ConfigError(
                "store: must be `embedded` or http[s]://user@host:port/; "
                "the password belongs in store_password"
            )
        user = parts.username or "default"
        reader = (query_user, query_password) if query_user else (user, password)
        limits = limits or QueryLimits()

        def connect(name: str | None) -> Client:
            return HttpClient(parts, user, password, name, _ANSWER_SECONDS)

        def connect_reader(name: str) -> Client:
            seconds = max(_ANSWER_SECONDS, limits.seconds + _GRACE_SECONDS)
            return HttpClient(parts, *reader, name, seconds)

        def connect_control(name: str) -> Client:
            return HttpClient(parts, user, password, name, _CONTROL_SECONDS)

        reader_settings = {}
        if query_user and query_memory is not None:
            reader_settings["max_memory_usage_for_user"] = query_memory
        try:
            store = cls(
                connect,
                connect_reader,
                connect_control,
                database,
                limits,
                user,
                password,
                reader_settings=reader_settings,
            )
            store.check_reader(query_user)
        except StoreError as error:
            raise StoreError(f"cannot use the ClickHouse server at {url}: {error}") from error
        return store

    def check_reader(self, query_user: str) -> None:
        """Checks that queries run as a user who can only read the database; see `warnings`.

        Raises:
            StoreError: The user cannot log in.
        """
        if not query_user:
            self._reader_warnings = [
                "queries run as the ClickHouse user who stores the events; "
                "create a user with SELECT alone and set query_user"
            ]
            return
        with store_errors(), self._side_connections.acquire() as client:
            for right in _WRITING_RIGHTS:
                if client.is_granted(right.format(quoted(self.database))):
                    self._reader_warnings = [
                        f"query_user {query_user} has more rights than SELECT on {self.database}; "
                        "revoke them"
                    ]
                    return

    @property
    def warnings(self) -> list[str]:
        """What protects the store from its readers incompletely, for the log and `/readyz`."""
        if self._supervisor is None:
            return self._reader_warnings
        return list(self._supervisor.missing)

    def close(self) -> None:
        """Closes every connection that is not in use, and ends the store's process."""
        self._own_connections.close()
        self._control_connections.close()
        self._query_connections.close()
        self._side_connections.close()
        if self._supervisor is not None:
            self._supervisor.close()

    def create_database(self) -> None:
        """Creates the database if it does not exist. Raises like `command`."""
        with store_errors():
            client = self._connect(None)
            try:
                client.command(f"CREATE DATABASE IF NOT EXISTS {quoted(self.database)}", {}, {})
            finally:
                client.close()

    @property
    def is_shared(self) -> bool:
        """Whether other servers may use the store too."""
        return self._supervisor is None

    def insert(self, table: str, rows: pa.Table, insert_id: str, condition: str = "") -> None:
        """Inserts rows as one block.

        Args:
            table: The table's name.
            rows: The rows, with the table's column names.
            insert_id: Identifies this attempt to `running_inserts`.
            condition: An SQL condition that the store evaluates when the insert begins; only for a
                shared store.

        Raises:
            ClaimsChangedError: The condition does not hold; nothing is inserted.
            StoreUnavailableError: The store did not confirm the insert; it may have the rows.
            StoreError: The store rejects the rows; a retry fails again.
        """
        with store_errors(), self._own_connections.acquire() as client:
            client.insert(quoted(table), rows.schema.names, rows, insert_id, condition)

    def running_inserts(self, table: str) -> frozenset[str]:
        """Returns the ids of the inserts into a table that the store is running for any server.

        It shows those of other users if the own user may see them. Raises like `command`.
        """
        sql = (
            "SELECT query_id FROM system.processes WHERE query_kind = 'Insert' "
            "AND current_database = {database:String} AND position(query, {start:String}) > 0"
        )
        parameters = {"database": self.database, "start": f"INSERT INTO {quoted(table)} ("}
        return frozenset(query_id for (query_id,) in self.rows(sql, parameters))

    def stored_batches(
        self, table: str, nodes: Collection[str], batches: Collection[str]
    ) -> dict[tuple[str, str], BatchSummary]:
        """Summarizes the stored rows of some batches, by node and batch id.

        Raises:
            StoreError: The store rejects the query.
            StoreUnavailableError: The store does not answer.
        """
        sql = (
            "SELECT node, batch_id, count(), min(toUnixTimestamp64Nano(time)), "
            "max(toUnixTimestamp64Nano(time)), sumWithOverflow(sequence) "
            f"FROM {quoted(table)} "
            "WHERE node IN {nodes:Array(String)} AND batch_id IN {batches:Array(String)} "
            "GROUP BY node, batch_id"
        )
        parameters = {"nodes": list(nodes), "batches": list(batches)}
        return {
            (node, batch): BatchSummary(*numbers)
            for node, batch, *numbers in self.rows(sql, parameters)
        }

    def stored_positions(self, table: str, node: str, batch: str) -> pa.Table:
        """Returns `time`, `cpu` and `sequence` of a batch's stored rows. Raises like `command`."""
        sql = (
            f"SELECT toUnixTimestamp64Nano(time) AS time, cpu, sequence FROM {quoted(table)} "
            f"WHERE node = {literal(node)} AND batch_id = {literal(batch)}"
        )
        with (
            store_errors(),
            self._own_connections.acquire() as client,
            client.stream(sql, {}, uuid.uuid4().hex) as streams,
        ):
            pieces = [reader.read_all() for reader in streams]
        positions = [piece.cast(POSITIONS) for piece in pieces]
        return pa.concat_tables([POSITIONS.empty_table(), *positions])

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Runs a statement that returns no rows.

        Raises:
            StoreError: The store rejects the statement.
            StoreUnavailableError: The store does not answer.
        """
        with store_errors(), self._own_connections.acquire() as client:
            client.command(sql, parameters or {}, {})

    def columns(self, table: str) -> dict[str, str]:
        """Returns the types of a table's columns by name, in order; empty for a missing table.

        Raises like `command`.
        """
        sql = (
            "SELECT name, type FROM system.columns "
            "WHERE database = {database:String} AND table = {table:String} ORDER BY position"
        )
        return dict(self.rows(sql, {"database": self.database, "table": table}))

    def aliases(self, table: str) -> dict[str, str]:
        """Returns the expressions of a table's ALIAS columns by name. Raises like `command`."""
        sql = (
            "SELECT name, default_expression FROM system.columns "
            "WHERE database = {database:String} AND table = {table:String} "
            "AND default_kind = 'ALIAS'"
        )
        return dict(self.rows(sql, {"database": self.database, "table": table}))

    def canonical(self, expression: str) -> str:
        """Returns an expression in the spelling of `aliases`. Raises like `command`."""
        sql = "SELECT formatQuerySingleLine({sql:String})"
        return str(self._value(sql, {"sql": f"SELECT {expression}"})).removeprefix("SELECT ")

    def create_statement(self, table: str) -> str:
        """Returns the answer of `SHOW CREATE TABLE`. Raises like `command`."""
        return str(self._value(f"SHOW CREATE TABLE {quoted(table)}", {}))

    def set_ttl(self, table: str, clause: str) -> None:
        """Sets when the store deletes rows of a table; see `Ttl`.

        Args:
            table: The table's name.
            clause: What follows `TTL`; "" for never.

        Raises like `command`.
        """
        if clause:
            # The setting avoids a rewrite of the table: expired parts are dropped as they are.
            self.command(
                f"ALTER TABLE {quoted(table)} MODIFY TTL {clause} "
                "SETTINGS materialize_ttl_after_modify = 0"
            )
        elif "\nTTL " in self.create_statement(table):
            self.command(f"ALTER TABLE {quoted(table)} REMOVE TTL")

    def functions(self) -> frozenset[str]:
        """Returns the names of all functions that an expression can have. Raises like `command`."""
        return frozenset(name for (name,) in self.rows("SELECT name FROM system.functions"))

    def databases(self) -> frozenset[str]:
        """Returns the names of all databases. Raises like `command`."""
        return frozenset(name for (name,) in self.rows("SELECT name FROM system.databases"))

    def ping(self) -> None:
        """Checks that the store answers within seconds. Raises StoreUnavailableError."""
        with store_errors(), self._control_connections.acquire() as client:
            client.rows("SELECT 1", {}, {})

    def _value(self, sql: str, parameters: Mapping[str, Any]) -> Any:
        """Returns the only value of an answer."""
        rows = self.rows(sql, parameters)
        if not rows:
            raise StoreUnavailableError("it returned no rows")
        return rows[0][0]

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Returns the whole answer of one of the server's own statements.

        An answer that is empty or cut off is an error, never fewer rows. Raises like `command`.
        """
        with store_errors(), self._own_connections.acquire() as client:
            return client.rows(sql, parameters or {}, {})

    def formatted(self, sql: str) -> str:
        """Returns a statement as ClickHouse's parser reads it, in canonical form without comments.

        It is one line, because indentation would make deeply nested statements much longer.

        Raises:
            QueryError: The text is not one statement of ClickHouse SQL.
            StoreUnavailableError: The store does not answer.
        """
        settings = self._query_settings(self.default_limits)
        with query_errors(), self._side_connections.acquire() as client:
            statement = "SELECT formatQuerySingleLine({sql:String})"
            text = client.text(statement, {"sql": sql}, settings)
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
        if not _QUERY_ID.fullmatch(query_id):
            raise ValueError(f"malformed query id {query_id!r}")
        limits = limits or self.default_limits
        settings = self._query_settings(limits)
        with query_errors(), self._query_connections.acquire() as client:
            try:
                with client.stream(sql, settings, query_id) as streams:
                    schema = None
                    for reader in streams:
                        if schema is None:
                            schema = self._marked(reader.schema, sql, limits)
                            yield pa.RecordBatch.from_pylist([], schema)
                        for batch in reader:
                            yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)
            except (pa.ArrowException, OSError, HTTPError) as error:
                raise QueryError(
                    f"the answer was cut off: {one_line(error)}; repeat the query"
                ) from error

    def cancel(self, query_id: str) -> None:
        """Ends a running query; does nothing when it is not running.

        The query raises a QueryError. Until the store has ended it, it may still use resources.

        Raises:
            StoreUnavailableError: The store does not answer.
        """
        with store_errors(), self._control_connections.acquire() as client:
            condition, parameters = client.is_statement(query_id)
            client.command(f"KILL QUERY WHERE {condition} ASYNC", parameters, {})

    def _marked(self, schema: pa.Schema, sql: str, limits: QueryLimits) -> pa.Schema:
        """Marks an answer's address columns; Arrow has one type for IPv6 and FixedString(16)."""
        if not any(_may_hold_addresses(field.type) for field in schema):
            return schema
        memory_bytes = max(1, limits.memory_bytes // 2)  # beside that of the query itself
        settings = self._query_settings(evolve(limits, memory_bytes=memory_bytes))
        types: list[str] = []
        # As a stream, because the client for HTTP searches other statements in quadratic time.
        with (
            query_errors(),
            self._side_connections.acquire() as client,
            client.stream(f"DESCRIBE TABLE ({sql})", settings, uuid.uuid4().hex) as streams,
        ):
            for reader in streams:
                for batch in reader:
                    types.extend(type_.decode() for type_ in batch.column("type").to_pylist())
        marks = [IP_ADDRESS_MARK if _ADDRESS_TYPE.fullmatch(type_) else None for type_ in types]
        return pa.schema(
            field.with_metadata(mark) for field, mark in zip(schema, marks, strict=True)
        )

    def _query_settings(self, limits: QueryLimits) -> dict[str, Any]:
        return {
            "output_format_arrow_string_as_string": 0,  # strings from the kernel are bytes
            **limits.settings(),
            **self._reader_settings,
            "readonly": 1,  # last, because no setting can be changed after it
        }


def _may_hold_addresses(arrow: pa.DataType) -> bool:
    return IP_ADDRESS in (arrow, getattr(arrow, "value_type", None))
