"""The decoder reads server-sent events to the letter of the HTML standard, however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.models.event_stream import EventStreamDecoder


def decoded(*chunks: bytes) -> list[tuple[str, bytes]]:
    decoder = EventStreamDecoder()
    return [(event.type, event.data) for chunk in chunks for event in decoder.feed(chunk)]


def test_events_of_the_standards_own_examples() -> None:
    stream = b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n"
    assert decoded(stream) == [("message", b"first event"), ("message", b"second event"), ("message", b" third event")]


def test_an_empty_data_line_is_an_event_with_empty_data() -> None:
    assert decoded(b"data\n\ndata\ndata\n\ndata:") == [("message", b""), ("message", b"\n")]


def test_a_block_without_data_dispatches_nothing_and_forgets_its_type() -> None:
    assert decoded(b"event: done\n\ndata: x\n\n") == [("message", b"x")]


def test_the_type_of_an_event_is_its_last_event_field() -> None:
    assert decoded(b"event: a\nevent: b\ndata: x\n\n") == [("b", b"x")]


def test_an_event_cut_off_by_the_end_is_never_dispatched() -> None:
    assert decoded(b"data: whole\n\ndata: cut\n") == [("message", b"whole")]


def test_a_byte_order_mark_counts_only_at_the_start() -> None:
    assert decoded(b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\ndata: c\n\n") == [
        ("message", b"a"),
        ("message", b"c"),
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_line_end_of_the_standard_ends_a_line(end: bytes) -> None:
    assert decoded(end.join([b"data: a", b"data: b", b"", b""])) == [("message", b"a\nb")]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x00"])
def test_no_other_character_ends_a_line(separator: str) -> None:
    text = f"a{separator}b".encode()
    assert decoded(b"data: " + text + b"\n\n") == [("message", text)]


def test_split_at_every_byte_the_events_are_the_same() -> None:
    stream = b"\xef\xbb\xbf: c\r\ndata: a\r\ndata: b\r\n\r\nevent: done\rdata: {}\r\rdata: \xf0\x9f\x98\x80\n\n"
    whole = decoded(stream)
    assert whole == [("message", b"a\nb"), ("done", b"{}"), ("message", "😀".encode())]
    assert decoded(*(stream[i : i + 1] for i in range(len(stream)))) == whole
    for cut in range(len(stream)):
        assert decoded(stream[:cut], stream[cut:]) == whole


FIELDS = st.sampled_from([b"data: x", b"data:", b"data", b"event: e", b": c", b"id: 1", b"retry: 3", b"", b" data: y"])
LINES = st.lists(st.tuples(FIELDS, st.sampled_from([b"\n", b"\r", b"\r\n"])))


@given(LINES, st.randoms(use_true_random=False))
@pytest.mark.long
def test_cuts_never_change_what_is_read(lines: list[tuple[bytes, bytes]], random: object) -> None:
    stream = b"".join(field + end for field, end in lines)
    at = [i for i in range(len(stream)) if random.random() < 0.3]  # type: ignore[attr-defined]
    pieces = [stream[a:b] for a, b in zip([0, *at], [*at, len(stream)], strict=True)]
    assert decoded(*pieces) == decoded(stream)
