"""Conversation to tokens and tokens to text, by the `tokenizers` library itself.

transformers' tokenizer classes wrap the same library but take most of a second to import, so they serve only where
a checkpoint has no tokenizer.json.
"""

import functools
import importlib.util
import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from apps.core.messages import JsonObject, Message
from apps.core.process import import_once
from apps.local.control_tokens import THINKING, ControlTokens, load_tokenizers
from apps.local.prompt import NO_OPTIONS, ChatTemplate, PromptOptions

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
    letters = _byte_letters()
    # a character outside the spelling can only come from a damaged file; it stands for itself
    return b"".join(letters.get(character) or character.encode() for character in token)


def _sentence_piece(token: str) -> bytes:
    byte = HEX_BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()


@functools.cache
def _byte_letters() -> dict[str, bytes]:
    """GPT-2's spelling: printable Latin-1 characters stand for themselves, the other bytes for U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): bytes([byte]) for byte in printable}
    return letters | {chr(0x100 + number): bytes([byte]) for number, byte in enumerate(others)}


TOOL_USE = "tool_use"
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


class ChatTokenizer(Protocol):
    """What the local model needs of a tokenizer. Tokens are 0 to ``vocabulary_size`` - 1."""

    vocabulary_size: int

    def encode_chat(
        self, messages: Sequence[Message], tools: Sequence[JsonObject] = (), options: PromptOptions = NO_OPTIONS
    ) -> list[int]:
        """Tokens of the whole prompt; nothing in it that a caller wrote is a control token.

        Raises InvalidValue for messages that the template cannot take.
        """

    def encode_raw(self, text: str) -> list[int]:
        """Tokens of a text that no template has touched, begun as the model was trained to see a text begin.

        Its control tokens are control tokens: such a caller writes the whole prompt, turns included.
        """

    def encode_text(self, text: str) -> list[int]:
        """Tokens of a text, without the special ones that a text begins with."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a run of tokens, without special tokens."""

    def decode_all(self, tokens: Sequence[int]) -> str:
        """The text of a run of tokens, special ones by their names."""

    def piece(self, token: int) -> str:
        """What one token stands for, or its name where that is no text."""

    def vocabulary(self) -> Vocabulary:
        """The bytes of all tokens. The first call may take a tenth of a second."""

    def control_texts(self) -> frozenset[str]:
        """Texts that are not read as text: each is one token that means something, like the end of a turn."""


class HubTokenizer:
    """The tokenizer of a checkpoint's folder. ``end_tokens`` are those that end an answer."""

    def __init__(self, folder: Path) -> None:
        self._backend, config = _backend(folder)
        special = {name: text for name in SPECIAL if (text := _text(config.get(name)))}
        special.setdefault("eos_token", "</s>")
        # batches are padded with what ends an answer anyway, where the tokenizer names nothing else
        special.setdefault("pad_token", special["eos_token"])
        self.template = ChatTemplate(_template(folder, config), special, _template_for_tools(folder, config))
        self.pad_token: int | None = self._backend.token_to_id(special["pad_token"])
        self.end_tokens = _end_tokens(folder, self._backend.token_to_id(special["eos_token"]))
        self._control = ControlTokens(self._backend, self.template.sources, self.end_tokens)
        self._silent = _silent_tokens(self._backend)
        self.vocabulary_size = int(self._backend.get_vocab_size(with_added_tokens=True))
        self._vocabulary: Vocabulary | None = None
        self._reading = threading.Lock()

    def encode_chat(
        self, messages: Sequence[Message], tools: Sequence[JsonObject] = (), options: PromptOptions = NO_OPTIONS
    ) -> list[int]:
        mark = self._control.new_mark()
        rendered = self.template.render(messages, tools, options, mark)
        return self._control.encode(*mark.split(rendered))

    def encode_raw(self, text: str) -> list[int]:
        return list(self._backend.encode(text).ids)

    def encode_text(self, text: str) -> list[int]:
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        if self._silent is None:
            return str(self._backend.decode(tokens, skip_special_tokens=True))
        audible = [token for token in tokens if token not in self._silent]
        return str(self._backend.decode(audible, skip_special_tokens=False))

    def decode_all(self, tokens: Sequence[int]) -> str:
        return str(self._backend.decode(tokens, skip_special_tokens=False))

    def piece(self, token: int) -> str:
        return self.token_bytes(token).decode("utf-8", "replace") or str(self._backend.id_to_token(token) or "")

    def vocabulary(self) -> Vocabulary:
        with self._reading:
            if self._vocabulary is None:
                self._vocabulary = read_vocabulary(self._backend, self.end_tokens)
            return self._vocabulary

    def control_texts(self) -> frozenset[str]:
        added = self._backend.get_added_tokens_decoder().values()
        return frozenset(token.content for token in added if token.special and token.content.strip())

    def difference(self, other: "HubTokenizer") -> str | None:
        """In words, where a token is not the same text in the other one; None where all are."""
        here, there = (each._backend.get_vocab(with_added_tokens=True) for each in (self, other))
        if here == there:
            return None
        text, token = min((here.items() ^ there.items()), key=lambda entry: entry[1])
        apart = len(here.items() ^ there.items()) // 2 or 1
        return f"{apart} of {len(here)} tokens differ, {text!r} ({token}) is the first"

    def token_bytes(self, token: int) -> bytes:
        """What one token stands for; nothing where a row of logits is longer than the vocabulary."""
        tokens = self.vocabulary().tokens
        return tokens[token] if token < len(tokens) else b""


def _silent_tokens(backend: Any) -> frozenset[int] | None:
    """The special tokens without those that thoughts stand between; None where those are no special tokens."""
    added = backend.get_added_tokens_decoder()
    special = frozenset(token for token, entry in added.items() if entry.special)
    silent = frozenset(token for token in special if added[token].content not in THINKING)
    return None if silent == special else silent


def _backend(folder: Path) -> tuple[Any, dict[str, Any]]:
    file = folder / "tokenizer.json"
    config = _json(folder / "tokenizer_config.json")
    if file.is_file():
        backend = import_once(load_tokenizers).Tokenizer.from_file(str(file))
    else:
        if importlib.util.find_spec("transformers") is None:
            raise ValueError("there is no tokenizer.json, and transformers, which reads others, is not installed")
        whole = import_once(load_auto_tokenizer).from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        backend = whole.backend_tokenizer
    # a prompt is measured, never cut: what a training run left in the file must not count here
    backend.no_truncation()
    backend.no_padding()
    return backend, config


def load_auto_tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    return _named_template(config, "default")


def _template_for_tools(folder: Path, config: dict[str, Any]) -> str | None:
    """transformers takes the template of this name where there are tools."""
    file = folder / "additional_chat_templates" / f"{TOOL_USE}.jinja"
    return file.read_text(encoding="utf-8") if file.is_file() else _named_template(config, TOOL_USE)


def _named_template(config: dict[str, Any], name: str) -> str | None:
    """From the tokenizer's configuration; one without a name is the default."""
    template = config.get("chat_template")
    if not isinstance(template, list):
        return template if isinstance(template, str) and name == "default" else None
    found = next((entry["template"] for entry in template if entry.get("name") == name), None)
    return found if isinstance(found, str) else None


def _end_tokens(folder: Path, eos: int | None) -> frozenset[int]:
    """generation_config.json often names more end tokens than the tokenizer does."""
    ends = {eos} if eos is not None else set()
    for file in ("generation_config.json", "config.json"):
        named = _json(folder / file).get("eos_token_id")
        ends.update(named if isinstance(named, list) else [] if named is None else [named])
    return frozenset(ends)


def _text(token: Any) -> str | None:
    """Special tokens are written as text or as an object with their text in `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    value = json.loads(file.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}
