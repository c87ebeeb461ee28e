"""Where logs go and what they look like."""

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
log.debug("too little")
log.info("attached", probe="execve")
logging.getLogger("grpc").warning("from %s", "below")
"""


def test_json_lines_on_stderr() -> None:
    """In a pipe each line is JSON, the standard library's too; stdout stays for the output."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    first, second = map(json.loads, done.stderr.splitlines())
    assert done.stdout == ""
    assert (first["event"], first["probe"], first["level"]) == ("attached", "execve", "info")
    assert (second["event"], second["logger"], second["level"]) == ("from below", "grpc", "warning")
    assert first["timestamp"].endswith("Z")


def test_readable_on_a_terminal() -> None:
    """On a terminal the lines are for people."""
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", SCRIPT], stderr=theirs, check=True)
    text = os.read(ours, 65536).decode()
    os.close(ours)
    os.close(theirs)
    assert "attached" in text
    assert "{" not in text


def test_an_unknown_level() -> None:
    """A level that is none is refused with those that are."""
    with pytest.raises(ConfigError, match="'loud': allowed are debug, info, warning, error"):
        logs.configure("loud")
