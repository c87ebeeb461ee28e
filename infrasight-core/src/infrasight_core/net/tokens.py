"""Reads the token with which a client proves who it is where there is no TLS."""

from pathlib import Path

from infrasight_core.errors import ConfigError
from infrasight_core.settings.private_files import read_private_file

METADATA_KEY = "authorization"
SCHEME = "Bearer "
SHORTEST = 32  # characters


def read_token(file: Path) -> str:
    """Reads a token file.

    Raises:
        ConfigError: The file cannot be read, other users may read it, or it holds no token.
    """
    token = read_private_file(file, "token_file").strip()
    if len(token) < SHORTEST or not token.isascii() or not token.isalnum():
        raise ConfigError(
            f"token_file: {file} must hold one token of at least {SHORTEST} letters and digits; "
            "make one with `openssl rand -hex 32`"
        )
    return token
