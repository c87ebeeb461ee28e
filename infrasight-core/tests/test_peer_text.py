"""Text from another process is one printable line of bounded length."""

import pytest
from infrasight_core.net.peer_text import clean_text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("no such probe", "no such probe"),
        ("two\r\nlines\tand more", "two lines and more"),
        ("\x1b[31mred\x00", "\\x1b[31mred\\x00"),
        ("right\u202eleft", "right\\u202eleft"),
        ("\ud800", "\\ud800"),
        ("ä€", "ä€"),
        ("", ""),
    ],
)
def test_text_is_one_printable_line(text: str, clean: str) -> None:
    """White space is joined; what a terminal would obey, or protobuf reject, is escaped."""
    assert clean_text(text) == clean


@pytest.mark.parametrize("text", ["x" * 51, "\x00" * 20, " " * 1000 + "x", "x" * 10_000_000])
def test_text_is_bounded(text: str) -> None:
    """Also after escaping, a text is at most as long as allowed, and shows that it was cut."""
    clean = clean_text(text, 50)
    assert len(clean) <= 50
    assert clean.endswith("…")
    assert len(clean_text("x" * 50, 50)) == 50
