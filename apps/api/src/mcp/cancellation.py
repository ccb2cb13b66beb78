"""Cancellation of MCP calls by `notifications/cancelled`, which older revisions send as a request of its own.

The server keeps no sessions: what `initialize` hands out is a name that nobody guesses, under which a client's calls
are found while they run. A client of the current revision closes its request in place of all this.

Source: MCP specification 2025-06-18, utilities/cancellation and transports (streamable HTTP).
"""

import asyncio
import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from apps.core.callers import Caller

SESSION_HEADER = "mcp-session-id"
SESSION = re.compile(r"[\x21-\x7e]{1,128}")
CANCELLED = "notifications/cancelled"

Key = tuple[str | None, str, str]


class Stopped(Exception):
    """Its client has cancelled the call and waits for no answer."""


class RunningCalls:
    """The calls under way in this process, by key of the caller, session and id of the request."""

    def __init__(self) -> None:
        self._running: dict[Key, asyncio.Task[Any]] = {}
        self._stopped: set[asyncio.Task[Any]] = set()

    @contextmanager
    def running(self, key: Key | None) -> Iterator[None]:
        """While the call of ``key`` runs in this task it can be stopped, which raises Stopped here."""
        task = asyncio.current_task()
        if key is None or task is None or key in self._running:
            yield
            return
        self._running[key] = task
        try:
            yield
        except asyncio.CancelledError:
            if task in self._stopped and task.uncancel() == 0:
                raise Stopped from None
            raise
        finally:
            del self._running[key]
            self._stopped.discard(task)

    def stop(self, key: Key) -> None:
        """Stop the call of ``key``; one that is unknown or has ended is none of anybody's business any more."""
        task = self._running.get(key)
        if task is not None and task not in self._stopped:
            self._stopped.add(task)
            task.cancel()


def new_session() -> str:
    return secrets.token_urlsafe(24)


def read_message(body: bytes) -> dict[str, Any]:
    """The JSON-RPC message of a request; empty where it is none, which the server says itself."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def call_key(caller: Caller, session: str | None, id: Any) -> Key | None:
    """None without a session or a proper id: such a call cannot be told from others."""
    if session is None or not SESSION.fullmatch(session) or isinstance(id, bool) or not isinstance(id, str | int):
        return None
    return caller.key_id, session, json.dumps(id)
