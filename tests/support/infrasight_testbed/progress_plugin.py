"""pytest plugin: prints a line for each failure at once, and one for each test file that has ended.

With several workers, the letters of pytest's own output would not show which files are running.
"""

from collections import Counter, defaultdict
from collections.abc import Generator, Sequence

import pytest

_COUNTED = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")


class Progress:
    """Counts the tests of each file and reports a file when its last test has ended.

    Args:
        config: The session's.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._waiting: Counter[str] = Counter()  # tests that have not ended, by file
        self._outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._total = 0
        self._ended = 0

    def expect(self, node_ids: Sequence[str]) -> None:
        """Sets the tests that will run."""
        self._total = len(node_ids)
        self._waiting = Counter(map(_file_of, node_ids))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Without workers: the tests of this process."""
        if session.items:
            self.expect([item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: Sequence[str]) -> None:
        """With workers: each has collected the same tests."""
        self.expect(ids)

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(
        self, report: pytest.TestReport
    ) -> Generator[None, tuple[str, str, object], tuple[str, str, object]]:
        """Shows a test that fails by its name; the others are counted in their file's line."""
        category, _, word = yield
        if category in ("failed", "error", "xpassed"):
            return category, f"\n{category.upper()} {report.nodeid}\n", word
        return category, "", word

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Counts an outcome under its file."""
        category = self._config.hook.pytest_report_teststatus(report=report, config=self._config)[0]
        file = _file_of(report.nodeid)
        self._seconds[file] += report.duration
        if category in _COUNTED:
            self._outcomes[file][category] += 1

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Reports the file if this was its last test."""
        file = _file_of(nodeid)
        self._ended += 1
        self._waiting[file] -= 1
        if self._waiting[file] > 0:
            return
        outcomes = self._outcomes[file]
        counts = ", ".join(f"{outcomes[name]} {name}" for name in _COUNTED if outcomes[name])
        percent = 100 * self._ended // max(self._total, 1)
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        assert reporter is not None
        reporter.ensure_newline()
        reporter.write_line(f"[{percent:3d}%] {file}: {counts} in {self._seconds[file]:.1f} s")


def _file_of(node_id: str) -> str:
    return node_id.partition("::")[0]


def pytest_configure(config: pytest.Config) -> None:
    """Registers the reporter, except in a worker and where `-v` or `-q` asks for another output."""
    if not hasattr(config, "workerinput") and config.get_verbosity() == 0:
        config.pluginmanager.register(Progress(config), "infrasight-progress")
