"""Decides which statements users may run: those that only read the store.

ClickHouse's read-only mode, which every query connection has, still permits reading files of the
server's machine, writing them, and killing other users' queries. The guard therefore checks the
statement too. It checks ClickHouse's own rendering of it (`Store.formatted`), so that no comment
or quoting hides anything.
"""

import re
from collections.abc import Collection

from infrasight_core.errors import QueryError

_READING = ("SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS")
_HARMLESS_TABLE_FUNCTIONS = frozenset(
    {
        "format",
        "generate_series",
        "generaterandom",
        "generateseries",
        "merge",
        "mergetreeindex",
        "mergetreeprojection",
        "null",
        "numbers",
        "numbers_mt",
        "primes",
        "sqlstandardvalues",
        "values",
        "view",
        "viewexplain",
        "viewifpermitted",
        "zeros",
        "zeros_mt",
    }
)
_OUTWARD_FUNCTIONS = frozenset({"file", "catboostevaluate"})
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|`((?:[^`\\]|\\.)*)`", re.DOTALL)


def check(statement: str, table_functions: Collection[str]) -> None:
    """Rejects a statement that does more than read the store.

    Args:
        statement: One statement as `Store.formatted` returns it: each clause on its own line.
        table_functions: The names that `Store.table_functions` returns; all but a few harmless
            ones are rejected.

    Raises:
        QueryError: The statement is rejected; the message names the reason.
    """
    bare = _QUOTED.sub(_unquote, statement)
    first_word = bare.split(maxsplit=1)[0].upper() if bare.strip() else "nothing"
    if first_word not in _READING:
        raise QueryError(
            f"a query may only read, not {first_word}: begin with {', '.join(_READING)}"
        )
    rejected = (frozenset(table_functions) - _HARMLESS_TABLE_FUNCTIONS) | _OUTWARD_FUNCTIONS
    for name in re.findall(r"(\w+)\s*\(", bare):
        if name.lower() in rejected:
            raise QueryError(
                f"{name}() reaches outside the store; a query may read the store's tables only"
            )
    clause = re.search(r"^(INTO OUTFILE|FORMAT)\b", bare, re.MULTILINE)
    if clause:
        raise QueryError(f"remove {clause[0]}: the answer is returned to the client, as Arrow")


def _unquote(quoted: re.Match[str]) -> str:
    """Empties a string, and keeps the word of a quoted name, which may be a function's."""
    name = quoted[1]
    return "''" if name is None else re.sub(r"\W", "_", name)
