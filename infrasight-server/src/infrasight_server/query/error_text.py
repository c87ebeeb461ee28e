"""Makes the store's errors fit for readers: one line, bounded, and without paths of the server."""

import re

from infrasight_core.net.peer_text import clean_text

_LONGEST = 1000  # characters
_PATH = re.compile(r"(?<![\w/])/[\w.+@-]++(?:/[\w.+@-]*+)++")


def readable(message: str, sql: str) -> str:
    """Returns an error's message as a reader may see it.

    Args:
        message: The message.
        sql: The reader's statement; paths that it contains remain.
    """
    shown = _PATH.sub(lambda path: path[0] if path[0] in sql else "…", message[: 2 * _LONGEST])
    return clean_text(shown, _LONGEST)
