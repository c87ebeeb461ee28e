"""Translates ClickHouse's errors: each becomes one line, and shows whether a retry may help."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from clickhouse_connect.driver.exceptions import ClickHouseError
from infrasight_core.errors import (
    ClaimsChangedError,
    QueryError,
    StoreError,
    StoreUnavailableError,
    TableMissingError,
)

from infrasight_server.store.embedded.frames import AnswerError

# Error codes that do not depend on the rows: the same insert can succeed later.
_TRANSIENT_CODES = frozenset(
    {
        *(74, 75, 76, 95, 243),  # cannot read, write or open a file; no space left
        *(202, 209, 210, 279, 425),  # network errors, too many simultaneous queries
        *(159, 236, 241, 394),  # timeout, aborted, memory limit, cancelled
        *(164, 242, 291, 492, 497, 516, 999),  # read-only, access denied, no coordinator
        *(1000, 1001, 1002),  # exceptions of the operating system and the standard library
    }
)
_MISSING_CODES = frozenset({60, 81})  # unknown table or database
# Of a whole table, merges reduce the number of parts; of one insert, a retry fails again.
_TOO_MANY_PARTS = 252
CLAIMS_CHANGED = "infrasight: the claims have changed"
"""The message of inserts whose condition does not hold."""
_NOISE = (" (version ", ", Stack trace", ": In scope SELECT formatQuerySingleLine(")


@contextmanager
def store_errors() -> Iterator[None]:
    """Translates errors of the server's own statements.

    Raises:
        ClaimsChangedError: The condition of an insert does not hold.
        TableMissingError: A table or the database does not exist.
        StoreUnavailableError: A retry can succeed.
        StoreError: The store rejects the statement, or rows of it.
    """
    try:
        yield
    except (ClickHouseError, AnswerError) as error:
        message = one_line(error)
        code = getattr(error, "code", None)
        if CLAIMS_CHANGED in message:
            raise ClaimsChangedError(CLAIMS_CHANGED) from error
        if code in _MISSING_CODES:
            raise TableMissingError(message) from error
        if _is_transient(code, message):
            raise StoreUnavailableError(message) from error
        raise StoreError(message) from error
    except Exception as error:  # the client fails in many ways at an answer that is cut off
        raise StoreUnavailableError(f"unusable answer: {error!r}") from error


@contextmanager
def query_errors() -> Iterator[None]:
    """Translates errors of queries.

    Raises:
        QueryError: The store answered with an error.
        StoreUnavailableError: The store did not answer.
    """
    try:
        yield
    except (ClickHouseError, AnswerError) as error:
        if getattr(error, "code", None) is None:
            raise StoreUnavailableError(one_line(error)) from error
        raise QueryError(one_line(error)) from error


def one_line(error: BaseException) -> str:
    """Returns the message of ClickHouse or the operating system, without client and version."""
    message = " ".join(str(error).split())
    system_error = re.search(r"\[Errno \d+\] ([\w ]+)", message)
    if system_error:
        return system_error[1]
    message = message.partition("server response: ")[2] or message
    for noise in _NOISE:
        message = message.partition(noise)[0]
    return message.removesuffix(".")


def _is_transient(code: int | None, message: str) -> bool:
    if code is None:  # the client got no answer
        return True
    if code == _TOO_MANY_PARTS:
        return "partitions" not in message
    return code in _TRANSIENT_CODES
