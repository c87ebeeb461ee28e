"""What the operator raises on purpose, beside the core's errors."""

from infrasight_core.errors import InfraSightError


class ObjectError(InfraSightError):
    """An object of the API is not of the form that its schema says."""


class ClusterError(InfraSightError):
    """The API server rejected something that trying again does not change.

    Attributes:
        status: The HTTP status of its answer.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ClusterUnavailableError(InfraSightError):
    """The API server does not answer, or cannot for now; the same can succeed later."""
