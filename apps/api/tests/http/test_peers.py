"""Which calls one worker has to have all of, and is handed by the others."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from apps.api.src.http.peers import HandOver, Peers

KEY = next(b"k%d" % number for number in range(99) if Peers(0, 2, Path("/")).owner(b"k%d" % number) == 1)
FORM = (b"content-type", b"application/x-www-form-urlencoded")


@pytest.mark.parametrize(
    ("path", "headers", "here"),
    [
        ("/v1/chat/completions", [(b"content-type", b"application/json"), (b"idempotency-key", KEY)], False),
        ("/api/chat", [FORM, (b"idempotency-key", KEY)], False),
        ("/api/chat", [(b"idempotency-key", KEY)], False),
        ("/api/chat", [FORM], True),
        ("/v1/files", [(b"content-type", b"multipart/form-data; boundary=x"), (b"idempotency-key", KEY)], True),
        ("/mcp", [(b"content-type", b"application/json"), (b"mcp-session-id", KEY)], False),
        ("/mcp", [(b"content-type", b"application/json")], True),
    ],
)
async def test_a_call_is_made_by_the_worker_that_its_key_or_session_names(
    path: str, headers: list[tuple[bytes, bytes]], here: bool, tmp_path: Path
) -> None:
    seen: list[Any] = []
    asked = iter([{"type": "http.request", "body": b"{}", "more_body": False}])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append("here")

    async def receive() -> Any:
        # the caller stays
        return next(asked, None) or await asyncio.Event().wait()

    async def send(message: Any) -> None:
        seen.append(message.get("status"))

    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    ends = {"server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 1)}
    # the other worker is not there, so what is handed to it is refused
    await HandOver(app, Peers(0, 2, tmp_path), 1000)({**scope, **ends, "headers": headers}, receive, send)
    assert (seen == ["here"]) is here
    assert here or seen[0] == 503
