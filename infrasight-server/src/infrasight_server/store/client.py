"""What the store needs of a connection; one class for each kind of store implements it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa


class Client(Protocol):
    """A connection, used by one thread at a time, which runs one statement at a time.

    Its methods raise the errors that `errors.store_errors` and `errors.query_errors` translate.
    """

    def close(self) -> None:
        """Closes the connection."""

    def command(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Runs a statement without an answer."""

    def rows(
        self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        """Runs a statement and returns its rows."""

    def text(self, sql: str, parameters: Mapping[str, Any], settings: Mapping[str, Any]) -> bytes:
        """Runs a statement and returns its only value, which is not empty."""

    def is_granted(self, right: str) -> bool:
        """Returns whether the user has a right, such as `INSERT ON database.*`."""

    def insert(
        self,
        table: str,
        columns: Sequence[str],
        rows: "pa.Table",
        statement_id: str,
        condition: str,
    ) -> None:
        """Inserts rows as one block, if an SQL condition holds; the table's name is quoted.

        An empty condition always holds. If it does not hold, the message of the error is
        `errors.CLAIMS_CHANGED`.
        """

    def stream(
        self, sql: str, settings: Mapping[str, Any], statement_id: str
    ) -> "AbstractContextManager[Iterator[pa.RecordBatchReader]]":
        """Runs a statement; yields its answer as streams of record batches with one schema."""

    def is_statement(self, statement_id: str) -> tuple[str, dict[str, str]]:
        """Returns a condition on `system.processes` and its parameters."""
