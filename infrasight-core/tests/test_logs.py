"""The destination and the form of logs."""

import json
import os
import pty
import re
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


ATTACK = "node\x1b[2J\r2026-01-01 [info     ] forged\n\u202e\x9b" + "x" * 10_000
ATTACK_SCRIPT = f"""
import logging, structlog
from infrasight_core import logs
logs.configure("info")
log = structlog.get_logger("x")
log.info("rejected", node={ATTACK!r}, nodes=[{ATTACK!r}])
log.info({ATTACK!r})
logging.getLogger("grpc").warning("from %s", {ATTACK!r})
try:
    raise ValueError({ATTACK!r})
except ValueError:
    log.exception("failed")
"""


def test_texts_of_peers_cannot_command_a_terminal() -> None:
    """Control characters, line ends and marks of direction are escaped; long texts are cut."""
    terminal, child_end = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", ATTACK_SCRIPT], stderr=child_end)
    os.close(child_end)
    chunks = []
    while chunk := _read(terminal):
        chunks.append(chunk)
    os.close(terminal)
    assert process.wait() == 0
    text = re.sub("\x1b\\[[0-9;]*m", "", b"".join(chunks).decode())  # the renderer's colours
    lines = text.replace("\r\n", "\n").splitlines()
    assert "\\x1b[2J\\r2026" in text
    assert all(line.isprintable() for line in lines)
    assert [line for line in lines if line.startswith("2026-01-01")] == []
    assert max(map(len, lines)) < 6_000


def test_texts_of_peers_are_one_line_of_json() -> None:
    """Each call is one line."""
    command = [sys.executable, "-c", ATTACK_SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["level"] for line in lines] == ["info", "info", "warning", "error"]
    assert len(lines[0]["node"]) < 3_000


def _read(terminal: int) -> bytes:
    """Reads from a terminal; nothing when its other end is closed."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def test_unknown_level_is_rejected() -> None:
    """The error names the levels that are allowed."""
    with pytest.raises(ConfigError, match="'loud': allowed are debug, info, warning, error"):
        logs.configure("loud")
