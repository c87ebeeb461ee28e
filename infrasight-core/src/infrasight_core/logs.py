"""Configures structured logs on stderr: readable lines on a terminal, JSON lines elsewhere."""

import logging
import sys

import structlog

from infrasight_core.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")


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
        traceback_formatter = structlog.dev.plain_traceback
        render = [structlog.dev.ConsoleRenderer(exception_formatter=traceback_formatter)]
    else:
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
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
