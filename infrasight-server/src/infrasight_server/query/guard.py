"""Which statements people may run: reading ones, that reach nothing outside the store.

The store has the last word, its read-only mode holds for every query connection; but that mode still lets a query read files
of the server's machine, write them, and kill other people's queries. What is judged here is not the text that somebody sent
but ClickHouse's own rendering of how it understood it (`Store.formatted`), so that no comment or quoting hides anything.
"""

import re
from collections.abc import Collection

from infrasight_core.errors import QueryError

_READING = ("SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS")
_HARMLESS_TABLE_FUNCTIONS = frozenset(
    {
        *(
            "numbers",
            "numbers_mt",
            "zeros",
            "zeros_mt",
            "primes",
            "generate_series",
            "generateseries",
            "generaterandom",
        ),
        *(
            "values",
            "sqlstandardvalues",
            "null",
            "view",
            "viewexplain",
            "viewifpermitted",
            "merge",
            "format",
        ),
        *("mergetreeindex", "mergetreeprojection"),
    }
)
_OUTWARD_FUNCTIONS = frozenset({"file", "catboostevaluate"})
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|`((?:[^`\\]|\\.)*)`", re.DOTALL)


def check(statement: str, table_functions: Collection[str]) -> None:
    """Refuses a statement that does more than read the store.

    Args:
        statement: One statement as `Store.formatted` gives it: without comments, every clause on a line of its own.
        table_functions: What `Store.table_functions` gives; all but a few harmless ones are rejected.

    Raises:
        QueryError: Why it is rejected.
    """
    bare = _QUOTED.sub(_bare, statement)
    first = bare.split(maxsplit=1)[0].upper() if bare.strip() else "nothing"
    if first not in _READING:
        raise QueryError(
            f"only reading is allowed here, not {first}: begin with {', '.join(_READING)}"
        )
    rejected = (frozenset(table_functions) - _HARMLESS_TABLE_FUNCTIONS) | _OUTWARD_FUNCTIONS
    for name in re.findall(r"(\w+)\s*\(", bare):
        if name.lower() in rejected:
            raise QueryError(
                f"{name}() reaches outside the store; a query may read the store's own tables only"
            )
    if clause := re.search(r"^(INTO OUTFILE|FORMAT)\b", bare, re.MULTILINE):
        raise QueryError(f"leave {clause[0]} out: the answer goes to the one who asks, as Arrow")


def _bare(quoted: re.Match[str]) -> str:
    """Nothing for a string; a quoted name's own letters, as it may still be a function's."""
    name = quoted[1]
    return "''" if name is None else re.sub(r"\W", "_", name)
