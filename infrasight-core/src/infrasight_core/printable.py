"""Makes text printable, so that nothing in it can command a terminal or imitate a line."""


def escape_unprintable(text: str) -> str:
    """Escapes control and invisible characters and lone surrogates as Python writes them."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
