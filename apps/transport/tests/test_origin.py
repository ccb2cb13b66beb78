"""Addresses, as the bytes that a server sees."""

import pytest

from apps.transport.origin import Origin, lines
from apps.transport.response import BadRequest


@pytest.mark.parametrize(
    ("url", "host", "port", "secure", "authority"),
    [
        ("http://h/v1", "h", 80, False, "h"),
        ("https://h/v1", "h", 443, True, "h"),
        ("https://h:443", "h", 443, True, "h"),
        ("http://h:443/", "h", 443, False, "h:443"),
        ("HTTP://API.Example:8080/v1", "api.example", 8080, False, "api.example:8080"),
        ("http://[::1]/v1", "::1", 80, False, "[::1]"),
        ("http://[::1]:99/v1", "::1", 99, False, "[::1]:99"),
        ("http://[fe80::1%eth0]:99/v1", "fe80::1%eth0", 99, False, "[fe80::1]:99"),
        ("https://bücher.example/v1", "xn--bcher-kva.example", 443, True, "xn--bcher-kva.example"),
        ("https://user:pass@h:1/v1", "h", 1, True, "h:1"),
    ],
)
def test_where_an_address_leads(url: str, host: str, port: int, secure: bool, authority: str) -> None:
    origin = Origin.of(url)
    assert (origin.host, origin.port, origin.secure, origin.authority) == (host, port, secure, authority)


@pytest.mark.parametrize(
    "url",
    [
        *("", "h/v1", "ftp://h", "http://", "http:///v1", "http://h:0x1/", "http://h:70000", "http://[::1"),
        *("http://a..b/", f"http://{'a' * 64}.example/", "https://user@/v1"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused(url: str) -> None:
    with pytest.raises(BadRequest):
        Origin.of(url)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("", b"/"),
        ("/v1/chat/completions", b"/v1/chat/completions"),
        ("/a b/\u00fc", b"/a%20b/%C3%BC"),
        ("/a%20b", b"/a%20b"),
        ("/x?api-version=2024-02-01&y=a b", b"/x?api-version=2024-02-01&y=a%20b"),
        ("/x\r\nHost: evil", b"/xHost:%20evil"),
        ("/x HTTP/1.1\x00\x7f", b"/x%20HTTP/1.1%00%7F"),
        ("/x#fragment", b"/x"),
    ],
)
def test_the_first_line_of_a_request(path: str, target: bytes) -> None:
    head = Origin.of("http://h").head("http://h" + path, {})
    assert head == b"POST " + target + b" HTTP/1.1\r\nHost: h\r\nContent-Length: "


def test_credentials_of_an_address_are_sent_unless_there_are_others() -> None:
    origin = Origin.of("http://us%40er:pa:ss@h")
    assert b"\r\nAuthorization: Basic dXNAZXI6cGE6c3M=\r\n" in origin.head("http://h/", {})
    assert b"\r\nAuthorization: Bearer x\r\nContent-" in origin.head("http://h/", {"Authorization": "Bearer x"})


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb", "a\0b", "a\r\n\r\nGET / HTTP/1.1"])
def test_a_value_of_two_lines_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        lines({"X": value, "Y": "z"})
    assert value not in str(caught.value)
