"""Assembles the operator from its parts; starts and stops them."""

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable

import kopf
import structlog
from infrasight_core.errors import ConfigError
from infrasight_core.net.authentication import Authenticator
from infrasight_core.net.backoff import Backoff
from infrasight_core.net.listener_credentials import ListenerCredentials
from infrasight_core.net.status_server import StatusServer
from infrasight_core.net.tasks import cancel_all

from infrasight_operator import __version__
from infrasight_operator.control.grpc_server import build_server
from infrasight_operator.control.service import ControlService
from infrasight_operator.errors import ClusterError, ClusterUnavailableError
from infrasight_operator.kube import handlers
from infrasight_operator.kube.client import KubeClient
from infrasight_operator.reconciler import FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS, Reconciler
from infrasight_operator.settings import OperatorSettings

log = structlog.get_logger(__name__)
# An API server that has just started rejects every call until it knows its tokens and roles.
STARTUP_AUTH_SECONDS = 20.0
# The API server accepts options of policies that are nested up to 10,000 levels deep. The operator
# must parse them before it can reject them, and code that recurses takes a few calls a level.
_RECURSION_LIMIT = 60_000
# These loggers write a line for each call or event.
_VERBOSE_LOGGERS = ("httpx2", "kopf.objects", "kopf.activities")


async def run_operator(settings: OperatorSettings) -> None:
    """Runs the operator until SIGTERM or SIGINT.

    Raises:
        ConfigError: An address, the TLS files or the connection to the API is unusable, or the API
            server denies a right that the operator needs.
    """
    settings.check()
    sys.setrecursionlimit(_RECURSION_LIMIT)
    for name in _VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    client = KubeClient(settings.namespace)
    reconciler = Reconciler(client, settings.advertised_address)
    credentials = None if settings.tls is None else ListenerCredentials(settings.tls)
    if credentials is None:
        log.warning(
            "no TLS: everyone who reaches the address may act for every node",
            address=settings.listen,
        )
    service = ControlService(reconciler.agents, Authenticator(credentials).identify)
    server, port = build_server(service, settings.listen, credentials)
    guarding: asyncio.Task[None] | None = None
    status = StatusServer(settings.status_listen, lambda: _readiness(reconciler))
    try:
        status.start()
        await server.start()
        guarding = asyncio.create_task(service.guard.run())
        log.info(
            "started",
            version=__version__,
            namespace=client.namespace,
            port=port,
            status=status.address,
            advertised_address=settings.advertised_address,
        )
        await _run_unless_stopped(stop, _list_cluster(reconciler))
        if not stop.is_set():
            await _run_unless_stopped(stop, _watch_and_reconcile(client, reconciler, stop))
    finally:
        if guarding is not None:
            guarding.cancel()
        reconciler.agents.close()
        await server.stop(settings.stop_seconds)
        await client.close()
        status.stop()
        log.info("stopped")


async def _watch_and_reconcile(
    client: KubeClient, reconciler: Reconciler, stop: asyncio.Event
) -> None:
    """Runs kopf and the reconciler; when one of them ends, the other is cancelled."""
    reconciling = asyncio.create_task(reconciler.run())
    # kopf.operator() would wait at its end for all younger tasks, including the agents' streams.
    watching = await kopf.spawn_tasks(
        registry=handlers.build_registry(reconciler.cache, client.connection),
        settings=handlers.kopf_settings(),
        namespaces=[client.namespace],
        standalone=True,
        stop_flag=stop,
    )
    tasks = {reconciling, *watching}
    try:
        # kopf handles signals too: then one of its tasks ends without an exception.
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    finally:
        await cancel_all(tasks)


async def _list_cluster(reconciler: Reconciler) -> None:
    """Lists all objects; waits while the API server is unavailable or starting.

    Raises:
        ConfigError: The API server denies a right, or does not know the resource definitions.
    """
    clock = asyncio.get_running_loop().time
    backoff = Backoff(FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS)
    deadline = clock() + STARTUP_AUTH_SECONDS
    while True:
        retry_seconds = round(backoff.next_pause(), 1)
        try:
            await reconciler.start()
            return
        except ClusterUnavailableError as error:
            log.warning(
                "the Kubernetes API is unavailable", reason=str(error), retry_seconds=retry_seconds
            )
            deadline = clock() + STARTUP_AUTH_SECONDS
        except ClusterError as error:
            if error.status not in (401, 403) or clock() > deadline:
                raise ConfigError(_with_remedy(error)) from error
            log.warning(
                "the Kubernetes API denies access", reason=str(error), retry_seconds=retry_seconds
            )
        await asyncio.sleep(retry_seconds)


def _with_remedy(error: ClusterError) -> str:
    match error.status:
        case 404:
            return (
                f"{error}; install the resource definitions: "
                "kubectl apply --server-side -f helm/infrasight/crds"
            )
        case 403:
            return f"{error}; the operator's role lacks this right; its README lists all rights"
        case _:
            return str(error)


def _readiness(reconciler: Reconciler) -> tuple[bool, str]:
    if not reconciler.synced:
        return False, "the cluster's objects have not been listed yet"
    if reconciler.problem:
        return True, f"some objects could not be written: {reconciler.problem}"
    return True, "all objects are written"


async def _run_unless_stopped(stop: asyncio.Event, work: Awaitable[None]) -> None:
    """Awaits `work`, or cancels it when `stop` is set."""
    stopping = asyncio.create_task(stop.wait())
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait((stopping, working), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        await cancel_all((stopping, working))
