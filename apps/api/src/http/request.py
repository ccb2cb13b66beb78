"""What is read of a request: its headers, its body, and what is wrong with a body as one error of the tree.

A header is found in what the server gave: Starlette's Headers cost a microsecond a look. What a request asks of the
cache, and what its answer says of that, are headers too.

``JsonRoute`` has JSON read strictly before FastAPI looks at it. ``RawRoute`` is the class of the gateway's path:
FastAPI documents it and Starlette serves it. Its endpoint takes the request and nothing else, so there is nothing for
FastAPI to solve and no second parse. ``as_app_error`` says pydantic's list of faults in the contract's words.
"""

import json
import math
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from functools import lru_cache
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import request_response
from starlette.types import Scope

from apps.core.calls import CallRecord
from apps.core.errors import (
    AppError,
    InvalidJson,
    InvalidType,
    InvalidValue,
    MissingRequiredField,
    UnsupportedMediaType,
)
from apps.core.fields import OUT_OF_RANGE, UNKNOWN_FIELD
from apps.core.messages import DEFAULT_CACHE_CONTROL, CacheControl


def header(scope: Scope, name: bytes) -> str | None:
    """The first of this name, which is in lower case; None where there is none."""
    for given, value in scope["headers"]:
        if given == name:
            return str(value, "latin-1")
    return None


LONGEST_TTL = 7 * 24 * 3600
TTL = "X-Cache-TTL"


def cache_control(request: Request) -> CacheControl:
    """Raises InvalidValue where X-Cache-TTL is none."""
    given, ttl = header(request.scope, b"cache-control"), header(request.scope, b"x-cache-ttl")
    if given is None and ttl is None:
        return DEFAULT_CACHE_CONTROL
    directives = {part.strip().lower() for part in (given or "").split(",")}
    forbidden = "no-store" in directives
    return CacheControl(lookup=not forbidden and "no-cache" not in directives, store=not forbidden, ttl=_seconds(ttl))


def _seconds(value: str | None) -> int | None:
    if value is None:
        return None
    seconds = int(value) if value.isascii() and value.isdigit() and len(value) < 9 else 0
    if not 1 <= seconds <= LONGEST_TTL:
        details = {"min": 1, "max": LONGEST_TTL}
        raise InvalidValue(f"{TTL} must be a whole number of seconds, 1 to {LONGEST_TTL}", field=TTL, details=details)
    return seconds


def cache_use(record: CallRecord) -> str:
    """What a receipt says of the cache: an answer that it is not asked for is made for the call too."""
    return "miss" if record.cache == "off" else record.cache


def cache_headers(use: str, age: float | None, score: float | None) -> dict[str, str]:
    """X-Cache; with an answer that was not made for this call Age in whole seconds, and how alike the question was."""
    return {"X-Cache": use} if age is None else {"X-Cache": use, **age_headers(age, score)}


def age_headers(age: float, score: float | None) -> dict[str, str]:
    headers = {"Age": str(int(age))}
    if score is not None:
        headers["X-Cache-Score"] = f"{score:.4f}"
    return headers


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


WRONG_TYPE = {
    "string_type": "must be a string",
    "float_type": "must be a number",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "date_from_datetime_parsing": "must be a date like 2026-11-30",
    "date_parsing": "must be a date like 2026-11-30",
}
# pydantic knows one end of these: its name in the error's context, ours in the details, and the words
ONE_END = {
    "greater_than_equal": ("ge", "min", "must be at least"),
    "greater_than": ("gt", "min", "must be more than"),
    "less_than_equal": ("le", "max", "must be at most"),
    "less_than": ("lt", "max", "must be less than"),
}
# the same of lengths; what was received is a length too
LENGTHS = {
    "string_too_short": ("min_length", "min", "must be at least", "characters"),
    "string_too_long": ("max_length", "max", "must be at most", "characters"),
    "too_short": ("min_length", "min", "must have at least", "entries"),
    "too_long": ("max_length", "max", "must have at most", "entries"),
}
QUOTED = re.compile(r"'([^']*)'")
SHOWN_CHARACTERS = 100


def as_app_error(errors: Sequence[Mapping[str, Any]]) -> AppError:
    """The first wrong field makes the error; ``details.errors`` lists them all, in the order of the fields."""
    all_of_them = [_one(error) for error in errors]
    first = all_of_them[0]
    first.details["errors"] = [
        {"field": error.field, "code": error.code, "message": error.message} for error in all_of_them
    ]
    return first


def _one(error: Mapping[str, Any]) -> AppError:
    kind, location = str(error["type"]), error["loc"]
    if len(location) < 2:
        return InvalidType("Request body must be a JSON object")
    field = ".".join(str(part) for part in location[1:])[:SHOWN_CHARACTERS]
    label = _label(location[1:])
    if kind == "missing":
        return MissingRequiredField(f"{label} is required", field=field)
    if kind in WRONG_TYPE or kind.endswith(("_type", "_parsing")):
        details = {"received_type": _json_type(error.get("input"))}
        return InvalidType(f"{label} {WRONG_TYPE.get(kind, 'has the wrong type')}", field=field, details=details)
    rule, details = _rule(kind, error)
    return InvalidValue(f"{label} {rule}", field=field, details=details)


def _rule(kind: str, error: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What the value should have been, in words and in details."""
    context, received = error.get("ctx", {}), {"received": _shown(error.get("input"))}
    if kind == OUT_OF_RANGE:
        return context["rule"], {name: _shown(context[name]) for name in ("min", "max", "received")}
    if kind in ONE_END:
        name, end, words = ONE_END[kind]
        return f"{words} {context[name]}", {end: context[name], **received}
    if kind in LENGTHS:
        name, end, words, what = LENGTHS[kind]
        return f"{words} {context[name]} {what}", {end: context[name], "received": len(error["input"])}
    if kind == "literal_error":
        allowed = QUOTED.findall(context["expected"])
        return f"must be one of {', '.join(allowed)}", {"allowed": allowed, **received}
    if kind == UNKNOWN_FIELD:
        return str(error["msg"]), {"known": context["known"].split(", ")}
    if kind == "value_error":  # of our own validators, whose words are made for this
        return str(error["msg"]).removeprefix("Value error, "), {}
    return "has a wrong value", received


def _label(path: Sequence[Any]) -> str:
    """What the message calls the field; an entry of a list is called what the list is."""
    names = [part for part in path if isinstance(part, str)] or path
    return str(names[-1])[:SHOWN_CHARACTERS].replace("_", " ").capitalize()


def _json_type(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return "null" if value is None else names.get(type(value), "unknown")


def _shown(value: Any) -> Any:
    """What may be repeated in an answer: short, and always valid JSON."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return value if abs(value) < 2**63 else "a very large integer"
    return value[:SHOWN_CHARACTERS] if isinstance(value, str) else _json_type(value)
