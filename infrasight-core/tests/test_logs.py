"""The destination and the form of logs."""

import json
import os
import pty
import subprocess
import sys

import pytest
from infrasight_core import logs
from infrasight_core.errors import ConfigError

SCRIPT = """
import logging, structlog
from infrasight_core import logs
logs.configure("info")
log = structlog.get_logger("x")
log.debug("discarded")
log.info("attached", probe="execve")
logging.getLogger("grpc").warning("from %s", "below")
"""


def test_logs_are_json_lines_in_a_pipe() -> None:
    """Each line on stderr is JSON, also those of the standard library; stdout stays empty."""
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second = map(json.loads, done.stderr.splitlines())
    assert done.stdout == ""
    assert (first["event"], first["probe"], first["level"]) == ("attached", "execve", "info")
    assert (second["event"], second["logger"], second["level"]) == ("from below", "grpc", "warning")
    assert first["timestamp"].endswith("Z")


def test_logs_are_readable_on_a_terminal() -> None:
    """The lines of a terminal are no JSON."""
    terminal, child_end = pty.openpty()
    subprocess.run([sys.executable, "-c", SCRIPT], stderr=child_end, check=True)
    text = os.read(terminal, 65536).decode()
    os.close(terminal)
    os.close(child_end)
    assert "attached" in text
    assert "{" not in text


def test_unknown_level_is_rejected() -> None:
    """The error names the levels that are allowed."""
    with pytest.raises(ConfigError, match="'loud': allowed are debug, info, warning, error"):
        logs.configure("loud")
