"""ClickHouse's errors as ours: whether trying again makes sense, and in one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from clickhouse_connect.driver.exceptions import ClickHouseError
from infrasight_core.errors import QueryError, StoreError, StoreUnavailableError

# Errors that say nothing about the rows: the same insert can succeed later.
_AWAY = frozenset(
    {
        *(74, 75, 76, 95, 243),  # cannot read, write or open a file; no space
        *(202, 209, 210, 279, 425),  # network, too many at once
        *(159, 236, 241, 394),  # time, memory, shutting down, cancelled
        *(164, 242, 291, 492, 497, 516, 999),  # read-only, no access, no coordinator
        *(60, 81),  # no such table or database: somebody is at work on the store
        *(1000, 1001, 1002),  # exceptions of the operating system and the standard library
    }
)
_TOO_MANY_PARTS = (
    252  # of a whole table, which merges will mend; of one insert too, which nothing will
)


@contextmanager
def store_errors() -> Iterator[None]:
    """For what the server itself does: whether trying again makes sense."""
    try:
        yield
    except ClickHouseError as error:
        code, text = getattr(error, "code", None), one_line(error)
        away = (
            code is None or code in _AWAY or (code == _TOO_MANY_PARTS and "partitions" not in text)
        )
        raise (StoreUnavailableError if away else StoreError)(text) from error


@contextmanager
def query_errors() -> Iterator[None]:
    """For what people ask: whatever the store answers is the asker's matter."""
    try:
        yield
    except ClickHouseError as error:
        answered = getattr(error, "code", None) is not None
        raise (QueryError if answered else StoreUnavailableError)(one_line(error)) from error


def one_line(error: BaseException) -> str:
    """ClickHouse's words, or the operating system's, without what only their developers need."""
    text = " ".join(str(error).split())
    if system := re.search(r"\[Errno \d+\] ([\w ]+)", text):
        return system[1]
    text = text.partition("server response: ")[2] or text
    for noise in (" (version ", ", Stack trace", ": In scope SELECT formatQuery("):
        text = text.partition(noise)[0]
    return text.removesuffix(".")
