"""The agent process: probes, recorder, outbox, stream and status, from start to a clean end."""

import asyncio
import signal
import time
from pathlib import Path

import structlog
from infrasight.v1.stream_pb2 import Hello, ProbeSchema

from infrasight_core.agent.attach import attach_all
from infrasight_core.agent.outbox import Outbox
from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.settings import AgentSettings
from infrasight_core.errors import InfraSightError, ProbeError
from infrasight_core.plugins import PluginManager
from infrasight_core.status import StatusServer
from infrasight_core.tls import require_tls_or_loopback
from infrasight_core.transport.stream import AgentStream, Peer
from infrasight_core.version import version

log = structlog.get_logger(__name__)


class Agent:
    """One agent.

    Args:
        settings: Its settings.
    """

    def __init__(self, settings: AgentSettings) -> None:
        require_tls_or_loopback(settings.server, settings.tls, settings.plaintext)
        self._settings = settings
        self._plugins = PluginManager.discover(settings.probes or None, settings.disable)
        self._outbox = Outbox(settings.outbox_memory)
        self._recorder = Recorder(self._plugins, settings.load_settings(), settings.node, self._outbox)
        peer = Peer(settings.server, settings.tls, settings.plaintext)
        self._stream = AgentStream(peer, self._hello, self._outbox)
        self._status = StatusServer(settings.status_listen, self._ready)
        self._failures: dict[str, ProbeError] = {}

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT. Raises InfraSightError when it cannot go on."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        self._outbox.bind(loop)
        self._status.start()
        try:
            self._failures = await asyncio.to_thread(attach_all, self._plugins, self._recorder, self._settings.options)
            self._recorder.start()
            streaming = asyncio.create_task(self._stream.run())
            log.info("recording", node=self._settings.node, probes=self._recorder.probes(), status=self._status.address)
            await self._until(stop, streaming)
            await self._finish()
            streaming.cancel()
            await asyncio.gather(streaming, return_exceptions=True)
        finally:
            self._status.stop()
        if self._recorder.failure:
            raise InfraSightError(f"the recorder failed: {self._recorder.failure!r}; see the log")

    async def _until(self, stop: asyncio.Event, streaming: "asyncio.Task[None]") -> None:
        while not stop.is_set() and self._recorder.failure is None:
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({stopped, streaming}, timeout=1, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if streaming.done():
                streaming.result()

    async def _finish(self) -> None:
        """Delivers what is in the blocks, then waits a while for the last acknowledgements."""
        counts = await asyncio.to_thread(self._recorder.stop)
        deadline = time.monotonic() + self._settings.stop_seconds
        while self._outbox.waiting()[0] and self._stream.open and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        batches, events = self._outbox.waiting()
        for probe, count in counts.items():
            log.info("probe ended", probe=probe, seen=count.seen, submitted=count.submitted, dropped=count.dropped)
        if events:
            log.error("stopped with events that no server has acknowledged", batches=batches, events=events)

    def _hello(self) -> Hello:
        probes = [
            ProbeSchema(probe=name, message_type=schema.message_type, fingerprint=schema.fingerprint)
            for name, schema in self._plugins.schemas().items()
        ]
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return Hello(node=self._settings.node, boot_id=boot_id, agent_version=version(), probes=probes)

    def _ready(self) -> tuple[bool, str]:
        if self._failures:
            return False, "; ".join(str(error) for error in self._failures.values())
        if not self._recorder.probes():
            return False, "no probe is attached yet"
        if not self._stream.open:
            return False, f"no stream to {self._settings.server}: {self._stream.reason}"
        return True, f"recording {', '.join(self._recorder.probes())}; streaming to {self._settings.server}"
