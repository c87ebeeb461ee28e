"""Hides passwords in messages that show settings or URLs."""

import re

_SECRET_KEY = re.compile(r"password|passwd|secret|token|credential", re.IGNORECASE)
_URL_USER = re.compile(r"(?<=://)[^/\s]*@")


def is_secret(key: str) -> bool:
    """Returns whether a setting of this name holds a secret, by its name."""
    return _SECRET_KEY.search(key) is not None


def hide_url_credentials(text: str) -> str:
    """Replaces the user and the password of every URL in a text."""
    return _URL_USER.sub("…@", text)
