"""The agent process: probes, recorder, outbox, stream and status, from start to a clean end."""

import asyncio
import signal
import time
from pathlib import Path

import structlog
from attrs import evolve
from infrasight.v1.control_pb2 import Report
from infrasight.v1.stream_pb2 import Hello, ProbeSchema
from prometheus_client import Counter

from infrasight_core.agent.event_uplink import EventUplink
from infrasight_core.agent.operator_link import OperatorLink, failure
from infrasight_core.agent.outbox import Outbox
from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.reload import NOTHING, RunningProbes, Source
from infrasight_core.agent.settings import AgentSettings
from infrasight_core.errors import InfraSightError
from infrasight_core.net.reconnecting_stream import Peer
from infrasight_core.net.status_server import StatusServer
from infrasight_core.net.tls import require_tls_or_loopback
from infrasight_core.plugin.manager import PluginManager
from infrasight_core.version import version

log = structlog.get_logger(__name__)
RELOADS = Counter(
    "infrasight_reloads",
    "Times that the settings were read again, by what became of it.",
    ["outcome"],
)


class Agent:
    """One agent.

    Args:
        settings: Its settings.
        source: Where they are read again when they change.
    """

    def __init__(self, settings: AgentSettings, source: Source) -> None:
        require_tls_or_loopback(settings.server, settings.tls, settings.plaintext)
        if settings.tls:
            settings.tls.read()  # later a file that is not usable is one that is being replaced
        self._operator = OperatorLink(settings, self._tell) if settings.operator else None
        if self._operator:
            settings = evolve(settings, probes=())  # it names them
        self._settings, self._source = settings, source
        self._plugins = PluginManager.discover(settings.enabled(), settings.disable)
        self._plugins.options = settings.options
        self._outbox = Outbox(settings.outbox_memory)
        self._recorder = Recorder(
            self._plugins, settings.load_settings(), settings.node, self._outbox
        )
        peer = Peer(settings.server, settings.tls, settings.plaintext)
        self._stream = EventUplink(peer, self._hello, self._outbox)
        self._status = StatusServer(settings.status_listen, self._ready)
        self._probes = RunningProbes(self._recorder, self._plugins, settings)
        self._schemas = self._plugins.schemas()
        self._installed = (
            PluginManager.discover(disable=settings.disable).probes() if self._operator else []
        )

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT; SIGHUP, a change of the file, or the operator has the settings read again.

        Raises:
            InfraSightError: It cannot go on.
        """
        loop = asyncio.get_running_loop()
        stop, asked = asyncio.Event(), asyncio.Event()
        for number, event in (
            (signal.SIGTERM, stop),
            (signal.SIGINT, stop),
            (signal.SIGHUP, asked),
        ):
            loop.add_signal_handler(number, event.set)
        self._outbox.bind(loop)
        self._status.start()
        try:
            if not self._operator:
                await asyncio.to_thread(self._probes.start)
            self._recorder.start()
            tasks = [asyncio.create_task(self._stream.run())]
            if self._operator:
                tasks.append(asyncio.create_task(self._operator.run()))
            log.info(
                "recording",
                node=self._settings.node,
                probes=self._recorder.probes(),
                status=self._status.address,
            )
            await self._until(stop, asked, tasks)
            await self._finish()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self._status.stop()
        if self._recorder.failure:
            raise InfraSightError(f"the recorder failed: {self._recorder.failure!r}; see the log")

    async def _until(
        self, stop: asyncio.Event, asked: asyncio.Event, tasks: "list[asyncio.Task[None]]"
    ) -> None:
        known = before = self._source.signature()
        events = [stop, asked, *([self._operator.news] if self._operator else [])]
        while not stop.is_set() and self._recorder.failure is None:
            waits = [asyncio.create_task(event.wait()) for event in events]
            await asyncio.wait({*waits, *tasks}, timeout=1, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            for task in tasks:
                if task.done():
                    task.result()
            now = self._source.signature()
            changed = now != known and now == before  # two looks see the same: nobody is writing it
            if asked.is_set() or changed or (self._operator and self._operator.news.is_set()):
                asked.clear()
                known = now
                await self._reload()
            before = now

    async def _reload(self) -> None:
        """Reads the settings again and changes what they change; what is wrong with them is said, and leaves all as it was."""
        message, wrong, rejected = self._operator.next() if self._operator else None, NOTHING, ""
        try:
            settings = await asyncio.to_thread(self._source.read)
            if self._operator:
                settings, wrong = self._operator.over(message, settings)
            self._plugins = await asyncio.to_thread(self._probes.change, settings, wrong)
        except InfraSightError as error:
            rejected = str(error)
            RELOADS.labels("rejected").inc()
            log.error("settings not changed", reason=rejected)
        else:
            RELOADS.labels("done").inc()
            self._schemas |= self._plugins.schemas()
            self._stream.greet()
        if self._operator:
            await self._operator.dealt_with(message, rejected)

    async def _finish(self) -> None:
        """Delivers what is in the blocks, then waits a while for the last acknowledgements."""
        counts = await asyncio.to_thread(self._recorder.stop)
        deadline = time.monotonic() + self._settings.stop_seconds
        while self._outbox.waiting()[0] and self._stream.open and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        batches, events = self._outbox.waiting()
        for probe, count in counts.items():
            log.info(
                "probe ended",
                probe=probe,
                seen=count.seen,
                filtered=count.filtered,
                submitted=count.submitted,
                dropped=count.dropped,
            )
        if events:
            log.error(
                "stopped with events that no server has acknowledged",
                batches=batches,
                events=events,
            )

    def _hello(self) -> Hello:
        probes = [
            ProbeSchema(
                probe=name, message_type=schema.message_type, fingerprint=schema.fingerprint
            )
            for name, schema in self._schemas.items()  # of those switched off too: some of their events may still wait
        ]
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return Hello(
            node=self._settings.node, boot_id=boot_id, agent_version=version(), probes=probes
        )

    def _tell(self, report: Report) -> None:
        """What the operator is told of the probes and the stream to the server."""
        report.running.extend(self._recorder.probes())
        report.failures.extend(
            failure(name, error.reason) for name, error in self._probes.failures.items()
        )
        report.installed.extend(self._installed)
        report.not_streaming = "" if self._stream.open else self._stream.reason

    def _ready(self) -> tuple[bool, str]:
        if self._operator and (why := self._operator.waits() or self._operator.rejected):
            return False, why
        if self._probes.failures:
            return False, "; ".join(str(error) for error in self._probes.failures.values())
        probes = ", ".join(self._recorder.probes())
        if not probes and not self._operator:
            return False, "no probe is attached yet"
        if not self._stream.open:
            return False, f"no stream to {self._settings.server}: {self._stream.reason}"
        doing = (
            f"recording {probes}"
            if probes
            else "recording nothing: the operator's configuration names no probe"
        )
        return True, f"{doing}; streaming to {self._settings.server}"
