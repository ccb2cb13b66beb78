"""Log probabilities in the shape of the legacy completions: four lists side by side, and where each token begins."""

import codecs
from collections.abc import Sequence
from typing import Any

from apps.core.deltas import Answer, TokenLogprob


class LegacyLogprobs:
    """Of one choice, whole or piece by piece. Offsets are in code points of the choice's text."""

    def __init__(self) -> None:
        self._length = 0

    def told(self, text: str, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Of the next piece of ``text``, whose tokens are ``entries``."""
        offsets = _offsets(text, entries, self._length)
        self._length += len(text)
        return {
            "text_offset": offsets,
            "token_logprobs": [entry.logprob for entry in entries],
            "tokens": [_name(entry) for entry in entries],
            "top_logprobs": [_top(entry) for entry in entries],
        }


def mean_logprob(answer: Answer) -> float:
    """Of the tokens of an answer; one without any is worth nothing."""
    known = [entry.logprob for entry in answer.logprobs if entry.logprob is not None]
    return sum(known) / len(known) if known else float("-inf")


def _top(entry: TokenLogprob) -> dict[str, float] | None:
    """The likeliest tokens, and always the one that was chosen."""
    if entry.logprob is None:
        return None
    top = {_name(other): other.logprob for other in entry.top if other.logprob is not None}
    return {**top, _name(entry): top.get(_name(entry), entry.logprob)}


def _name(entry: TokenLogprob) -> str:
    """The token's text; its bytes where it is a part of a character only, as OpenAI writes them."""
    try:
        return entry.raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in entry.raw)


def _offsets(text: str, entries: Sequence[TokenLogprob], start: int) -> list[int]:
    """Where each token begins; one that is not in the text (its begin, a control token) takes no place."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offsets, at = [], 0
    for entry in entries:
        offsets.append(start + at)
        piece = decoder.decode(entry.raw)
        # many tokenizers put a blank before a text that has none
        for said in (piece, piece.removeprefix(" ")):
            if text.startswith(said, at):
                at += len(said)
                break
    return offsets
