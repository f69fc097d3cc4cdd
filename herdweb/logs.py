"""Log lines through structlog: JSON for machines, colours on a terminal, always one line."""

import logging
import sys

import structlog


class OneLine(structlog.stdlib.ProcessorFormatter):
    """Renders every record, Django's and the libraries' too, so that no text can forge a line."""

    def __init__(self) -> None:
        renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
        if sys.stderr.isatty():
            renderer = structlog.dev.ConsoleRenderer()
        super().__init__(
            processor=renderer,
            foreign_pre_chain=[
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.processors.TimeStamper(fmt="iso"),
                structlog.processors.format_exc_info,
            ],
        )

    def format(self, record: logging.LogRecord) -> str:
        """One record; a line break inside it becomes visible, except in a developer's terminal."""
        text = super().format(record)
        return text if sys.stderr.isatty() else text.replace("\r", "\\r").replace("\n", "\\n")
