"""The operator: puts the parts together, starts and stops them."""

import asyncio
import logging
import signal
from collections.abc import Awaitable

import kopf
import structlog
from infrasight_core.errors import ConfigError
from infrasight_core.net.status_server import StatusServer

from infrasight_operator import __version__
from infrasight_operator.control.grpc_server import listen
from infrasight_operator.control.service import ControlService
from infrasight_operator.errors import ClusterError, ClusterUnavailableError
from infrasight_operator.kube import handlers
from infrasight_operator.kube.client import Cluster
from infrasight_operator.reconciler import FIRST_PAUSE, LONGEST_PAUSE, Reconciler
from infrasight_operator.settings import OperatorSettings

log = structlog.get_logger(__name__)
REFUSED_SECONDS = 20.0  # an API server that has just started knows neither tokens nor roles yet, and refuses everybody


async def operate(config: OperatorSettings) -> None:
    """Runs until a signal ends it.

    Raises:
        ConfigError: An address, the TLS files or the way to the API are not usable, or the API refuses what is needed.
    """
    config.check()
    for chatty in (
        "httpx2",
        "kopf.objects",
        "kopf.activities",
    ):  # a line for each call, and for each event
        logging.getLogger(chatty).setLevel(logging.WARNING)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    cluster = Cluster(config.namespace)
    reconciler = Reconciler(cluster, config.told)
    server, port = listen(
        ControlService(reconciler.agents), config.listen, config.tls, config.plaintext
    )
    status = StatusServer(config.status_listen, lambda: _ready(reconciler))
    try:
        status.start()
        await server.start()
        log.info(
            "started",
            version=__version__,
            namespace=cluster.namespace,
            port=port,
            status=status.address,
            agents_told=config.told,
        )
        await _until(stop, _first_look(reconciler))
        if not stop.is_set():
            await _until(stop, _work(cluster, reconciler, stop))
    finally:
        reconciler.agents.close()
        await server.stop(config.stop_seconds)
        await cluster.close()
        status.stop()
        log.info("stopped")


async def _work(cluster: Cluster, reconciler: Reconciler, stop: asyncio.Event) -> None:
    """Watches and reconciles; one does not live without the other."""
    writing = asyncio.create_task(reconciler.run())
    # Not kopf.operator, which in the end waits for every task of the loop that is younger than it: agents' streams, too.
    watching = await kopf.spawn_tasks(
        registry=handlers.watching(reconciler.seen, cluster.config),
        settings=handlers.settings(),
        namespaces=[cluster.namespace],
        standalone=True,
        stop_flag=stop,
    )
    tasks = {writing, *watching}
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()  # by a signal, which kopf takes over, one of its tasks ends well
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _first_look(reconciler: Reconciler) -> None:
    """Lists everything, as soon as the API server answers."""
    pause, clock = FIRST_PAUSE, asyncio.get_running_loop().time
    end = clock() + REFUSED_SECONDS
    while True:
        try:
            await reconciler.start()
            return
        except ClusterUnavailableError as error:
            log.warning(
                "the Kubernetes API does not answer", reason=str(error), retry_seconds=pause
            )
            end = clock() + REFUSED_SECONDS
        except ClusterError as error:
            if error.status not in (401, 403) or clock() > end:
                raise ConfigError(_remedy(error)) from error
            log.warning("the Kubernetes API refuses", reason=str(error), retry_seconds=pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def _remedy(error: ClusterError) -> str:
    match error.status:
        case 404:
            return f"{error}; install the resource definitions: kubectl apply --server-side -f helm/infrasight/crds"
        case 403:
            return f"{error}; the operator's role lacks this right: its README lists what it needs"
        case _:
            return str(error)


def _ready(reconciler: Reconciler) -> tuple[bool, str]:
    if not reconciler.synced:
        return False, "the cluster's objects have not been listed yet"
    return (
        True,
        f"not everything could be written: {reconciler.problem}"
        if reconciler.problem
        else "everything is written",
    )


async def _until(stop: asyncio.Event, work: Awaitable[None]) -> None:
    """Does work until it is done, or until `stop` is set."""
    stopping, working = asyncio.create_task(stop.wait()), asyncio.ensure_future(work)
    try:
        await asyncio.wait((stopping, working), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        for task in (stopping, working):
            task.cancel()
        await asyncio.gather(stopping, working, return_exceptions=True)
