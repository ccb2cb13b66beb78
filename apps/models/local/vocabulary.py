"""The bytes that each token stands for, read from a `tokenizers` backend: what grammars and logprobs are made of."""

import functools
import json
import re
from dataclasses import dataclass
from typing import Any

HEX_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SPACE = "\u2581"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """``tokens[i]`` are the bytes of token i; a special token's are its name. ``backend`` encodes text."""

    tokens: list[bytes]
    special: frozenset[int]
    end_tokens: frozenset[int]
    backend: Any


def read_vocabulary(backend: Any, end_tokens: frozenset[int]) -> Vocabulary:
    """Takes a tenth of a second for 50,000 tokens.

    A token of a byte-level tokenizer (GPT-2's) spells each byte as one character; one of a SentencePiece tokenizer
    is text with U+2581 for a blank, or a single byte as `<0x0A>`.
    """
    added = backend.get_added_tokens_decoder()
    byte_level = '"ByteLevel"' in json.dumps(json.loads(backend.to_str()).get("decoder"))
    spell = _byte_level if byte_level else _sentence_piece
    tokens = [b""] * (max(backend.get_vocab(with_added_tokens=True).values()) + 1)
    for text, token in backend.get_vocab(with_added_tokens=True).items():
        tokens[token] = text.encode() if token in added else spell(text)
    special = frozenset(token for token, entry in added.items() if entry.special)
    return Vocabulary(tokens, special, end_tokens, backend)


def _byte_level(token: str) -> bytes:
    spelled = _spelled_bytes()
    # a character outside the spelling can only come from a damaged file; it stands for itself
    return b"".join(spelled.get(character) or character.encode() for character in token)


def _sentence_piece(token: str) -> bytes:
    byte = HEX_BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()


@functools.cache
def _spelled_bytes() -> dict[str, bytes]:
    """GPT-2's spelling: printable Latin-1 characters stand for themselves, the other bytes for U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {chr(byte): bytes([byte]) for byte in printable}
    return spelled | {chr(0x100 + number): bytes([byte]) for number, byte in enumerate(others)}
