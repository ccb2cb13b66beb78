"""A small MCP server over HTTP with sessions that it can be made to forget, as one that has been started anew."""

import asyncio
import json
import secrets
import threading
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from apps.tests.support.waiting import HANG_SECONDS

SESSION = "mcp-session-id"
# a schema of draft 4, with a tuple and a pattern that Python does not know
ODD = {
    "$schema": "http://json-schema.org/draft-04/schema#",
    "type": "object",
    "properties": {
        "pair": {"type": "array", "items": [{"type": "integer"}, {"type": "string", "pattern": r"^\p{L}+$"}]},
        "count": {"type": "integer", "minimum": 0, "exclusiveMinimum": True, "maximum": 2**64 - 1},
    },
}


class ForgetfulMcp:
    """``calls`` are those of tools that were looked at. With ``loses_all`` no session is known.

    A call with the argument ``held`` is answered once ``released`` is set; one with ``refused`` is refused. The answer
    to one with ``broken`` ends after an event's id, and all sessions with it; ``resumed`` counts requests for the rest.
    """

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.sessions: list[str] = []
        self.calls: list[Any] = []
        self.loses_all = False
        self.resumed = 0
        self.released = threading.Event()
        self.app = FastAPI()
        self.app.add_api_route("/mcp", self._answer, methods=["POST"])
        # some have no stream of their own, and say so with the status of a session that they do not know
        self.app.add_api_route("/mcp", self._no_stream, methods=["GET"])

    async def _no_stream(self, request: Request) -> Response:
        if "last-event-id" in request.headers:
            self.resumed += 1
        return Response(status_code=404)

    async def _answer(self, request: Request) -> Response:
        message, session = await request.json(), request.headers.get(SESSION)
        method, id = message["method"], message.get("id")
        if method == "initialize":
            self.sessions.append(secrets.token_hex(12))
            self.known.add(self.sessions[-1])
            server = {"name": "forgetful", "version": "1"}
            result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": server}
            return self._result(id, result, {SESSION: self.sessions[-1]})
        if session is None:
            error = {"code": -32601, "message": "Method not found"}
            return JSONResponse({"jsonrpc": "2.0", "id": id, "error": error}, 404)
        if session not in self.known or (self.loses_all and method == "tools/call"):
            error = {"code": -32001, "message": f"Session not found: {session}"}
            return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, 404)
        if id is None:
            return Response(status_code=202)
        if method == "tools/list":
            return self._result(id, {"tools": [{"name": "odd", "description": "Odd", "inputSchema": ODD}]})
        arguments = message["params"].get("arguments")
        self.calls.append(arguments)
        if "held" in arguments:
            await asyncio.to_thread(self.released.wait, HANG_SECONDS)
        if "broken" in arguments:
            self.known.clear()
            # resumed at once, and in vain: see _no_stream
            return Response("id: 1\nretry: 1\ndata:\n\n", media_type="text/event-stream")
        if "refused" in arguments:
            error = {"code": -32602, "message": "not that one"}
            return JSONResponse({"jsonrpc": "2.0", "id": id, "error": error})
        return self._result(id, {"content": [{"type": "text", "text": json.dumps(arguments)}]})

    @staticmethod
    def _result(id: Any, result: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
        return JSONResponse({"jsonrpc": "2.0", "id": id, "result": result}, headers=headers)
