"""tools/vocabulary.py finds replaced words in prose, and only there."""

from pathlib import Path

import pytest
import vocabulary


def words(name: str, text: str) -> list[tuple[int, str]]:
    """The lines and words that are found in a file of this name."""
    return [(line, word) for line, word, _ in vocabulary.findings(Path(name), text)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", "The server is away.\n"),
        ("a.py", "x = 1  # the server is away\n"),
        ("a.py", '"""The server is away."""\n'),
        ("a.py", 'raise ValueError(f"the server {name} is away")\n'),
        ("a.c", "int x; /* the server is away */\n"),
        ("a.proto", "// the server is away\n"),
        ("a.sql", "SELECT 1 -- the server is away\n"),
        ("a.yaml", "description: the server is away\n"),
        ("Makefile", "run: # the server is away\n"),
    ],
)
def test_prose_of_each_kind_of_file_is_searched(name: str, text: str) -> None:
    """Documents, comments, docstrings and messages are prose."""
    assert words(name, text) == [(1, "away")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", "The value `away` is a value.\n"),
        ("a.md", "```\naway\n```\n"),
        ("a.py", 'state = "news"\n'),
        ("a.c", 'char *away = "away";\n'),
        ("a.sql", "SELECT away FROM kept\n"),
        ("a.bin", "away\n"),
    ],
)
def test_code_is_not_prose(name: str, text: str) -> None:
    """Identifiers of C and SQL, code between backticks and single-word strings are not prose."""
    assert words(name, text) == []


def test_phrase_continues_on_the_next_line() -> None:
    """A phrase is found across a line break, in comments behind their leaders."""
    assert words("a.py", "# a process of its\n# own\n") == [(1, "of its own")]
    assert words("a.md", "a process of\nits own\n") == [(1, "of its own")]


def test_allowed_phrases_are_not_found() -> None:
    """Where a word is right, it stays: a connection is refused, a copy is thrown away."""
    assert words("a.md", "The connection was refused and thrown away right away.\n") == []
    assert words("a.md", "The batch was refused.\n") == [(1, "refused")]


def test_identifiers_are_found_by_their_parts() -> None:
    """A name in Python with a replaced part is found."""
    assert words("a.py", "is_told = 1\n") == [(1, "the name is_told")]
    assert words("a.py", "soldier = 1\n") == []


def test_retired_names_are_found_in_code() -> None:
    """A class that was renamed is found wherever it is named, but in documents."""
    assert words("a.py", "raise ProbeError\n") == [(1, "ProbeError")]
    assert words("CHANGELOG.md", "`PluginError` replaces `ProbeError`\n") == []
