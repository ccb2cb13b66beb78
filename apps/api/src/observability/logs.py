"""Logging: everything to standard error in one format, JSON or words for people, and the loud libraries turned down.

Records become lines by structlog, our own and the libraries', which is imported with the first line. The access log's
lines, one a request, are written here in the same form: structlog's chain costs more than all the rest of the line.
"""

import asyncio
import json
import logging
import time
import traceback
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cached_property
from textwrap import indent
from typing import Any, TextIO

from apps.api.src.http.middleware import access_log, request_id
from apps.api.src.observability.request_line import Redactor, RequestLine, one_line, secrets_of
from apps.core.settings import Settings

LONGEST_NAME = 200
MOST_REMEMBERED = 1024
OWN_EXTRAS = ("prompt",)
WITHHELD = "[withheld: LOG_PROMPTS]"


class LineFormatter(logging.Formatter):
    """``messages``: the messages of exceptions may be written although they may quote what a caller sent."""

    def __init__(self, redact: Redactor, *, as_json: bool, messages: bool = False, colors: bool = False) -> None:
        super().__init__()
        self._redact = redact
        self._as_json = as_json
        self._messages = messages
        self._colors = colors
        self._encode = json.JSONEncoder(separators=(",", ":"), default=str).encode
        self._remembered: dict[str, str] = {}
        self._second = -1
        self._written = ""

    def format(self, record: logging.LogRecord) -> str:
        line = record.msg
        if type(line) is not RequestLine:
            return self._redact(self._by_structlog.format(record))
        if self._colors:
            return self._redact(self._by_structlog.format(_flat(record, line)))
        return self._access_as_json(record, line) if self._as_json else self._access_as_words(record, line)

    def _access_as_json(self, record: logging.LogRecord, line: RequestLine) -> str:
        path = line.path if line.routed else self._plain(line.path)
        method = self._plain(line.method)
        fields: dict[str, Any] = {
            "timestamp": self._time(record),
            "level": "info",
            "event": f"{method} {path} {line.status}",
            "logger": record.name,
            "request_id": line.request_id,
            "method": method,
            "route" if line.routed else "path": path,
            "status": line.status,
            "duration_ms": round(line.seconds * 1000, 1),
        }
        fields.update(self._details(line))
        return self._encode(fields)

    def _access_as_words(self, record: logging.LogRecord, line: RequestLine) -> str:
        path = line.path if line.routed else self._plain(line.path)
        details = "".join([f" {name}={value}" for name, value in self._details(line)])
        return (
            f"{self._time(record)} [info     ] {self._plain(line.method)} {path} {line.status} "
            f"{line.seconds * 1000:.1f}ms [{record.name}] request_id={line.request_id}{details}"
        )

    def _details(self, line: RequestLine) -> Iterator[tuple[str, str | int]]:
        if line.key_id is not None:
            yield "key_id", line.key_id
        if line.calls:
            for name, value in line.call_fields():
                yield name, self._plain(value) if isinstance(value, str) else value
        if line.trace is not None:
            yield "trace_id", line.trace

    def _plain(self, text: str) -> str:
        """A caller's text, harmless and short. Most of them are names of models, which come again and again."""
        plain = self._remembered.get(text)
        if plain is None:
            plain = self._redact(one_line(text[:LONGEST_NAME]))
            if len(self._remembered) >= MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[text] = plain
        return plain

    def _time(self, record: logging.LogRecord) -> str:
        """In UTC; the date is made once a second, not once a line."""
        second = int(record.created)
        if second != self._second:
            self._second, self._written = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._written}.{int(record.msecs):03d}Z"

    @cached_property
    def _by_structlog(self) -> logging.Formatter:
        import structlog

        def place(logger: Any, method: str, event: Any) -> Any:
            event["timestamp"] = self._time(event["_record"])
            # an access line is formatted when its request is over
            event["request_id"] = getattr(event["_record"], "request_id", None) or request_id.get()
            return event

        renderer: Any = structlog.processors.JSONRenderer(serializer=lambda event, **_: self._encode(event))
        if not self._as_json:
            renderer = structlog.dev.ConsoleRenderer(colors=self._colors, pad_event_to=0)
        return structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(allow=OWN_EXTRAS),
                place,
            ],
            processors=[
                self._exception,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([] if self._as_json else [_unforgeable]),
                renderer,
            ],
        )

    def _exception(self, logger: Any, method: str, event: Any) -> Any:
        exc_info = event.pop("exc_info", None)
        if exc_info and exc_info[1] is not None:
            # a task that was never awaited is reported by asyncio at any time, so it may be of any request
            outside = request_id.get() == "-" and event["_record"].name != "asyncio"
            text = "".join(_chain(exc_info[1], messages=self._messages or outside)).rstrip()
            event["exception"] = text if self._as_json else indent(text, "    ")
        return event


def _flat(record: logging.LogRecord, line: RequestLine) -> logging.LogRecord:
    """An access line as an ordinary record, for a terminal, where colours matter more than microseconds."""
    details = line.call_fields() if line.calls else ()
    text = " ".join([str(line), *(f"{name}={value}" for name, value in details)])
    flat = logging.LogRecord(record.name, record.levelno, "", 0, text, None, None)
    flat.request_id, flat.created, flat.msecs = line.request_id, record.created, record.msecs
    return flat


def _unforgeable(logger: Any, method: str, event: Any) -> Any:
    """For words: nothing in an event begins a line but its traceback, which is indented."""
    for name, value in event.items():
        if isinstance(value, str) and name != "exception":
            event[name] = one_line(value)
    return event


def _chain(error: BaseException, *, messages: bool, depth: int = 0) -> Iterator[str]:
    """A traceback, the causes first; the source lines in it are ours, the messages may quote callers."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and depth < MOST_REMEMBERED:
        yield from _chain(before, messages=messages, depth=depth + 1)
        yield "and then\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{type(error).__module__}.{type(error).__qualname__}: {one_line(str(error)) if messages else WITHHELD}\n"
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _chain(inner, messages=messages, depth=depth + 1)


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
