import random
from collections.abc import Sequence

import pytest

from apps.local.detokenizer import Detokenizer


def bytes_decoded(tokens: Sequence[int]) -> str:
    """A tokenizer whose tokens are bytes, as the byte fallback of Llama's."""
    return bytes(tokens).decode("utf-8", errors="replace")


def blank_stripped(tokens: Sequence[int]) -> str:
    """As sentencepiece does: the blank at the start of a run goes."""
    return bytes_decoded(tokens).removeprefix(" ")


TEXTS = ["Hello, world", "Grüße 🎉👩‍👩‍👧 and 日本語", "🏳️‍🌈" * 5, " leading", "\r\n\u2028 x", "", "🎉"]


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_join_to_the_text_and_none_has_half_a_character(text: str) -> None:
    detokenizer = Detokenizer(bytes_decoded)
    pieces = [detokenizer.feed(byte) for byte in text.encode()]
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) + detokenizer.flush() == text


def test_a_blank_between_tokens_survives_a_tokenizer_that_strips_the_first_one() -> None:
    detokenizer = Detokenizer(blank_stripped)
    tokens = b" one two  three"
    assert "".join(map(detokenizer.feed, tokens)) + detokenizer.flush() == blank_stripped(tokens)


def test_text_goes_out_as_soon_as_it_is_whole() -> None:
    detokenizer = Detokenizer(bytes_decoded)
    assert [detokenizer.feed(byte) for byte in "aé🎉".encode()] == ["a", "", "é", "", "", "", "🎉"]


def test_an_unfinished_character_at_the_end_is_left_out() -> None:
    detokenizer = Detokenizer(bytes_decoded)
    text = "".join(map(detokenizer.feed, "ab🎉".encode()[:-1])) + detokenizer.flush()
    assert text == "ab"


def test_any_bytes_come_out_as_the_tokenizer_decodes_them_in_one_go() -> None:
    rng = random.Random(3)
    for _ in range(300):
        tokens = [rng.randrange(256) for _ in range(rng.randint(0, 30))]
        detokenizer = Detokenizer(bytes_decoded)
        text = "".join(map(detokenizer.feed, tokens)) + detokenizer.flush()
        assert text == bytes_decoded(tokens).rstrip("\ufffd") or text == bytes_decoded(tokens)
