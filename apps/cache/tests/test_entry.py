"""Entries: whole and their own question's, or none; what they hold is never executed."""

import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.cache.entry import CorruptEntry, Entry, decode, delta_of, encode, frame_of
from apps.core.calls import Usage
from apps.core.deltas import Delta, PromptTokens, TokenLogprob, ToolCallDelta

DIGEST, OTHER = b"d" * 32, b"o" * 32
USAGE = Usage(3, 4, 1, 0.5, 2, True)


@given(st.lists(st.binary(max_size=50), max_size=6))
def test_frames_come_back_as_they_were(frames: list[bytes]) -> None:
    assert decode(encode(Entry("m", "p", USAGE, frames, 1.5), DIGEST), DIGEST) == Entry("m", "p", USAGE, frames, 1.5)


def test_an_entry_of_another_question_is_none() -> None:
    with pytest.raises(CorruptEntry):
        decode(encode(Entry("m", "p", USAGE, [b"secret"], 1.0), OTHER), DIGEST)


@given(st.data())
def test_a_damaged_entry_is_none_or_the_frames_are_whole(data: st.DataObject) -> None:
    raw = encode(Entry("m", "p", USAGE, [b"one", b"two"], 1.0), DIGEST)
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    with pytest.raises(CorruptEntry):
        decode(cut, DIGEST)
    with pytest.raises(CorruptEntry):
        decode(raw + b"x", DIGEST)


@pytest.mark.parametrize(
    "head",
    [
        b"{}",
        b"[]",
        b"null",
        b'{"model": "", "provider": "", "usage": 1, "made_at": 0, "lengths": []}',
        b'{"model": "", "provider": "", "made_at": 0, "lengths": [],'
        b' "usage": {"prompt_tokens": "1", "completion_tokens": 1}}',
        b'{"model": "", "provider": "", "usage": {"other": 1}, "made_at": 0, "lengths": []}',
        b'{"model": 1, "provider": "", "usage": null, "made_at": 0, "lengths": []}',
        b'{"lengths": [-1]}',
        b"\xff",
        b"[" * 9999,
    ],
)
def test_a_head_that_is_none_is_refused(head: bytes) -> None:
    raw = encode(Entry("", "", None, [], 0.0), DIGEST)[: 8 + 32] + len(head).to_bytes(4, "big") + head
    with pytest.raises(CorruptEntry):
        decode(raw, DIGEST)


class Bomb:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.folder),))


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "executed"))
    for raw in (bomb, encode(Entry("", "", None, [bomb], 0.0), DIGEST)[:-1]):
        with pytest.raises(CorruptEntry):
            decode(raw, DIGEST)
    with pytest.raises(CorruptEntry):
        delta_of(bomb)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "delta",
    [
        Delta("a\n\r\u2028\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")),
        Delta("", (ToolCallDelta(0, "id", "name", '{"a"'), ToolCallDelta(1)), "tool_calls", Usage(1, 2, 3, 0.25), "m"),
        Delta("x", logprobs=(TokenLogprob("\ufffd", b"\xe2\x82", -0.5, (TokenLogprob("y", b"y", -1.25),)),)),
        Delta("", finish_reason="stop", stopped_by="END"),
        Delta("", finish_reason="stop", stopped_by=0),
        Delta("", tokens=(5, 6), prompt=PromptTokens((1, 2), (TokenLogprob("a", b"a", None, id=1, rank=3),))),
    ],
)
def test_a_delta_comes_back_as_it_was(delta: Delta) -> None:
    assert delta_of(frame_of(delta)) == delta
