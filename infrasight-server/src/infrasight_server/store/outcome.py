"""How a batch that the server accepted reached the store."""

from enum import Enum


class StoreOutcome(Enum):
    """The result of storing an accepted batch."""

    INSERTED = "inserted"
    """The batch's rows have been inserted."""
    ALREADY_STORED = "already stored"
    """An earlier attempt had inserted the rows; nothing was inserted this time."""
    NO_ROWS = "no rows"
    """The batch has no rows: it brings container updates, or an account alone."""
