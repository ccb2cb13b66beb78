"""Logging: one format, the request's id in every line, and the loud libraries turned down."""

import asyncio
import logging
import time
from contextlib import nullcontext
from typing import TextIO

from apps.api.src.middleware.request_scope import access_log, request_id
from apps.core.settings import Settings

FORMAT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"
FLUSH_SECONDS = 0.05
LOUD = ("httpx2", "httpcore2", "openai", "slowapi", "urllib3", "filelock", "alembic", "aiosqlite")


class RequestIdFilter(logging.Filter):
    """Puts the id of the request that is being served into the record."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


class LineFormatter(logging.Formatter):
    """The date and time are made once a second, not once a line."""

    _second = -1
    _written = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second = int(record.created)
        if second != self._second:
            self._second, self._written = second, time.strftime("%Y-%m-%d %H:%M:%S", self.converter(record.created))
        return f"{self._written},{int(record.msecs):03d}"


class BufferedHandler(logging.StreamHandler[TextIO]):
    """Writes the access log's lines several at a time, a moment later; every other line at once, behind those."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record))
            if record.name != access_log.name or not self._flush_later():
                self.flush()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        with self.lock or nullcontext():
            lines, self._lines, self._loop = self._lines, [], None
            if lines:
                self.stream.write(self.terminator.join([*lines, ""]))
            super().flush()

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
    handler.setFormatter(LineFormatter(FORMAT))
    handler.addFilter(RequestIdFilter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], name != "uvicorn.access"
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)
