"""Starts and stops the server: builds its parts, connects them and runs their tasks."""

import asyncio
import gc
import math
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import grpc.aio
import structlog
from infrasight_core.errors import ConfigError, StoreError
from infrasight_core.net.address import Address
from infrasight_core.net.authentication import Authenticator
from infrasight_core.net.channel import server_options
from infrasight_core.net.identity import Identity
from infrasight_core.net.listener_credentials import ListenerCredentials
from infrasight_core.net.status_server import StatusServer
from infrasight_core.plugin.manager import PluginManager

from infrasight_server.access.socket_relay import SocketRelay
from infrasight_server.access.socket_users import SocketUsers
from infrasight_server.access.tokens import TokenFile
from infrasight_server.ingest.memory_budget import MemoryBudget
from infrasight_server.ingest.pipeline import IngestPipeline
from infrasight_server.ingest.stream_limits import StreamLimits
from infrasight_server.limits import STREAM_SECONDS
from infrasight_server.query.query_runner import QueryRunner
from infrasight_server.query.query_slots import SlotLimits
from infrasight_server.query.watchers import Watchers
from infrasight_server.registration import bounding_options, max_rpcs, register
from infrasight_server.service import EventService
from infrasight_server.settings import ServerSettings
from infrasight_server.store.accounts import TABLES, AccountTables, migrate_accounts
from infrasight_server.store.batch_writer import BatchWriter
from infrasight_server.store.clickhouse import Store
from infrasight_server.store.connections import CONNECTIONS
from infrasight_server.store.containers import ContainerTable
from infrasight_server.store.disk_guard import DiskGuard
from infrasight_server.store.migration import migrate
from infrasight_server.store.upsert_writer import UpsertWriter
from infrasight_server.task_supervisor import TaskSupervisor

log = structlog.get_logger(__name__)
Identification = Callable[[grpc.aio.ServicerContext[Any, Any]], Identity]


class Server:
    """A server; it runs between `start` and `stop`.

    Args:
        settings: The settings.
        plugins: The probes whose events it stores, and the enrichers.
        store: An open store; `stop` closes it.
    """

    def __init__(self, settings: ServerSettings, plugins: PluginManager, store: Store) -> None:
        self._settings = settings
        self._plugins = plugins
        self._store = store
        self._threads = ThreadPoolExecutor(CONNECTIONS, "insert")
        self._watchers = Watchers(settings.watchers_per_peer)
        self._supervisor = TaskSupervisor()
        self._migrating = Lock()
        self._rejected_probes: dict[str, str] = {}
        self._warnings: list[str] = []
        self._writers: dict[str, BatchWriter] = {}
        self._upsert_writers: tuple[UpsertWriter, ...] = ()
        self._batch_tasks: list[asyncio.Task[None]] = []
        self._upsert_tasks: list[asyncio.Task[None]] = []
        self._guard_task: asyncio.Task[None] | None = None
        self._disk_guard = DiskGuard(store, settings.disk_limit)
        self._disk_task: asyncio.Task[None] | None = None
        self._status = StatusServer(settings.status_listen, self._readiness)
        self._relay: SocketRelay | None = None

    async def start(self) -> None:
        """Migrates the tables and listens.

        Raises:
            ConfigError: The server cannot listen on an address, or the TLS files are not usable.
            StoreError: The store rejects a table or is unavailable.
        """
        settings = self._settings
        credentials = None if settings.tls is None else ListenerCredentials(settings.tls)
        schemas = self._plugins.schemas()
        unknown = sorted(settings.probe_ttl_days.keys() - schemas.keys())
        if unknown:
            self._warnings.append(f"probe_ttl_days: not installed: {', '.join(unknown)}")
            log.warning("probe_ttl_days names probes that are not installed", probes=unknown)
        self._rejected_probes = await asyncio.to_thread(self._create_tables)
        self._writers = {
            probe: self._batch_writer(probe)
            for probe in schemas
            if probe not in self._rejected_probes
        }
        containers = ContainerTable(
            self._store, self._threads, settings.linger_seconds, self._create_tables
        )
        account_writer = UpsertWriter(
            self._store, self._threads, settings.linger_seconds, TABLES, self._create_tables
        )
        self._pipeline = IngestPipeline(
            self._plugins,
            self._writers,
            self._rejected_probes,
            containers,
            MemoryBudget(settings.max_pending_bytes),
            settings.batch_limits,
            self._store.folder,
        )
        accounts = AccountTables(account_writer, self._writers.keys(), settings.batch_limits)
        identification = self._choose_identification(credentials)
        self._queries = QueryRunner(
            self._store,
            settings.query_seconds,
            SlotLimits(settings.query_slots, settings.query_slots_per_peer),
        )
        longest_stream = STREAM_SECONDS if self._store.is_shared else math.inf
        self._service = EventService(
            self._pipeline,
            accounts,
            self._queries,
            self._watchers,
            frozenset(self._writers),
            identification,
            StreamLimits(settings.max_streams, longest_stream),
        )
        self._grpc = self._grpc_server(credentials)
        self._status.start()
        await self._grpc.start()
        if self._relay is not None:
            await self._relay.start()
        self._upsert_writers = (containers.writer, account_writer)
        self._guard_task = self._supervisor.start("access", self._service.guard.run)
        self._disk_task = self._supervisor.start("disk", self._disk_guard.run)
        self._batch_tasks = [
            self._supervisor.start(f"{probe}_events", writer.run)
            for probe, writer in self._writers.items()
        ]
        self._upsert_tasks = [
            self._supervisor.start("containers", containers.writer.run),
            self._supervisor.start("accounts", account_writer.run),
        ]
        log.info(
            "listening",
            address=self.address,
            status=self.status_address,
            store=settings.store,
            probes=sorted(self._writers),
        )

    @property
    def address(self) -> str:
        """The address for agents and readers, with the actual port."""
        listen = Address.parse(self._settings.listen)
        return str(listen if listen.is_unix else Address(listen.host, self._port))

    @property
    def status_address(self) -> str:
        """The address of `/metrics`, `/healthz` and `/readyz`, with the actual port."""
        return self._status.address

    async def stop(self) -> None:
        """Stops reading, stores and answers the batches that have been read, closes the store.

        Batches that the store does not accept within `stop_seconds` are not acknowledged, so that
        the agents keep them.
        """
        seconds = self._settings.stop_seconds
        if self._relay is not None:
            self._relay.close()
        stopping = asyncio.create_task(self._grpc.stop(seconds))
        await asyncio.sleep(0)  # lets the task begin: from now on gRPC rejects new calls
        self._service.stop()
        for task in (self._guard_task, self._disk_task):
            if task is not None:
                task.cancel()
        await self._pipeline.finish()
        for batch_writer in self._writers.values():
            batch_writer.close()
        unfinished = await _wait_for(self._batch_tasks, seconds)
        for upsert_writer in self._upsert_writers:
            upsert_writer.close()
        unfinished |= await _wait_for(self._upsert_tasks, seconds)
        for task in unfinished:
            log.warning("the store was too slow; the agents keep the unacknowledged batches")
            task.cancel()
        await stopping
        if self._relay is not None:
            await self._relay.stop()
        await self._queries.stop()
        self._status.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._store.close()
        log.info("stopped")

    def _batch_writer(self, probe: str) -> BatchWriter:
        return BatchWriter(
            probe,
            self._store,
            self._threads,
            self._settings.linger_seconds,
            self._settings.max_insert_rows,
            self._watchers.publish,
            self._create_tables,
        )

    def _create_tables(self) -> dict[str, str]:
        """Creates or completes the database and all tables.

        Returns:
            The probes whose tables cannot be used, each with the reason.

        Raises:
            StoreError: The store rejects a table or is unavailable.
        """
        with self._migrating:
            self._store.create_database()
            schemas = self._plugins.schemas()
            rejected = migrate(self._store, schemas, self._settings.ttl)
            if len(rejected) < len(schemas):
                migrate_accounts(self._store, self._settings.ttl)
        return rejected

    def _choose_identification(self, credentials: ListenerCredentials | None) -> Identification:
        """Returns the function that finds out who the peer of a call is."""
        settings = self._settings
        listen = Address.parse(settings.listen)
        if listen.is_unix:
            users = SocketUsers.find(settings.socket_group, settings.agent_users)
            self._relay = SocketRelay(Path(listen.host).absolute(), users)
            return self._relay.identify
        if settings.tokens is not None:
            tokens = TokenFile(settings.tokens)
            tokens.check()
            return tokens.identify
        if settings.tls is None:
            log.warning(
                "no TLS and no tokens: everyone who reaches the address may write and read",
                address=settings.listen,
            )
        return Authenticator(credentials).identify

    def _grpc_server(self, credentials: ListenerCredentials | None) -> grpc.aio.Server:
        listen = self._relay.grpc_address if self._relay else self._settings.listen
        # Without so_reuseport=0 two servers could share a port, each getting some of the agents.
        options = dict([*server_options(), *bounding_options(self._settings)])
        server = grpc.aio.server(
            options=[*options.items(), ("grpc.so_reuseport", 0)],
            maximum_concurrent_rpcs=max_rpcs(self._settings),
        )
        register(self._service, server)
        try:
            if credentials is None:
                self._port = server.add_insecure_port(listen)
            else:
                self._port = server.add_secure_port(listen, credentials.for_grpc())
        except RuntimeError as error:
            raise ConfigError(
                f"listen: cannot listen on {listen}: in use, or not this machine's address"
            ) from error
        return server

    def _readiness(self) -> tuple[bool, str]:
        problems = []
        try:
            self._store.ping()
        except StoreError as error:
            problems.append(f"store unavailable: {error}")
        problems += [writer.problem() for writer in self._writers.values()]
        problems += [upsert_writer.problem() for upsert_writer in self._upsert_writers]
        problems.append(self._supervisor.failing())
        if any(problems):
            return False, "; ".join(problem for problem in problems if problem)
        parts = [f"ready; probes: {', '.join(sorted(self._writers)) or 'none'}"]
        for probe, reason in sorted(self._rejected_probes.items()):
            parts.append(f"rejected {probe}: {reason}")
        warnings = [*self._store.warnings, *self._warnings, self._disk_guard.warning()]
        parts.extend(f"warning: {warning}" for warning in warnings if warning)
        return True, "; ".join(parts)


async def _wait_for(tasks: list[asyncio.Task[None]], seconds: float) -> set[asyncio.Task[None]]:
    """Waits until the tasks end, and returns those that do not end in time."""
    if not tasks:
        return set()
    return (await asyncio.wait(tasks, timeout=seconds))[1]


async def serve(
    settings: ServerSettings, started: Callable[[Server], None] = lambda server: None
) -> None:
    """Runs a server until SIGTERM or SIGINT.

    Args:
        settings: The settings.
        started: Called when the server listens.

    Raises:
        ConfigError: A setting is not usable.
        StoreError: The store cannot be opened.
    """
    settings.check()
    plugins = PluginManager.discover(enable=settings.probes or None)
    if not plugins.schemas():
        log.warning(
            "no probe is installed, so no event can be stored; "
            "install infrasight-probe-… packages beside the server"
        )
    stop_requested = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop_requested.set)
    store = await asyncio.to_thread(settings.open_store)
    for warning in store.warnings:
        log.warning("the store is not protected from its readers", reason=warning)
    server = Server(settings, plugins, store)
    try:
        await server.start()
    except BaseException:
        store.close()
        raise
    # What exists now stays: the garbage collector need not visit it again and again.
    gc.collect()
    gc.freeze()
    started(server)
    await stop_requested.wait()
    log.info("stopping")
    await server.stop()
