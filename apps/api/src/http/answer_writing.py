"""How the server writes an answer: uvicorn's bytes, by fewer steps. Imported by what serves, never with the app."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

# of an answer's head: all bytes but controls and separators, and all but controls; a tab is none of those
IN_NAMES = bytes(byte for byte in range(256) if byte > 32 and byte != 127 and byte not in b'()<>@,;:\\[]={}"')
IN_VALUES = bytes(byte for byte in range(256) if byte == 9 or (byte >= 32 and byte != 127))
TELLING = frozenset((b"content-length", b"transfer-encoding", b"connection"))
BODILESS = frozenset({204, 304})
LAST_CHUNK = b"0\r\n\r\n"


class Cycle(RequestResponseCycle):
    """One request and its answer. Writes what uvicorn's would; a head is checked whole instead of line by line."""

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if self.response_complete:
            raise RuntimeError(f"Unexpected ASGI message {kind!r}: the response is complete")
        if kind != ("http.response.body" if self.response_started else "http.response.start"):
            raise RuntimeError(f"Unexpected ASGI message {kind!r}")
        if self.response_started:
            self._send_body(message.get("body", b""), message.get("more_body", False))
        else:
            self.response_started = True
            self.waiting_for_100_continue = False
            self._send_head(message["status"], [*self.default_headers, *message.get("headers", ())])

    def _send_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        names = [name.lower() for name, _ in headers]
        values = [value for _, value in headers]
        if b"".join(names).translate(None, IN_NAMES) or b"".join(values).translate(None, IN_VALUES):
            raise RuntimeError("Invalid HTTP header")
        closes = False
        for name, value in zip(names, values, strict=True):
            if name not in TELLING:
                continue
            if name == b"connection":
                if b"close" in [token.strip().lower() for token in value.split(b",")]:
                    self.keep_alive = False
                    closes = True
            elif name == b"content-length" and self.chunked_encoding is None:
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                self.expected_content_length = 0
                self.chunked_encoding = True
        lines = [*map(b": ".join, zip(names, values, strict=True))]
        if not self.keep_alive and not closes:
            lines.append(b"connection: close")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in BODILESS:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked")
        self.transport.write(b"%b%b\r\n\r\n" % (STATUS_LINE[status], b"\r\n".join(lines)))

    def _send_body(self, body: bytes, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
        elif self.chunked_encoding:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            self.transport.write(chunk if more else chunk + LAST_CHUNK)
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("Response content longer than Content-Length")
            self.transport.write(body)
        if more:
            return
        if self.expected_content_length:
            raise RuntimeError("Response content shorter than Content-Length")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
