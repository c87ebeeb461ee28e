"""Errors of the store reach readers as one bounded line without paths of the server."""

from infrasight_server.query.error_text import readable


def test_paths_of_the_server_are_removed() -> None:
    """Only paths that the reader's own statement contains remain."""
    message = "Cannot open file /var/lib/infrasight/store/data/x.bin: '/etc/shadow' and 1/2, a / b"
    assert readable(message, "SELECT '/etc/shadow'") == (
        "Cannot open file …: '/etc/shadow' and 1/2, a / b"
    )


def test_error_is_one_bounded_line() -> None:
    """Line ends become spaces, control characters are escaped, and a long text is cut."""
    assert readable("a\nb\x1b[2J", "") == "a b\\x1b[2J"
    assert len(readable("x" * 1_000_000, "")) == 1000


def test_long_error_is_cleaned_in_linear_time() -> None:
    """A million slashes or letters are cut before anything is searched in them."""
    for text in ("/" * 1_000_000, "/a" * 500_000, "a/" * 500_000):
        assert len(readable(text, "")) <= 1000
