"""The Kubernetes API client for lists and writes. kopf watches; see handlers.py."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import httpx2
from infrasight_core.errors import ConfigError
from lightkube.config.kubeconfig import SingleConfig
from lightkube.core.async_client import AsyncClient
from lightkube.core.exceptions import ApiError
from lightkube.core.exceptions import ConfigError as KubeconfigError
from lightkube.types import PatchType

from infrasight_operator.errors import ClusterError, ClusterUnavailableError
from infrasight_operator.kube.resources import Kind
from infrasight_operator.metrics import API_CALLS

FIELD_MANAGER = "infrasight-operator"
MAX_CONCURRENT_CALLS = 16
LIST_PAGE_SIZE = 500
_TIMEOUT_SECONDS = 20.0
_TEMPORARY_STATUSES = {
    # The token was just replaced, or the API server is starting.
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.GONE,
    HTTPStatus.TOO_MANY_REQUESTS,
}


class KubeClient:
    """Calls the API in one namespace, with a bounded number of concurrent calls.

    When the API server rejects the service account's token, the client reads it again.

    Args:
        namespace: The namespace; empty selects the service account's, or the one that the current
            context of KUBECONFIG names.

    Raises:
        ConfigError: There is neither a service account nor a usable KUBECONFIG.
    """

    def __init__(self, namespace: str = "") -> None:
        try:
            self._client = AsyncClient(
                namespace=namespace or None,
                timeout=httpx2.Timeout(_TIMEOUT_SECONDS),
                field_manager=FIELD_MANAGER,
            )
        except (KubeconfigError, OSError, KeyError) as error:
            raise ConfigError(
                f"cannot reach the Kubernetes API: {error}; run in a pod, or set KUBECONFIG"
            ) from error
        self._call_slots = asyncio.Semaphore(MAX_CONCURRENT_CALLS)

    @property
    def namespace(self) -> str:
        """The namespace."""
        return str(self._client.namespace)

    @property
    def connection(self) -> SingleConfig:
        """The API server's address and the credentials."""
        return self._client.config

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def list(self, kind: Kind, **selection: Any) -> tuple[list[Mapping[str, Any]], int]:
        """Lists objects of a kind; returns them with the resource version of the list.

        Args:
            kind: The kind.
            selection: lightkube's `labels` and `fields`.
        """
        async with self._call("list", kind):
            listing: Any = self._client.list(kind.resource, chunk_size=LIST_PAGE_SIZE, **selection)
            bodies = [body async for body in listing]
            return bodies, int(listing.resourceVersion)

    async def apply(self, kind: Kind, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Applies an object server-side, overriding other field managers; returns the result."""
        name = body["metadata"]["name"]
        async with self._call("apply", kind, name):
            applied: Any = await self._client.patch(
                kind.resource,
                name,
                dict(body),
                patch_type=PatchType.APPLY,
                force=True,
                field_manager=FIELD_MANAGER,
            )
            return dict(applied)

    async def apply_status(
        self, kind: Kind, name: str, status: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Applies a status server-side; returns the object with the new status."""
        body = {
            "apiVersion": f"{kind.group}/{kind.version}",
            "kind": kind.resource.__name__,
            "metadata": {"name": name},
            "status": dict(status),
        }
        async with self._call("apply_status", kind, name):
            applied = await self._client.patch(
                kind.resource.Status,  # type: ignore[attr-defined]  # every generic resource has it
                name,
                body,
                patch_type=PatchType.APPLY,
                force=True,
                field_manager=FIELD_MANAGER,
            )
            return dict(applied)

    async def delete(self, kind: Kind, name: str) -> None:
        """Deletes an object; one that does not exist is no error."""
        try:
            async with self._call("delete", kind, name):
                await self._client.delete(kind.resource, name)
        except ClusterError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    async def create(self, kind: Kind, body: Mapping[str, Any]) -> None:
        """Creates an object."""
        identity = {"apiVersion": kind.version, "kind": kind.resource.__name__}
        async with self._call("create", kind):
            await self._client.create(kind.resource({**body, **identity}))

    @asynccontextmanager
    async def _call(self, verb: str, kind: Kind, name: str = "") -> AsyncIterator[None]:
        """Waits for a call slot, counts the call and translates its errors.

        Raises:
            ClusterUnavailableError: A retry may succeed.
            ClusterError: A retry would fail the same way.
        """
        result = "error"
        call = f"{verb} {kind.resource.__name__} {name}".rstrip()
        async with self._call_slots:
            try:
                yield
                result = "ok"
            except httpx2.HTTPStatusError as error:
                status = _status_code(error)
                result = str(status)
                if status in _TEMPORARY_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise ClusterUnavailableError(f"{call}: {error}") from error
                raise ClusterError(
                    f"{call}: the API server rejected it: {error}", status
                ) from error
            except (httpx2.HTTPError, OSError) as error:
                result = "unavailable"
                raise ClusterUnavailableError(f"{call}: {type(error).__name__}: {error}") from error
            finally:
                API_CALLS.labels(verb, kind.resource.__name__, result).inc()


def _status_code(error: httpx2.HTTPStatusError) -> int:
    if error.response is not None:
        return error.response.status_code
    if isinstance(error, ApiError):
        return int(error.status.code or 0)
    return 0
