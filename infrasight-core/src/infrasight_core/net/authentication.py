"""Finds out who the peer of a gRPC call is."""

from typing import Any

import grpc.aio

from infrasight_core.errors import AuthenticationError
from infrasight_core.net.identity import Identity, Role
from infrasight_core.net.listener_credentials import ListenerCredentials

_LOCAL = Identity("local", frozenset({Role.AGENTS, Role.READER}))


class Authenticator:
    """Identifies the peers of a listening process.

    Args:
        credentials: The TLS files; None if the process listens without TLS.
    """

    def __init__(self, credentials: ListenerCredentials | None) -> None:
        self._credentials = credentials

    def identify(self, context: grpc.aio.ServicerContext[Any, Any]) -> Identity:
        """Returns the peer of a call. Raises AccessError."""
        if self._credentials is None:
            return _LOCAL
        certificates = list(context.auth_context().get("x509_pem_cert", ()))
        if not certificates:
            raise AuthenticationError("this call came without a certificate")
        return self._credentials.identify(certificates[0])
