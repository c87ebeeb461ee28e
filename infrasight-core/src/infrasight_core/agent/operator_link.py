"""Receives the node's configuration from the cluster's operator and reports the agent's state.

The operator is not trusted with the agent's life: a configuration that is not usable is rejected,
and no text of it can make a report that cannot be sent.
"""

import asyncio
from collections.abc import Callable, Mapping

import structlog
from infrasight.v1.control_pb2 import Configuration, Failure, Report

from infrasight_core.agent.configuration import LONGEST_DIGEST, NodeConfiguration
from infrasight_core.agent.control_stream import ControlStream
from infrasight_core.agent.saved_configuration import SavedConfiguration
from infrasight_core.agent.settings import AgentSettings
from infrasight_core.errors import ConfigError, PluginError
from infrasight_core.net.peer_text import clean_text
from infrasight_core.packages.report import ReportMessages, read_report
from infrasight_core.version import version

log = structlog.get_logger(__name__)
_LONGEST_REASON = 1000  # characters of a reported reason
_LONGEST_NAME = 256  # characters of a reported name
_MOST_FAILURES = 100  # in one report


class OperatorLink:
    """The agent's link to the operator.

    Attributes:
        updated: Set while a configuration has arrived that the agent has not handled.
        rejected: Why the last configuration was rejected as a whole; empty if it was not.

    Args:
        settings: The agent's own settings.
        add_state: Adds to a report what the agent does now: running, failures, installed and
            not_streaming.
    """

    def __init__(self, settings: AgentSettings, add_state: Callable[[Report], None]) -> None:
        peer = settings.peer(settings.operator)
        peer.require_tls_or_loopback()
        self.updated = asyncio.Event()
        self.rejected = ""
        self._settings = settings
        self._add_state = add_state
        self._packages = read_report(settings.packages) if settings.packages else ReportMessages()
        self._stream = ControlStream(peer, self.report, self._receive)
        self._file = SavedConfiguration(settings.state)
        self._file_failure = ""
        self._received: Configuration | None = None
        self._handled: Configuration | None = None
        self._saved: Configuration | None = None

    async def run(self) -> None:
        """Starts with the saved configuration, then follows the operator until it is cancelled."""
        try:
            self._saved = await asyncio.to_thread(self._file.read)
        except ConfigError as error:
            self._report_file_failure(error)
        if self._saved is not None:
            log.info("starting with the saved configuration", digest=self._saved.digest)
            self._receive(self._saved)
        await self._stream.run()

    def waiting_reason(self) -> str:
        """Returns why the agent waits for its first configuration; empty if it does not wait."""
        if self._handled is not None or self.rejected:
            return ""
        return f"waiting for a configuration from {self._settings.operator}: {self._stream.reason}"

    def next_configuration(self) -> Configuration | None:
        """Returns the newest configuration for the agent to handle; None if none has arrived."""
        self.updated.clear()
        return self._received

    def merge(
        self, message: Configuration | None, settings: AgentSettings
    ) -> tuple[AgentSettings, Mapping[str, PluginError]]:
        """Merges a configuration into the agent's own settings; without one, no probe runs.

        Returns:
            The settings, and why the configuration is invalid for single plugins.

        Raises:
            ConfigError: The configuration is invalid as a whole.
        """
        configuration = NodeConfiguration() if message is None else NodeConfiguration.parse(message)
        return configuration.merge_into(settings), configuration.invalid

    async def finish(self, message: Configuration | None, rejected: str) -> None:
        """Saves a configuration that has become active, and reports.

        Args:
            message: The configuration that the agent has handled.
            rejected: Why it was rejected; empty if it became active.
        """
        self._handled = message
        self.rejected = rejected
        if message is not None and not rejected and message != self._saved:
            try:
                await asyncio.to_thread(self._file.write, message)
            except ConfigError as error:
                self._report_file_failure(error)
            else:
                self._saved = message
                self._file_failure = ""
        self._stream.report_now()

    def report(self) -> Report:
        """Returns the report of the agent as of now."""
        report = Report(
            node=self._settings.node,
            pod=self._settings.pod,
            agent_version=version(),
            rejected=clean_text(self.rejected, _LONGEST_REASON),
        )
        if self._handled is not None:
            report.digest = self._handled.digest[:LONGEST_DIGEST]
        self._add_state(report)
        report.packages.extend(self._packages.packages)
        for package in self._packages.failures:
            report.failures.append(failure(package.name, package.reason, is_package=True))
        if self._file_failure:
            report.failures.append(failure("state", self._file_failure))
        _bound_failures(report)
        return report

    def _receive(self, message: Configuration) -> None:
        if message != self._received:
            self._received = message
            self.updated.set()

    def _report_file_failure(self, error: ConfigError) -> None:
        self._file_failure = str(error)
        log.error("saved configuration unusable", reason=str(error))


def failure(name: str, reason: str, is_package: bool = False) -> Failure:
    """Returns a failure of a probe, tracker or package for a report."""
    return Failure(
        name=clean_text(name, _LONGEST_NAME),
        reason=clean_text(reason, _LONGEST_REASON),
        is_package=is_package,
    )


def _bound_failures(report: Report) -> None:
    """Replaces the failures that a report has too many of by their number."""
    excess = len(report.failures) - _MOST_FAILURES
    if excess > 0:
        del report.failures[_MOST_FAILURES:]
        report.failures.append(failure("…", f"and {excess} more failures"))
