"""Configures structured logs on stderr: readable lines on a terminal, JSON lines elsewhere.

Values may come from peers: control characters are escaped, and long texts are cut, so that no peer
can imitate a line, command a terminal or fill a disk.
"""

import io
import logging
import sys
from typing import Any, TextIO

import structlog

from infrasight_core.errors import ConfigError
from infrasight_core.printable import escape_unprintable

LEVELS = ("debug", "info", "warning", "error")
_LONGEST_TEXT = 2000  # characters


def configure(level: str) -> None:
    """Sends the logs of structlog and of the standard library to stderr.

    Args:
        level: `debug`, `info`, `warning` or `error`; messages of lower levels are discarded.

    Raises:
        ConfigError: The level does not exist.
    """
    if level not in LEVELS:
        raise ConfigError(f"log level {level!r}: allowed are {', '.join(LEVELS)}")
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[structlog.types.Processor]
    if sys.stderr.isatty():
        render = [
            _clean_texts,
            structlog.dev.ConsoleRenderer(exception_formatter=_write_traceback),
        ]
    else:
        render = [
            _clean_texts,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # grpc, asyncio and others log through the standard library, in the same form.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.INFO), force=True)


def _clean_texts(
    logger: object, method: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    """Makes the texts of one log line printable and bounded."""
    return {_clean(key): _bounded(key, value) for key, value in event.items()}


def _bounded(key: str, value: Any) -> Any:
    if isinstance(value, str):
        return _clean(value)
    if key == "exc_info" or value is None or isinstance(value, int | float):
        return value
    text = repr(value)  # escapes control characters, as JSON does
    return _clean(text) if len(text) > _LONGEST_TEXT else value


def _clean(text: str) -> str:
    """Returns a text in printable characters, and cut where it is very long."""
    if len(text) > _LONGEST_TEXT:
        text = text[: _LONGEST_TEXT - 1] + "…"
    return escape_unprintable(text)


def _write_traceback(stream: TextIO, exc_info: structlog.types.ExcInfo) -> None:
    """Writes a traceback, indented, so that a message in it cannot look like a line of the log."""
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    for line in text.getvalue().strip().splitlines():
        stream.write(f"\n    {_clean(line)}")
