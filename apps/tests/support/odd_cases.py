"""A case of an upstream with odd manners: what it answers, and what may become of that."""

from dataclasses import dataclass

from apps.tests.support.odd_upstream import (
    Reply,
    answered,
    whole,
)

SAID = "Hello there"


@dataclass(frozen=True, slots=True)
class Case:
    """``said`` is the text of an answer that ends well; None: any. ``must_fail``: no answer may end well."""

    stream: Reply
    whole: Reply
    said: str | None = SAID
    must_fail: bool = False


def raw(*parts: bytes | float) -> Reply:
    return list(parts)


def with_head(*lines: str, body: bytes = b"", version: str = "HTTP/1.1") -> Reply:
    """An answer with these lines behind its first."""
    return [b"\r\n".join([version.encode() + b" 200 OK", *(line.encode() for line in lines), b"", body])]


def both(stream: Reply, whole_reply: Reply | None = None, said: str | None = SAID, must_fail: bool = False) -> Case:
    """By default a call that is not streamed is answered as it should be."""
    return Case(stream, answered(whole()) if whole_reply is None else whole_reply, said, must_fail)


def either(reply: Reply, said: str | None = SAID) -> Case:
    """The same bytes, whatever was asked for; they are no answer."""
    return Case(reply, reply, said, must_fail=True)
