"""The bytes of answers, by httptools: strict, bounded, and one answer at a time.

What is raised in a callback leaves ``feed`` as one of ``NOT_HTTP``, as whatever the parser itself finds does.
"""

from collections.abc import Callable

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from apps.transport.errors import ProtocolError
from apps.transport.response import Response

NOT_HTTP = (HttpParserError, HttpParserUpgrade)
HEAD_BYTES = 65_536
INTERIM_ANSWERS = 16


class AnswerParser:
    """The parser of one connection. The head goes into the answer that is expected, the body into ``parts``.

    ``whole``: it has ended, and ``reusable`` says whether its connection may serve again. ``until_eof``: its end is
    that of the connection.
    """

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        # the parser calls this without a frame of Python between
        self.on_body = self.parts.append
        self._parser = HttpResponseParser(self)
        self.feed: Callable[[bytes], None] = self._parser.feed_data
        self._response: Response | None = None
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = self._interim = 0
        self.whole = self.reusable = self.until_eof = False

    def expect(self, response: Response) -> None:
        self._response = response
        self._head_bytes = self._interim = 0
        self.whole = self.reusable = self.until_eof = False

    def on_message_begin(self) -> None:
        if self._response is None or self.whole:
            raise ProtocolError("An answer that nobody asked for")
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > HEAD_BYTES:
            raise ProtocolError("The headers are too long")
        name = name.lower()
        held = self._headers.get(name)
        self._headers[name] = value if held is None else held + b", " + value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._interim += 1
            if status < 100 or status == 101 or self._interim > INTERIM_ANSWERS:
                raise ProtocolError("An interim answer that nobody asked for")
            return
        coding = self._headers.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            raise ProtocolError("A transfer coding that nobody asked for")
        self.until_eof = coding is None and b"content-length" not in self._headers
        if self._response is not None:
            self._response.status, self._response.fields = status, self._headers
        # trailers are read into this, and dropped
        self._headers = {}

    def on_message_complete(self) -> None:
        if self._response is not None and self._response.status:
            self.whole = True
            self.reusable = self._parser.should_keep_alive()
