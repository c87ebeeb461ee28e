"""Runs the agent process: recorder, outbox, uplink, operator link and status server."""

import asyncio
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from attrs import evolve
from infrasight.v1.control_pb2 import Report
from infrasight.v1.stream_pb2 import Hello, ProbeSchema
from prometheus_client import Counter

from infrasight_core.agent.bounded_spool import open_spool
from infrasight_core.agent.canary import Canary
from infrasight_core.agent.event_uplink import EventUplink
from infrasight_core.agent.operator_link import OperatorLink, failure
from infrasight_core.agent.outbox import Outbox
from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.reload import Reloader
from infrasight_core.agent.reload_plan import NO_FAILURES
from infrasight_core.agent.settings import AgentSettings, SettingsSource
from infrasight_core.errors import InfraSightError
from infrasight_core.kernel.store_files import find_store_files
from infrasight_core.net.address import Address
from infrasight_core.net.peer_text import clean_text
from infrasight_core.net.status_server import StatusServer
from infrasight_core.net.tasks import cancel_all
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.version import version

log = structlog.get_logger(__name__)
RELOADS = Counter(
    "infrasight_reloads",
    "Times that the agent read its settings again, by outcome: done or rejected.",
    ["outcome"],
)
_FILE_INTERVAL = 1.0  # seconds between two looks at the settings file
_ACKNOWLEDGEMENT_INTERVAL = 0.02  # seconds between two looks at the outbox when the agent stops


class Agent:
    """The agent of one node.

    Args:
        settings: Its settings.
        source: Where it reads them again when they change.
    """

    def __init__(self, settings: AgentSettings, source: SettingsSource) -> None:
        servers = [settings.peer(address) for address in settings.servers()]
        for server in servers:
            server.require_tls_or_loopback()
        random.shuffle(servers)
        if settings.tls:
            settings.tls.read()  # raises now; later, unusable files count as being replaced
        self._source = source
        self._operator = OperatorLink(settings, self._add_state) if settings.operator else None
        self._installed_probes: list[str] = []
        if self._operator:
            settings = evolve(settings, probes=())  # the operator selects the probes
            self._installed_probes = PluginManager.discover(disable=settings.disable).probes()
        self._settings = settings
        plugins = PluginManager.discover(settings.enabled(), settings.disable)
        plugins.options = settings.options
        # Includes probes that have been detached since: some of their batches may still wait.
        self._schemas = plugins.schemas()
        self._outbox = Outbox(settings.outbox_memory, open_spool(settings.spool))
        self._recorder = Recorder(plugins, settings.load_settings(), settings.node, self._outbox)
        self._canary = Canary(self._recorder, settings.canary_interval)
        self._reloader = Reloader(self._recorder, settings)
        self._uplink = EventUplink(
            servers[0],
            self._make_hello,
            self._outbox,
            on_store_folder=self._exclude_store,
            others=servers[1:],
        )
        self._status = StatusServer(settings.status_listen, self._ready)
        self._reload_failure = ""  # unlike an invalid setting, it may leave a reload half done
        self._stop = asyncio.Event()
        self._reload_requested = asyncio.Event()

    async def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Runs until SIGTERM or SIGINT.

        SIGHUP, a change of the settings file, or the operator makes it reload its settings.

        Args:
            started: Called when it has started.

        Raises:
            InfraSightError: The agent cannot start, or its recorder failed.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGINT, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_requested.set)
        self._outbox.bind(loop)
        self._status.start()
        try:
            self._recorder.start()  # a probe that is attached is read while others are loaded
            if not self._operator:
                await self._attach_probes()
            self._canary.start()
            streams = [asyncio.create_task(self._uplink.run())]
            if self._operator:
                streams.append(asyncio.create_task(self._operator.run()))
            log.info(
                "recording",
                node=self._settings.node,
                probes=self._recorder.probes(),
                status=self._status.address,
            )
            started()
            await self._reload_until_stopped(streams)
            await self._flush()
            await cancel_all(streams)
            self._close_outbox()
        finally:
            self._status.stop()
        if self._recorder.failure:
            raise InfraSightError(f"the recorder failed: {self._recorder.failure!r}; see the log")

    async def _attach_probes(self) -> None:
        """Attaches the probes of the settings; without any, the recorder ends."""
        try:
            await asyncio.to_thread(self._reloader.start)
        except InfraSightError:
            await asyncio.to_thread(self._recorder.stop)
            raise

    async def _reload_until_stopped(self, streams: "list[asyncio.Task[None]]") -> None:
        """Reloads on request, until the agent is stopped or the recorder or a stream fails."""
        loaded = self._source.signature()
        previous = loaded
        while not self._stop.is_set() and self._recorder.failure is None:
            await self._wait_for_event(streams)
            signature = self._source.signature()
            # A file that two looks see alike is not being written at the moment.
            file_changed = signature != loaded and signature == previous
            previous = signature
            operator_updated = self._operator is not None and self._operator.updated.is_set()
            if self._reload_requested.is_set() or file_changed or operator_updated:
                self._reload_requested.clear()
                loaded = signature
                await self._reload()

    async def _wait_for_event(self, streams: "list[asyncio.Task[None]]") -> None:
        events = [self._stop, self._reload_requested]
        if self._operator:
            events.append(self._operator.updated)
        waits = [asyncio.create_task(event.wait()) for event in events]
        await asyncio.wait(
            {*waits, *streams}, timeout=_FILE_INTERVAL, return_when=asyncio.FIRST_COMPLETED
        )
        for wait in waits:
            wait.cancel()
        for stream in streams:
            if stream.done():
                stream.result()  # raises what ended the stream

    async def _reload(self) -> None:
        """Reads the settings again and applies them; if they are invalid, nothing changes."""
        configuration = self._operator.next_configuration() if self._operator else None
        invalid = NO_FAILURES
        rejected = ""
        try:
            settings = await asyncio.to_thread(self._source.read)
            if self._operator:
                settings, invalid = self._operator.merge(configuration, settings)
            await asyncio.to_thread(self._reloader.reload, settings, invalid)
        except InfraSightError as error:
            rejected = str(error)
            RELOADS.labels("rejected").inc()
            log.error("settings not changed", reason=rejected)
        except Exception as error:
            rejected = clean_text(f"unexpected error: {error!r}")
            self._reload_failure = f"the last reload failed: {rejected}"
            RELOADS.labels("rejected").inc()
            log.exception("reload failed")
        else:
            self._reload_failure = ""
            RELOADS.labels("done").inc()
            self._schemas |= self._recorder.plugins.schemas()
            self._uplink.greet_again()
        if self._operator:
            await self._operator.finish(configuration, rejected)

    async def _flush(self) -> None:
        """Ends the recorder and waits a while for the last acknowledgements."""
        await asyncio.to_thread(self._canary.stop)
        counts_by_probe = await asyncio.to_thread(self._recorder.stop)
        deadline = time.monotonic() + self._settings.stop_seconds
        while self._outbox.can_send() and self._uplink.open and time.monotonic() < deadline:
            await asyncio.sleep(_ACKNOWLEDGEMENT_INTERVAL)
        for probe, counts in counts_by_probe.items():
            log.info(
                "probe ended",
                probe=probe,
                seen=counts.seen,
                filtered=counts.filtered,
                submitted=counts.submitted,
                dropped=counts.dropped,
            )

    def _close_outbox(self) -> None:
        """Closes the outbox; what is not on disk is lost."""
        spooled, lost = self._outbox.close()
        if spooled:
            log.info("the next start sends the events in the spool", events=spooled)
        if lost:
            log.error("stopped with events that no server has acknowledged", events=lost)

    def _make_hello(self) -> Hello:
        probes = [
            ProbeSchema(
                probe=name,
                message_type=schema.message_type,
                fingerprint=schema.fingerprint,
                arrow_schema=schema.agent.serialize().to_pybytes(),
            )
            for name, schema in self._schemas.items()
        ]
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return Hello(
            node=self._settings.node, boot_id=boot_id, agent_version=version(), probes=probes
        )

    def _exclude_store(self, folder: bytes) -> None:
        """Does not record that the server's store, if it is here, works on its own files."""
        is_here = bool(folder) and Address.parse(self._uplink.server).is_loopback
        self._recorder.exclude_store(find_store_files(folder) if is_here else None)

    def _add_state(self, report: Report) -> None:
        """Adds to a report for the operator what runs, what fails, and the uplink's state."""
        report.running.extend(self._recorder.probes())
        for name, error in self._reloader.failures.items():
            report.failures.append(failure(name, error.reason))
        for name, problem in self._canary.problems.items():
            report.failures.append(failure(name, problem))
        report.installed.extend(self._installed_probes)
        report.not_streaming = "" if self._uplink.open else self._uplink.reason

    def _ready(self) -> tuple[bool, str]:
        if self._reload_failure:
            return False, self._reload_failure
        if self._operator:
            problem = self._operator.waiting_reason() or self._operator.rejected
            if problem:
                return False, problem
        if self._reloader.failures:
            return False, "; ".join(str(error) for error in self._reloader.failures.values())
        if self._canary.problems:
            problems = self._canary.problems.items()
            return False, "; ".join(f"{probe}: {problem}" for probe, problem in problems)
        probes = ", ".join(self._recorder.probes())
        if not probes and not self._operator:
            return False, "no probe is attached yet"
        if not self._uplink.open:
            return False, f"no stream to {self._uplink.server}: {self._uplink.reason}"
        if self._outbox.problem:
            return False, self._outbox.problem
        if self._uplink.not_accepted:
            problems = self._uplink.not_accepted.items()
            reasons = "; ".join(f"{probe}: {reason}" for probe, reason in problems)
            return False, f"the server does not accept {reasons}; the batches wait here"
        recording = (
            f"recording {probes}"
            if probes
            else "recording nothing: the operator's configuration names no probe"
        )
        return True, f"{recording}; streaming to {self._uplink.server}"
