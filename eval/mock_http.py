"""The HTTP/1.1 that the mock upstream needs: requests out of a buffer, heads and chunks into bytes. No socket here."""

from dataclasses import dataclass

HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    """One request; header names are lower case, ``path`` has no query."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def take_request(buffer: bytearray) -> Request | None:
    """Remove the first whole request from the buffer; None while it is not whole yet.

    Raises ValueError where the bytes are no HTTP.
    """
    end = buffer.find(HEAD_END)
    if end < 0:
        return None
    first, *lines = buffer[:end].decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    taken = _take_body(buffer, end + len(HEAD_END), headers)
    if taken is None:
        return None
    body, after = taken
    method, target, _ = first.split(" ", 2)
    del buffer[:after]
    return Request(method, target.split("?")[0], headers, body)


def _take_body(buffer: bytearray, start: int, headers: dict[str, str]) -> tuple[bytes, int] | None:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _take_chunks(buffer, start)
    end = start + int(headers.get("content-length", 0))
    return None if len(buffer) < end else (bytes(buffer[start:end]), end)


def _take_chunks(buffer: bytearray, at: int) -> tuple[bytes, int] | None:
    body = b""
    while (line_end := buffer.find(b"\r\n", at)) >= 0:
        size = int(buffer[at:line_end], 16)
        start, end = line_end + 2, line_end + 2 + size
        if len(buffer) < end + 2:
            return None
        if size == 0:
            return body, end + 2
        body += buffer[start:end]
        at = end + 2
    return None


def head(status: int, content_type: str, length: int | None = None, retry_after: int | None = None) -> bytes:
    """A response's head: of ``length`` bytes, or in chunks where that is None."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [f"HTTP/1.1 {status} Mock", f"Content-Type: {content_type}", framing]
    if retry_after is not None:
        lines.append(f"Retry-After: {retry_after}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
