"""Finds the SQL queries in the documents."""

import re
from pathlib import Path
from typing import Final

from attrs import frozen

_BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```\n?", re.DOTALL | re.MULTILINE)


@frozen
class DocumentedQuery:
    """A query as a page has it.

    Attributes:
        purpose: The first sentence of the paragraph before it.
        sql: The query.
    """

    purpose: str
    sql: str


def queries_of(page: Path) -> list[DocumentedQuery]:
    """Returns the queries of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    purpose = ""
    end = 0
    for block in _BLOCK.finditer(text):
        paragraph = text[end : block.start()].strip().rpartition("\n\n")[2]
        if paragraph:
            purpose = re.split(r"[.:](?:\s|$)", " ".join(paragraph.split()))[0]
        end = block.end()
        if block[1] == "sql" and "CREATE TABLE" not in block[2]:
            found.append(DocumentedQuery(purpose, block[2]))
    return found
