"""What kopf does for us: it watches, and tells what it saw. It writes nothing: no finalizer, no annotation, no Event."""

import itertools
from collections.abc import Iterator
from typing import Any

import kopf
from lightkube.config.kubeconfig import SingleConfig

from infrasight_operator.kube.login import connection
from infrasight_operator.kube.object_cache import ObjectCache
from infrasight_operator.kube.resources import WATCHED, Kind


class _ForEver:
    """Pauses between attempts, without end: an API server may be away for hours, and an operator that gives up helps nobody."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.2, 0.5, 1, 2), itertools.repeat(5))


def watching(seen: ObjectCache, config: SingleConfig) -> kopf.OperatorRegistry:
    """The handlers: one for each kind, which passes on what it is given.

    Args:
        seen: Where it goes.
        config: How the API server is reached.
    """
    registry = kopf.OperatorRegistry()

    async def login(**_: Any) -> kopf.ConnectionInfo:
        return connection(config)

    kopf.on.login(registry=registry)(login)
    for kind in WATCHED:
        kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=kind.plural)(
            _passing(seen, kind)
        )
    return registry


def settings() -> kopf.OperatorSettings:
    """How kopf is to behave."""
    made = kopf.OperatorSettings()
    made.scanning.disabled = True  # it would want to list CRDs and namespaces
    made.posting.enabled = False
    made.queueing.idle_timeout = (
        0.5  # a worker per object waits for more events of it; at the end, all are waited for
    )
    made.queueing.exit_timeout = 0.5
    made.peering.standalone = True
    made.networking.error_backoffs = _ForEver()
    made.networking.request_timeout = 30
    made.networking.connect_timeout = 10
    return made


def _passing(seen: ObjectCache, kind: Kind) -> Any:
    async def passing(event: kopf.RawEvent, **_: Any) -> None:
        seen.event(kind, event["type"], event["object"])

    return passing
