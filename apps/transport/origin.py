"""Where a call goes, as bytes: a base address taken apart, and the head of a request, which is made once a path."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, quote, unquote, urlsplit

from apps.transport.response import BadRequest

PORTS = {"http": 80, "https": 443}
# what stands behind it is the path of a Unix socket, escaped: http+unix://%2Frun%2Fgenai.sock/v1
UNIX = "http+unix://"
# what stands in an address as it is; everything else is escaped, blanks and control characters above all
PLAIN = "/%:@!$&'()*+,;=~?"


@dataclass(frozen=True, slots=True)
class Origin:
    """A server: ``host`` is ASCII, without brackets; ``authority`` is the value of the Host header.

    ``socket`` is the path of a Unix socket, empty where it is reached by host and port.
    """

    host: str
    port: int
    secure: bool
    authority: str
    credentials: str = field(repr=False)
    socket: str = ""

    @classmethod
    def of(cls, url: str) -> "Origin":
        """Raises BadRequest where the address has no server that could be asked."""
        if url.startswith(UNIX):
            path = unquote(url.removeprefix(UNIX).partition("/")[0])
            if not path.startswith("/") or "\0" in path:
                raise BadRequest("The address of the Unix socket is not valid")
            return cls("localhost", 0, False, "localhost", "", path)
        try:
            parts = urlsplit(url)
            # checks the lengths of ASCII names, too
            host, port = (parts.hostname or "").encode("idna").decode("ascii"), parts.port
        except ValueError as error:  # a UnicodeError is one, too
            raise BadRequest("The address of the upstream is not valid") from error
        if parts.scheme not in PORTS or not host:
            raise BadRequest("The address of the upstream is not valid")
        default = PORTS[parts.scheme]
        named = _bracketed(host)
        authority = named if port in (None, default) else f"{named}:{port}"
        return cls(host, default if port is None else port, parts.scheme == "https", authority, _basic(parts))

    @property
    def authority_host(self) -> str:
        """The host as an authority has it: an IPv6 address in brackets."""
        return _bracketed(self.host)

    def target(self, url: str, *, absolute: bool) -> str:
        """What stands in the first line of a request; a proxy wants the ``absolute`` form."""
        parts = urlsplit(url)
        target = quote(parts.path or "/", safe=PLAIN.replace("?", ""))
        if parts.query:
            target += "?" + quote(parts.query, safe=PLAIN)
        return f"{'https' if self.secure else 'http'}://{self.authority}{target}" if absolute else target

    def head(self, url: str, headers: Mapping[str, str], *, absolute: bool = False) -> bytes:
        """The head of a POST up to the value of its Content-Length, which stands last."""
        return self.opening("POST", url, headers, absolute=absolute) + b"Content-Length: "

    def opening(self, method: str, url: str, headers: Mapping[str, str], *, absolute: bool = False) -> bytes:
        """The first line of a request and its ``headers``, without what says how long its body is."""
        target = self.target(url, absolute=absolute)
        sent = {"Host": self.authority, **headers}
        if self.credentials:
            sent.setdefault("Authorization", self.credentials)
        return f"{method} {target} HTTP/1.1\r\n".encode("ascii") + lines(sent)


def lines(headers: Mapping[str, str]) -> bytes:
    """Header fields as they are sent. Raises BadRequest for a value that would begin another one."""
    text = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if text.count("\n") != len(headers) or text.count("\r") != len(headers) or "\0" in text:
        raise BadRequest("A header's value has more than one line")
    return text.encode()


def _bracketed(host: str) -> str:
    return f"[{host.partition('%')[0]}]" if ":" in host else host


def _basic(parts: SplitResult) -> str:
    if parts.username is None:
        return ""
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode("ascii")
