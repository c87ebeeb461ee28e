"""Identifies clients by their tokens, where the server listens on loopback without TLS."""

import hashlib
import hmac
from pathlib import Path
from typing import Any

import grpc.aio
import structlog
from attrs import frozen
from infrasight_core.errors import AuthenticationError, ConfigError
from infrasight_core.net.identity import Identity, Role
from infrasight_core.net.tokens import METADATA_KEY, SCHEME, SHORTEST
from infrasight_core.settings.private_files import read_private_file

log = structlog.get_logger(__name__)
_HASH = "sha256:"
_ROLES = (Role.AGENT, Role.AGENTS, Role.READER)


@frozen
class _Entry:
    digest: bytes
    identity: Identity


class TokenFile:
    """The file with the clients' tokens. It is read for each call, so that changes take effect.

    Each line is `ROLE NAME TOKEN`: the role is `agent` (then the name is its node), `agents` or
    `reader`, and the token is the token itself or `sha256:` with its SHA-256 in hexadecimal.

    Args:
        file: The file, which only the server's user may access.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def check(self) -> None:
        """Raises ConfigError if the file cannot be used."""
        self._read()

    def identify(self, context: grpc.aio.ServicerContext[Any, Any]) -> Identity:
        """Returns the peer of a call. Raises AuthenticationError."""
        digest = hashlib.sha256(_token_of(context)).digest()
        try:
            entries = self._read()
        except ConfigError as error:
            log.error("tokens cannot be read; every call is rejected", reason=str(error))
            raise AuthenticationError("the server cannot read its tokens") from error
        identity: Identity | None = None
        for entry in entries:
            # All are compared, so that the time does not tell which one matched.
            if hmac.compare_digest(entry.digest, digest):
                identity = entry.identity
        if identity is None:
            raise AuthenticationError("a token that the server knows is needed; set token_file")
        return identity

    def _read(self) -> list[_Entry]:
        lines = read_private_file(self._file, "tokens").splitlines()
        numbered = [(number, line.split()) for number, line in enumerate(lines, 1)]
        return [
            self._parse(number, fields)
            for number, fields in numbered
            if fields and not fields[0].startswith("#")
        ]

    def _parse(self, number: int, fields: list[str]) -> _Entry:
        """Returns the entry of a line. The messages never contain the token."""
        place = f"tokens: {self._file}, line {number}"
        if len(fields) != 3 or fields[0] not in _ROLES:
            raise ConfigError(f"{place}: write ROLE NAME TOKEN; roles: {', '.join(_ROLES)}")
        role = Role(fields[0])
        name, token = fields[1:]
        node = name if role is Role.AGENT else ""
        identity = Identity(f"{role}/{name}", frozenset({role}), node)
        if token.startswith(_HASH):
            try:
                digest = bytes.fromhex(token.removeprefix(_HASH))
            except ValueError:
                digest = b""
            if len(digest) != hashlib.sha256().digest_size:
                raise ConfigError(f"{place}: write {_HASH} and 64 hexadecimal digits")
            return _Entry(digest, identity)
        if len(token) < SHORTEST:
            raise ConfigError(f"{place}: a token has at least {SHORTEST} letters and digits")
        return _Entry(hashlib.sha256(token.encode()).digest(), identity)


def _token_of(context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    """Returns the token of a call; empty if it has none."""
    for key, value in context.invocation_metadata() or ():
        if key == METADATA_KEY:
            text = value.decode(errors="replace") if isinstance(value, bytes) else value
            return text.removeprefix(SCHEME).encode()
    return b""
