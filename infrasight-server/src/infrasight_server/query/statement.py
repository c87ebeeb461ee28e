"""Splits a canonical statement into tokens, in time linear in its length."""

import re
from enum import Enum, auto

from attrs import frozen
from infrasight_core.errors import QueryError

_MAX_DEPTH = 100
# Possessive quantifiers: a token that does not end is not tried again at a shorter length.
_TOKEN = re.compile(
    r"""
    (?P<word>[A-Za-z_][A-Za-z0-9_$]*+)
    |`(?P<quoted>(?:[^`\\]|``)++)`
    |'(?P<string>(?:[^'\\]|\\.|'')*+)'
    |(?P<number>(?:0[xX][0-9A-Fa-f]++|[0-9]++(?:\.[0-9]*+)?+(?:[eE][+-]?+[0-9]++)?+)(?![\w$]))
    |(?P<symbol>->|[]()\[,.+*%=<>!|]|-(?!-)|/(?![*/]))
    |(?P<space>[ \n]++)
    """,
    re.VERBOSE | re.DOTALL,
)
_CLOSING = {"(": ")", "[": "]"}


class Kind(Enum):
    """The kind of a token."""

    WORD = auto()
    """A keyword, or a name without quotes."""
    QUOTED = auto()
    """A name in backquotes."""
    STRING = auto()
    NUMBER = auto()
    SYMBOL = auto()
    END = auto()
    """Follows the last token, and precedes the first one."""


@frozen
class Token:
    """One token of a statement.

    Attributes:
        kind: What it is.
        text: As written, without the quotes of a name or a string.
    """

    kind: Kind
    text: str

    @property
    def is_name(self) -> bool:
        """Whether it can be the name of a function, a table, a column or an alias."""
        return self.kind in (Kind.WORD, Kind.QUOTED)

    def is_word(self, *words: str) -> bool:
        """Whether it is one of the words, which are in upper case."""
        return self.kind is Kind.WORD and self.text.upper() in words

    def is_symbol(self, *symbols: str) -> bool:
        """Whether it is one of the symbols."""
        return self.kind is Kind.SYMBOL and self.text in symbols


END = Token(Kind.END, "")


class Statement:
    """The tokens of a statement, and which brackets belong together.

    Args:
        text: A statement as `Store.formatted` returns it: without comments.

    Raises:
        QueryError: It contains something that is no part of a canonical statement, or its brackets
            are nested too deeply.
    """

    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.closing = _matched_brackets(self.tokens)
        """The index of the closing bracket by the index of the opening one."""

    def __getitem__(self, index: int) -> Token:
        """Returns a token; `END` before the first and after the last one."""
        return self.tokens[index] if 0 <= index < len(self.tokens) else END


def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise QueryError(
                f"cannot judge the statement at {text[position : position + 20]!r}; a query has "
                "neither parameters nor names with a backslash"
            )
        position = match.end()
        group = str(match.lastgroup)
        if group != "space":
            tokens.append(Token(Kind[group.upper()], match[group]))
    return tokens


def _matched_brackets(tokens: list[Token]) -> dict[int, int]:
    closing: dict[int, int] = {}
    opened: list[int] = []
    for index, token in enumerate(tokens):
        if token.is_symbol("(", "["):
            opened.append(index)
            if len(opened) > _MAX_DEPTH:
                raise QueryError(f"the statement is nested too deeply: at most {_MAX_DEPTH} levels")
        elif token.is_symbol(")", "]"):
            if not opened or _CLOSING[tokens[opened[-1]].text] != token.text:
                raise QueryError(f"the statement has a {token.text} without its opening bracket")
            closing[opened.pop()] = index
    if opened:
        raise QueryError("the statement has a bracket that is not closed")
    return closing
