"""Wires kopf, which watches the cluster, to the object cache.

kopf only watches: it sets no finalizers and no annotations, and posts no Events.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import kopf
from lightkube.config.kubeconfig import SingleConfig

from infrasight_operator.kube.login import connection_info
from infrasight_operator.kube.object_cache import ObjectCache
from infrasight_operator.kube.resources import WATCHED, Kind


class _EndlessBackoff:
    """Pauses in seconds between connection attempts, without a last one.

    An API server may be unavailable for hours; the operator waits for it.
    """

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.2, 0.5, 1, 2), itertools.repeat(5))


def build_registry(cache: ObjectCache, connection: SingleConfig) -> kopf.OperatorRegistry:
    """The handlers: login, and one per watched kind that forwards its events to the cache.

    Args:
        cache: Receives the watch events.
        connection: The API server's address and the credentials.
    """
    registry = kopf.OperatorRegistry()

    async def login(**_: Any) -> kopf.ConnectionInfo:
        return connection_info(connection)

    kopf.on.login(registry=registry)(login)
    for kind in WATCHED:
        register = kopf.on.event(
            kind.group, kind.version, kind.plural, registry=registry, id=kind.plural
        )
        register(_forward_to(cache, kind))
    return registry


def kopf_settings() -> kopf.OperatorSettings:
    """kopf's settings for an operator that only watches."""
    settings = kopf.OperatorSettings()
    # Scanning needs the right to list CRDs and namespaces in the whole cluster.
    settings.scanning.disabled = True
    settings.posting.enabled = False
    # kopf waits for idle workers, one per object, when it stops.
    settings.queueing.idle_timeout = 0.5
    settings.queueing.exit_timeout = 0.5
    settings.peering.standalone = True
    settings.networking.error_backoffs = _EndlessBackoff()
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    return settings


def _forward_to(cache: ObjectCache, kind: Kind) -> Any:
    async def forward(event: kopf.RawEvent, **_: Any) -> None:
        cache.handle_watch_event(kind, event["type"], event["object"])

    return forward
