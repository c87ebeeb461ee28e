"""The recording of `infrasight trace`: attaches probes, and shows their events until it ends."""

import platform
from collections.abc import Sequence

from infrasight_core.agent.recorder import Recorder
from infrasight_core.agent.reload import attach_all
from infrasight_core.agent.settings import ProbeSettings
from infrasight_core.cli.live_view import event_view
from infrasight_core.cli.shutdown import stop_event
from infrasight_core.cli.trace_display import Display
from infrasight_core.cli.where import Where
from infrasight_core.console.streams import report
from infrasight_core.errors import InfraSightError
from infrasight_core.kernel.filters import Filters
from infrasight_core.kernel.loader import LoadSettings
from infrasight_core.plugin.manager import PluginManager

_POLL_SECONDS = 0.1


class TraceSession:
    """One run of `infrasight trace`.

    Args:
        probes: The names of the probes; empty for all that are installed.
        filters: Which events are recorded.
        conditions: Which of them are shown, as `--where` has them.
        settings: How to load programs.

    Raises:
        InfraSightError: A condition is not valid, or there is no such probe.
    """

    def __init__(
        self,
        probes: Sequence[str],
        filters: Filters,
        conditions: Sequence[str],
        settings: LoadSettings,
    ) -> None:
        self._display = Display(Where.parse(conditions))
        self._filters = filters
        self._plugins = PluginManager.discover(probes or None)
        self._recorder = Recorder(self._plugins, settings, platform.node(), self._display)

    def attach(self) -> None:
        """Attaches the probes and their trackers. Raises InfraSightError if no probe can be."""
        settings = ProbeSettings(filters=self._filters)
        attach_all(self._recorder, dict.fromkeys(self._plugins.probes(), settings))

    def run(self, as_table: bool | None) -> None:
        """Shows events until the user stops it, and reports how many were recorded and dropped.

        Args:
            as_table: Whether to show a table; None for a table on a terminal only.

        Raises:
            InfraSightError: The recorder failed.
        """
        recorder = self._recorder
        with stop_event() as stop, event_view(as_table) as view:
            recorder.start()
            report(f"recording {', '.join(recorder.probes())}; Ctrl-C ends")
            while recorder.failure is None and not stop.is_set():
                self._display.receive(_POLL_SECONDS)
                view.add(self._display.due())
            recorder.stop()
            view.add(self._display.rest())
        report(self._display.summary())
        if recorder.failure:
            raise InfraSightError(f"the recorder failed: {recorder.failure!r}")
