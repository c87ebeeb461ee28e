"""Makes text from another process safe to log, to show and to send on."""

from infrasight_core.printable import escape_unprintable

LONGEST_TEXT = 500  # characters


def clean_text(text: str, longest: int = LONGEST_TEXT) -> str:
    """Returns a peer's text as one printable line of bounded length.

    White space becomes single spaces. Other characters that a terminal would not only print are
    escaped as Python writes them, also lone surrogates, which no protobuf string can hold.

    Args:
        text: The text.
        longest: The most characters of the result; a longer one ends with `…`.
    """
    line = escape_unprintable(" ".join(text[: longest + 1].split()))
    if len(text) <= longest and len(line) <= longest:
        return line
    return line[: longest - 1] + "…"
