"""The operator's own exceptions; the core defines the others."""

from infrasight_core.errors import InfraSightError


class ObjectError(InfraSightError):
    """An object of the Kubernetes API does not match its schema."""


class ClusterError(InfraSightError):
    """The API server rejected a call; a retry would fail the same way.

    Attributes:
        status: The HTTP status of the response.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ClusterUnavailableError(InfraSightError):
    """The API server does not answer, or cannot serve the call now; a retry may succeed."""
