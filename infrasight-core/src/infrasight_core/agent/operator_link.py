"""The cluster's operator as its agent has to do with it: whose configuration the agent follows, and whom it reports to."""

import asyncio
from collections.abc import Callable, Mapping

import structlog
from infrasight.v1.control_pb2 import Configuration, Failure, Report

from infrasight_core.agent.configuration import NodeConfiguration
from infrasight_core.agent.control_stream import ControlStream
from infrasight_core.agent.saved_configuration import SavedConfiguration
from infrasight_core.agent.settings import AgentSettings
from infrasight_core.errors import ConfigError, PluginError
from infrasight_core.net.reconnecting_stream import Peer
from infrasight_core.net.tls import require_tls_or_loopback
from infrasight_core.packages.report import Installed, read_report
from infrasight_core.version import version

log = structlog.get_logger(__name__)
REASON_LENGTH = 1000  # characters of a reason that travel


class OperatorLink:
    """What it wants of this node, and what it is told.

    Attributes:
        news: Set while there is a configuration that has not been dealt with.
        rejected: Why the last one was rejected as a whole; empty where it was not.

    Args:
        settings: The agent's own.
        state: Fills in what the agent does at this moment: running, failures, installed, not_streaming.
    """

    def __init__(self, settings: AgentSettings, state: Callable[[Report], None]) -> None:
        require_tls_or_loopback(settings.operator, settings.tls, settings.plaintext)
        self._settings, self._state = settings, state
        self._kept, self._kept_failure = SavedConfiguration(settings.state), ""
        self._packages = read_report(settings.packages) if settings.packages else Installed()
        self._stream = ControlStream(
            Peer(settings.operator, settings.tls, settings.plaintext), self.report, self._came
        )
        self._newest: Configuration | None = None
        self._done: Configuration | None = None
        self._in_file: Configuration | None = None
        self.news = asyncio.Event()
        self.rejected = ""

    async def run(self) -> None:
        """Begins with the configuration that was kept, then follows, until it is cancelled."""
        try:
            if (kept := await asyncio.to_thread(self._kept.read)) is not None:
                log.info("begins with the configuration that was kept", digest=kept.digest)
                self._in_file = kept
                self._came(kept)
        except ConfigError as error:
            self._not_kept(error)
        await self._stream.run()

    def waits(self) -> str:
        """For whom the agent waits, and why; empty where it does not."""
        if self._done is not None or self.rejected:
            return ""
        return f"waits for its configuration from {self._settings.operator}: {self._stream.reason}"

    def next(self) -> Configuration | None:
        """The newest configuration, to be dealt with; None where none has come."""
        self.news.clear()
        return self._newest

    def over(
        self, message: Configuration | None, settings: AgentSettings
    ) -> tuple[AgentSettings, Mapping[str, PluginError]]:
        """The agent's own settings with a configuration over them, and what is wrong in that with single plugins.

        Without one no probe is to run.

        Raises:
            ConfigError: It cannot be read.
        """
        configuration = NodeConfiguration() if message is None else NodeConfiguration.read(message)
        return configuration.over(settings), configuration.wrong

    async def dealt_with(self, message: Configuration | None, rejected: str) -> None:
        """Keeps a configuration that came into force, and reports.

        Args:
            message: The configuration.
            rejected: Why it did not come into force; empty where it did.
        """
        self._done, self.rejected = message, rejected
        if message is not None and not self.rejected and message != self._in_file:
            try:
                await asyncio.to_thread(self._kept.write, message)
                self._in_file, self._kept_failure = message, ""
            except ConfigError as error:
                self._not_kept(error)
        self._stream.tell()

    def report(self) -> Report:
        """What there is to say now."""
        report = Report(
            node=self._settings.node,
            pod=self._settings.pod,
            agent_version=version(),
            rejected=_short(self.rejected),
        )
        if self._done is not None:
            report.digest = self._done.digest
        self._state(report)
        report.packages.extend(self._packages.packages)
        report.failures.extend(self._packages.failures)
        if self._kept_failure:
            report.failures.append(Failure(name="state", reason=_short(self._kept_failure)))
        return report

    def _came(self, message: Configuration) -> None:
        if message != self._newest:
            self._newest = message
            self.news.set()

    def _not_kept(self, error: ConfigError) -> None:
        self._kept_failure = str(error)
        log.error("configuration not kept", reason=str(error))


def failure(name: str, reason: str) -> Failure:
    """A probe's or tracker's failure, as it is reported."""
    return Failure(name=name, reason=_short(reason))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= REASON_LENGTH else line[: REASON_LENGTH - 1] + "…"
