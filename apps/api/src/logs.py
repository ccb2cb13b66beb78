"""Logging: one format, the request's id in every line, and the loud libraries turned down."""

import logging
import logging.config

from apps.api.src.middleware.request_scope import request_id
from apps.core.settings import Settings

FORMAT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"
LOUD = ("httpx2", "httpcore2", "openai", "slowapi", "urllib3", "filelock")


class RequestIdFilter(logging.Filter):
    """Puts the id of the request that is being served into the record."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


def configure_logging(settings: Settings) -> None:
    """Everything to standard error at LOG_LEVEL. uvicorn's access log is off: ours has the id and the time."""
    # a record need not know its thread or its process: nothing here prints them
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"request_id": {"()": RequestIdFilter}},
            "formatters": {"line": {"format": FORMAT}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["request_id"]}},
            "root": {"level": settings.log_level.upper(), "handlers": ["stderr"]},
            "loggers": {
                "uvicorn": {"handlers": [], "propagate": True},
                "uvicorn.error": {"handlers": [], "propagate": True},
                "uvicorn.access": {"handlers": [], "propagate": False},
                **{name: {"level": "WARNING"} for name in LOUD},
            },
        }
    )
