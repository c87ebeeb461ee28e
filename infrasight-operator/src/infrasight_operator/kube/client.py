"""The Kubernetes API, as far as the operator writes to it or lists; watching is kopf's."""

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
from lightkube.core.exceptions import ConfigError as NoCluster
from lightkube.types import PatchType

from infrasight_operator.errors import ClusterError, ClusterUnavailableError
from infrasight_operator.kube.resources import Kind
from infrasight_operator.metrics import CALLS

MANAGER = "infrasight-operator"
AT_ONCE = 16  # calls under way
CHUNK = 500  # objects of one answer to a list
_SECONDS = 20.0
_AWAY = {
    HTTPStatus.UNAUTHORIZED,  # a token that has just been replaced, or an API server that is starting
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.GONE,
    HTTPStatus.TOO_MANY_REQUESTS,
}


class Cluster:
    """Calls in one namespace, a bounded number of them at once.

    The service account's token is read again when the API server does not take it any more.

    Args:
        namespace: The namespace; empty for the service account's, or the one that KUBECONFIG's context names.

    Raises:
        ConfigError: This is no pod with a service account, and KUBECONFIG names no usable file.
    """

    def __init__(self, namespace: str = "") -> None:
        try:
            self._client = AsyncClient(
                namespace=namespace or None, timeout=httpx2.Timeout(_SECONDS), field_manager=MANAGER
            )
        except (NoCluster, OSError, KeyError) as error:
            raise ConfigError(
                f"no way to the Kubernetes API: {error}; run in a pod, or set KUBECONFIG"
            ) from error
        self._turn = asyncio.Semaphore(AT_ONCE)

    @property
    def namespace(self) -> str:
        """The namespace."""
        return str(self._client.namespace)

    @property
    def config(self) -> SingleConfig:
        """How the API server is reached."""
        return self._client.config

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def list(self, kind: Kind, **selection: Any) -> tuple[list[Mapping[str, Any]], int]:
        """All objects of a kind, and the version of the list. `labels` and `fields` select."""
        async with self._call("list", kind):
            found: Any = self._client.list(kind.resource, chunk_size=CHUNK, **selection)
            bodies = [body async for body in found]
            return bodies, int(found.resourceVersion)

    async def apply(self, kind: Kind, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Server-side apply, ours where others wrote, too; the object as it is then."""
        name = body["metadata"]["name"]
        async with self._call("apply", kind, name):
            answer: Any = await self._client.patch(
                kind.resource,
                name,
                dict(body),
                patch_type=PatchType.APPLY,
                force=True,
                field_manager=MANAGER,
            )
            return dict(answer)

    async def apply_status(
        self, kind: Kind, name: str, status: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Server-side apply of a status."""
        group = f"{kind.group}/{kind.version}"
        body = {
            "apiVersion": group,
            "kind": kind.resource.__name__,
            "metadata": {"name": name},
            "status": dict(status),
        }
        async with self._call("apply_status", kind, name):
            answer = await self._client.patch(
                kind.resource.Status,  # type: ignore[attr-defined]  # of every generic resource
                name,
                body,
                patch_type=PatchType.APPLY,
                force=True,
                field_manager=MANAGER,
            )
            return dict(answer)

    async def delete(self, kind: Kind, name: str) -> None:
        """Deletes an object; one that is not there is fine."""
        try:
            async with self._call("delete", kind, name):
                await self._client.delete(kind.resource, name)
        except ClusterError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    async def create(self, kind: Kind, body: Mapping[str, Any]) -> None:
        """Creates an object."""
        async with self._call("create", kind):
            await self._client.create(
                kind.resource({**body, "apiVersion": kind.version, "kind": kind.resource.__name__})
            )

    @asynccontextmanager
    async def _call(self, verb: str, kind: Kind, name: str = "") -> AsyncIterator[None]:
        """Waits for its turn, counts, and says what an error means.

        Raises:
            ClusterUnavailableError: Trying again may succeed.
            ClusterError: It will not, as things are.
        """
        result = "error"
        what = f"{verb} {kind.resource.__name__} {name}".rstrip()
        async with self._turn:
            try:
                yield
                result = "ok"
            except httpx2.HTTPStatusError as error:
                result = str(
                    status := error.response.status_code
                    if error.response is not None
                    else _status(error)
                )
                if status in _AWAY or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise ClusterUnavailableError(f"{what}: {error}") from error
                raise ClusterError(
                    f"{what}: the API server rejected it: {error}", status
                ) from error
            except (httpx2.HTTPError, OSError) as error:
                result = "away"
                raise ClusterUnavailableError(f"{what}: {type(error).__name__}: {error}") from error
            finally:
                CALLS.labels(verb, kind.resource.__name__, result).inc()


def _status(error: httpx2.HTTPStatusError) -> int:
    return int(error.status.code or 0) if isinstance(error, ApiError) else 0
