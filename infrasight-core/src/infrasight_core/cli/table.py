"""Tables that fit the terminal: one line for each row, or one line for each field."""

from collections.abc import Sequence

from attrs import frozen
from rich.console import Console
from rich.table import Table
from rich.text import Text

from infrasight_core.console.streams import stdout_is_utf8

_GAP = 2
_LEAST_TEXT_WIDTH = 12  # a column of text is folded to no less


@frozen
class Column:
    """A column of a table.

    Attributes:
        name: Its header.
        is_number: Whether it holds numbers, which stand on the right and are never folded.
    """

    name: str
    is_number: bool = False


def print_table(
    console: Console,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Text]],
    first_number: int = 1,
) -> None:
    """Prints rows side by side where they fit, and else one below the other, a field a line.

    Args:
        console: The terminal.
        columns: The columns.
        rows: The cells of each row, safe to print.
        first_number: The number of the first row, in the heading that a row has when its fields
            stand one below the other.
    """
    if fits(console.width, columns, rows):
        _print_side_by_side(console, columns, rows)
    else:
        _print_fields(console, columns, rows, first_number)


def fits(width: int, columns: Sequence[Column], rows: Sequence[Sequence[Text]]) -> bool:
    """Whether rows fit a terminal of this width without cutting a number or shredding text."""
    needed = 0
    for index, column in enumerate(columns):
        longest = max((row[index].cell_len for row in rows), default=0)
        if not column.is_number:
            longest = min(longest, _LEAST_TEXT_WIDTH)
        needed += max(longest, len(column.name)) + _GAP
    return needed - _GAP <= width


def _print_side_by_side(
    console: Console, columns: Sequence[Column], rows: Sequence[Sequence[Text]]
) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
    for index, column in enumerate(columns):
        longest = max((row[index].cell_len for row in rows), default=0)
        table.add_column(
            Text(column.name),
            justify="right" if column.is_number else "left",
            overflow="fold",
            no_wrap=column.is_number,
            min_width=longest if column.is_number else len(column.name),
        )
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _print_fields(
    console: Console, columns: Sequence[Column], rows: Sequence[Sequence[Text]], first_number: int
) -> None:
    label_width = max(len(column.name) for column in columns)
    dashes = "──" if stdout_is_utf8() else "--"
    for number, row in enumerate(rows, first_number):
        console.print(Text(f"{dashes} row {number} {dashes}", "bold"), soft_wrap=True)
        for column, cell in zip(columns, row, strict=True):
            if column.is_number and label_width + _GAP + cell.cell_len > console.width:
                # A number gets a separate line rather than being broken over two.
                console.print(Text(column.name), soft_wrap=True)
                console.print(Text("  ").append(cell), soft_wrap=True)
                continue
            label = Text(f"{column.name:<{label_width + _GAP}}")
            console.print(label.append(cell), soft_wrap=True)
