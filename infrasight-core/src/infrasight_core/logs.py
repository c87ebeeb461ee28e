"""Structured logs on stderr: readable lines on a terminal, JSON lines anywhere else."""

import logging
import sys

import structlog

from infrasight_core.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")


def configure(level: str) -> None:
    """Sends structlog's and the standard library's logs to stderr.

    Args:
        level: `debug`, `info`, `warning` or `error`; what is below is left out.

    Raises:
        ConfigError: No such level.
    """
    if level not in LEVELS:
        raise ConfigError(f"log level {level!r}: allowed are {', '.join(LEVELS)}")
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    on_terminal = sys.stderr.isatty()
    render: list[structlog.types.Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if on_terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # grpc, asyncio and others log through the standard library: the same place, the same form.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.INFO), force=True)
