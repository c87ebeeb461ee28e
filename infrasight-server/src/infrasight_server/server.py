"""The server: puts the parts together, starts and stops them."""

import asyncio
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc.aio
import structlog
from infrasight.v1.stream_pb2_grpc import add_EventServiceServicer_to_server
from infrasight_core.errors import ConfigError, StoreError
from infrasight_core.net.address import Address
from infrasight_core.net.channel import server_options
from infrasight_core.net.status_server import StatusServer
from infrasight_core.plugin.manager import PluginManager

from infrasight_server.ingest.budget import Budget
from infrasight_server.ingest.intake import Intake
from infrasight_server.query.queries import Queries
from infrasight_server.query.watchers import Watchers
from infrasight_server.service import EventService
from infrasight_server.settings import ServerSettings
from infrasight_server.store.accounts import SCHEMAS, Accounts, migrate_accounts
from infrasight_server.store.connections import CONNECTIONS
from infrasight_server.store.containers import Containers
from infrasight_server.store.migration import migrate
from infrasight_server.store.store import Store
from infrasight_server.store.upsert_tables import UpsertTables
from infrasight_server.store.writer import TableWriter

log = structlog.get_logger(__name__)


class Server:
    """A running server.

    Args:
        config: Its settings.
        plugins: The probes it has tables for, and the enrichers.
        store: An open store; `stop` closes it.
    """

    def __init__(self, config: ServerSettings, plugins: PluginManager, store: Store) -> None:
        self._config, self._plugins, self._store = config, plugins, store
        self._threads = ThreadPoolExecutor(CONNECTIONS, "insert")
        self._watchers = Watchers()
        self._rejected: dict[str, str] = {}
        self._writing: list[asyncio.Task[None]] = []
        self._status = StatusServer(config.status_listen, self._ready)

    async def start(self) -> None:
        """Migrates the tables and listens.

        Raises:
            ConfigError: An address cannot be listened to, or the TLS files are not usable.
            StoreError: The store went away.
        """
        config = self._config
        schemas = self._plugins.schemas()
        self._rejected = await asyncio.to_thread(migrate, self._store, schemas, config.ttl_days)
        self._writers = {
            probe: TableWriter(
                probe,
                self._store,
                self._threads,
                config.linger_seconds,
                config.max_insert_rows,
                self._watchers.publish,
            )
            for probe in schemas
            if probe not in self._rejected
        }
        budget = Budget(config.max_pending_bytes)
        containers = Containers(
            self._store, self._threads, config.linger_seconds, config.max_batch_bytes
        )
        ledger = UpsertTables(self._store, self._threads, config.linger_seconds, SCHEMAS)
        self._news = (containers.tables, ledger)
        intake = Intake(
            self._plugins, self._writers, self._rejected, containers, budget, config.max_batch_bytes
        )
        if self._writers:
            await asyncio.to_thread(migrate_accounts, self._store, config.ttl_days)
        accounts = Accounts(ledger, self._writers.keys())
        self._queries = Queries(self._store, await asyncio.to_thread(self._store.table_functions))
        self._service = EventService(
            intake, accounts, self._queries, self._watchers, frozenset(self._writers)
        )
        self._grpc = self._listening()
        self._status.start()
        await self._grpc.start()
        self._writing = [asyncio.create_task(writer.run()) for writer in self._writers.values()]
        self._telling = [asyncio.create_task(tables.run()) for tables in self._news]
        log.info(
            "listening",
            address=self.address,
            status=self.status_address,
            store=config.store,
            probes=sorted(self._writers),
        )

    @property
    def address(self) -> str:
        """Where agents and readers connect, with the real port."""
        listen = Address.parse(self._config.listen)
        return str(listen if listen.is_unix else Address(listen.host, self._port))

    @property
    def status_address(self) -> str:
        """Where `/metrics`, `/healthz` and `/readyz` are, with the real port."""
        return self._status.address

    async def stop(self) -> None:
        """Takes nothing new, stores and answers what has come, and closes the store.

        What the store does not take within `stop_seconds` is not acknowledged, so that the agents keep it.
        """
        seconds = self._config.stop_seconds
        stopping = asyncio.create_task(self._grpc.stop(seconds))
        await asyncio.sleep(0)  # it refuses new calls from now on
        self._service.stop()
        for writer in self._writers.values():
            writer.close()
        unfinished = (
            (await asyncio.wait(self._writing, timeout=seconds))[1] if self._writing else set()
        )
        for tables in self._news:
            tables.close()
        unfinished |= (await asyncio.wait(self._telling, timeout=seconds))[1]
        for task in unfinished:
            log.warning(
                "the store did not take everything in time; the agents keep what is not acknowledged"
            )
            task.cancel()
        await stopping
        self._queries.close()
        self._status.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._store.close()
        log.info("stopped")

    def _listening(self) -> grpc.aio.Server:
        config = self._config
        # Without this two servers could listen on one port, each getting some of the agents.
        server = grpc.aio.server(options=[*server_options(), ("grpc.so_reuseport", 0)])
        add_EventServiceServicer_to_server(self._service, server)
        try:
            if config.tls is None:
                self._port = server.add_insecure_port(config.listen)
            else:
                certificate, key, ca = config.tls.read()
                credentials = grpc.ssl_server_credentials(
                    [(key, certificate)], ca, require_client_auth=True
                )
                self._port = server.add_secure_port(config.listen, credentials)
        except RuntimeError as error:
            raise ConfigError(
                f"listen: cannot listen on {config.listen}: in use, or not this machine's address"
            ) from error
        return server

    def _ready(self) -> tuple[bool, str]:
        try:
            self._store.ping()
        except StoreError as error:
            return False, f"the store does not answer: {error}"
        rejected = "".join(
            f"; rejected {probe}: {reason}" for probe, reason in sorted(self._rejected.items())
        )
        return True, f"ready; probes: {', '.join(sorted(self._writers)) or 'none'}{rejected}"


async def serve(
    config: ServerSettings, started: Callable[[Server], None] = lambda server: None
) -> None:
    """Runs a server until SIGTERM or SIGINT.

    Args:
        config: Its settings.
        started: Called when it listens.

    Raises:
        ConfigError: A setting is not usable.
        StoreError: The store cannot be opened.
    """
    config.check()
    plugins = PluginManager.discover(enable=config.probes or None)
    if not plugins.schemas():
        log.warning(
            "no probe is installed: nothing can be stored; install infrasight-probe-… packages beside the server"
        )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    store = await asyncio.to_thread(config.open_store)
    server = Server(config, plugins, store)
    try:
        await server.start()
    except BaseException:
        store.close()
        raise
    started(server)
    await stop.wait()
    log.info("stopping")
    await server.stop()
