"""The parser of event streams, against the HTML standard's rules and its own examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.event_stream import Event, events_of


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"data: a\n\n", [Event("message", "a")]),
        (b"data: a\rdata: b\r\r", [Event("message", "a\nb")]),
        (b"event: done\r\ndata: {}\r\n\r\n", [Event("done", "{}")]),
        (b": ping\n\ndata:  two blanks\n\n", [Event("message", " two blanks")]),
        (b"data\n\ndata\ndata\n\n", [Event("message", ""), Event("message", "\n")]),
        (b"event: x\n\ndata: a\n\n", [Event("message", "a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [Event("message", "a")]),
        (b"data: never ended", []),
        (b"data: no blank line\n", []),
        ("data: \u2028\u0085\n\n".encode(), [Event("message", "\u2028\u0085")]),
    ],
)
def test_events_are_what_a_browser_would_dispatch(body: bytes, expected: list[Event]) -> None:
    assert events_of(body) == expected


@given(st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"])))
def test_a_text_in_data_lines_comes_out_unaltered(text: str) -> None:
    body = "data: " + text.replace("\n", "\ndata: ") + "\n\n"
    assert events_of(body.encode()) == [Event("message", text)]


def test_a_stream_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UnicodeDecodeError):
        events_of(b"data: \xff\n\n")
