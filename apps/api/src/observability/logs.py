"""Logging: everything to standard error in one format, and the loud libraries turned down."""

import asyncio
import logging
from contextlib import nullcontext
from typing import TextIO

from apps.api.src.http.middleware.request_scope import access_log
from apps.api.src.observability.log_lines import LineFormatter
from apps.api.src.observability.redaction import Redactor, secrets_of
from apps.core.settings import Settings

FLUSH_SECONDS = 0.05
# mcp would tell the ids of sessions, which are as good as keys
LOUD = ("mcp", "httpx2", "httpcore2", "openai", "slowapi", "urllib3", "filelock", "alembic", "aiosqlite")


class BufferedHandler(logging.StreamHandler[TextIO]):
    """Writes the access log's lines several at a time, a moment later; every other line at once, behind those.

    They are formatted then, too: in a row that takes half of the time that it takes in the middle of a request.
    """

    def __init__(self) -> None:
        super().__init__()
        self._records: list[logging.LogRecord] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)
        if record.name != access_log.name or not self._flush_later():
            self.flush()

    def flush(self) -> None:
        with self.lock or nullcontext():
            records, self._records, self._loop = self._records, [], None
            lines = [line for record in records if (line := self._line(record)) is not None]
            if lines:
                try:
                    self.stream.write(self.terminator.join([*lines, ""]))
                except Exception:
                    self.handleError(records[-1])
            super().flush()

    def _line(self, record: logging.LogRecord) -> str | None:
        """None where it cannot be formatted, which is said on standard error."""
        try:
            return self.format(record)
        except Exception:
            self.handleError(record)
            return None

    def _flush_later(self) -> bool:
        """Whether this thread runs a loop that will flush."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if self._loop is not loop:
            self._loop = loop
            loop.call_later(FLUSH_SECONDS, self.flush)
        return True


def configure_logging(settings: Settings) -> None:
    """Everything to standard error at LOG_LEVEL. uvicorn's access log is off: ours has the id and the time."""
    # a record need not know its place in the code, its thread or its process: nothing here prints them
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = BufferedHandler()
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and settings.env == "production")
    handler.setFormatter(
        LineFormatter(
            Redactor(secrets_of(settings)),
            as_json=as_json,
            messages=settings.log_prompts,
            colors=not as_json and handler.stream.isatty(),
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], name != "uvicorn.access"
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)
