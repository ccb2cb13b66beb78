"""Request bodies and the route classes that read them.

``JsonRoute`` has JSON read strictly before FastAPI looks at it. ``RawRoute`` is the class of the gateway's path:
FastAPI documents it and Starlette serves it. Its endpoint takes the request and nothing else, so there is nothing for
FastAPI to solve and no second parse.
"""

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Coroutine, Mapping
from functools import lru_cache
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import request_response

from apps.api.src.http.headers import header
from apps.api.src.http.validation_errors import as_app_error
from apps.core.errors import InvalidJson, UnsupportedMediaType

JSON_TYPE = re.compile(r"application/(?:[\w.!#$&^-]+\+)?json", re.IGNORECASE)
SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")

# of a body that is there, up to its end or where it is cut
TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
# as many token ids as OpenAI takes in one call of embeddings, and more
MOST_VALUES = 400_000
MOST_CONTAINERS = 20_000

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class JsonRoute(APIRoute):
    """A route whose body is JSON, and strictly so.

    Raises UnsupportedMediaType and InvalidJson; FastAPI then validates what was parsed, without parsing again,
    and what it finds wrong is raised as an error of the tree too.
    """

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()
        takes_body = self.body_field is not None

        async def handle(request: Request) -> Response:
            if takes_body:
                request = ParsedRequest(request, *await read_json(request))
            try:
                return await handler(request)
            except RequestValidationError as error:
                raise as_app_error(error.errors()) from None

        return handle


class ParsedRequest(Request):
    """A request whose body has been read and parsed."""

    def __init__(self, request: Request, body: bytes, parsed: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._raw = body
        self._parsed = parsed

    async def body(self) -> bytes:
        return self._raw

    async def json(self) -> Any:
        return self._parsed


async def read_json(request: Request) -> tuple[bytes, Any]:
    """The body as it came, and parsed. Raises UnsupportedMediaType and InvalidJson."""
    content_type = header(request.scope, b"content-type") or ""
    if content_type != "application/json" and not JSON_TYPE.fullmatch(content_type.partition(";")[0].strip()):
        raise UnsupportedMediaType("Content-Type must be application/json")
    body = await read_body(request)
    return body, parse_json(body)


async def read_body(request: Request) -> bytes:
    """What `Request.body` gives, without its generator where the body is there at once. Raises ClientDisconnect."""
    parts = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def parse_json(body: bytes) -> Any:
    """Parse RFC 8259 JSON, no more: NaN, Infinity and lone surrogates are refused; a UTF-8 byte order mark is not.

    Raises InvalidJson, with the position where there is one; never repeats the body.
    """
    if not body.strip():
        raise InvalidJson("Request body is empty")
    _refuse_many_values(body)
    try:
        # the codec of the byte order mark is written in Python
        text = body.decode("utf-8-sig") if body.startswith(BOM_UTF8) else body.decode()
        parsed = _decode(text)
        if body.find(b"\\u") >= 0 and SURROGATE_ESCAPE.search(body):
            json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise InvalidJson("Request body is not UTF-8", details={"position": error.start}) from None
    except UnicodeEncodeError:
        raise InvalidJson("Request body holds a lone surrogate") from None
    except json.JSONDecodeError as error:
        details = {"position": error.pos, "line": error.lineno, "column": error.colno}
        raise InvalidJson(f"Malformed JSON: {error.msg}", details=details) from None
    except RecursionError:
        raise InvalidJson("Request body is nested too deeply") from None
    except ValueError:
        raise InvalidJson("Malformed JSON: a number has too many digits") from None
    return parsed


# what allow-lists, budgets and limits are decided by, and what goes on to a target as the bytes that came
DECIDING = frozenset({
    "model", "stream", "n", "best_of", "max_tokens", "max_completion_tokens", "max_output_tokens",
    "messages", "input", "prompt", "tools", "background",
})  # fmt: skip
ESCAPED_LETTER = re.compile(rb"\\u00[2-7][0-9a-fA-F]")


def refuse_duplicates(raw: bytes, body: Mapping[str, Any], names: Collection[str] = DECIDING) -> None:
    """Raise InvalidJson where one of ``names`` stands twice at the top of ``raw``, of which ``body`` was parsed.

    Parsers differ on which of the two counts: a call must not be judged by one and made by the other. The parse
    that sees both is made only where a name may stand there twice.
    """
    suspects = [name for name in body if name in names and raw.count(_quoted(name)) != 1]
    if not suspects and (raw.find(b"\\u00") < 0 or not ESCAPED_LETTER.search(raw)):
        return
    top = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=lambda pairs: pairs)
    written = [name for name, _ in top]
    for name in names:
        if written.count(name) > 1:
            raise InvalidJson(f"Request body has {name} twice", details={"duplicate": name})


@lru_cache(maxsize=256)
def _quoted(name: str) -> bytes:
    return b'"%s"' % name.encode()


def _refuse_many_values(body: bytes) -> None:
    """A megabyte of empty lists is a second of the event loop, before anything can look at it.

    What stands in texts does not count; that is looked at closely only where the plain count is over.
    """
    if len(body) <= MOST_CONTAINERS:
        return
    if body.count(b",") <= MOST_VALUES and body.count(b"[") + body.count(b"{") <= MOST_CONTAINERS:
        return
    bare = TEXT.sub(b"", body)
    if bare.count(b",") > MOST_VALUES or bare.count(b"[") + bare.count(b"{") > MOST_CONTAINERS:
        limits = {"max_values": MOST_VALUES, "max_containers": MOST_CONTAINERS}
        raise InvalidJson("Request body holds too many values", details=limits)


def _refuse_constant(name: str) -> None:
    raise InvalidJson(f"Malformed JSON: {name} is not JSON")


# `json.loads` makes a decoder a call where it is given anything
_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


class RawRoute(APIRoute):
    """``endpoint`` is called with the request as it came; a subclass may wrap it, as LimitedRoute does."""

    def __init__(self, path: str, endpoint: Handler, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.handler = self.get_route_handler()
        self.app = request_response(self.handler)

    def get_route_handler(self) -> Handler:
        endpoint: Handler = self.endpoint
        return endpoint
