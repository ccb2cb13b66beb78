"""Keeps a caller's text text: what looks like a control token in it is encoded letter by letter, never as the token.

A control token ends a turn, begins one, or ends an answer: `<|im_end|>`, `</s>`. The chat template writes them, and
callers may not. Texts of callers are marked before the template runs; behind it, every marked token is encoded by a
tokenizer of the same model that knows no control tokens. A prompt without marks is encoded as transformers does it.
"""

import re
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping
from types import ModuleType
from typing import Any

from apps.core.process import import_once

# the name under which a chat template's filters find the Mark of a call
MARK = "mark_of_callers_text"
# what a model thinks between is no turn, and an assistant's earlier text may hold it
THINKING = frozenset({"<think>", "</think>"})
PRIVATE_USE = range(0xF0000, 0xFFFFE)


class Mark:
    """Puts a private character before every control token in a value's texts, keys included.

    Where a text has that character itself, it is doubled.
    """

    def __init__(self, control: re.Pattern[str]) -> None:
        self._character = chr(secrets.choice(PRIVATE_USE))
        self._control = control

    def __call__(self, value: Any) -> Any:
        return _mapped(value, self._marked)

    def removed(self, value: Any) -> Any:
        """The value as it was before it was marked."""
        mark = self._character
        return _mapped(value, lambda text: mark.join(part.replace(mark, "") for part in text.split(mark * 2)))

    def split(self, rendered: str) -> tuple[str, set[int]]:
        """The text without marks, and where in it the marked tokens begin."""
        # each call has a character of its own: a pattern of it would push the others out of the cache of patterns
        mark, text, last, starts = self._character, "", 0, set[int]()
        at = rendered.find(mark)
        while at >= 0:
            doubled = rendered.startswith(mark, at + 1)
            text += rendered[last:at] + (mark if doubled else "")
            last = at + 1 + doubled
            # a template may have cut a mark off its token
            if not doubled and self._control.match(rendered, last):
                starts.add(len(text))
            at = rendered.find(mark, last)
        return text + rendered[last:], starts

    def _marked(self, text: str) -> str:
        if self._character in text:
            text = text.replace(self._character, self._character * 2)
        return self._control.sub(lambda found: self._character + found[0], text)


class ControlTokens:
    """Those of one `tokenizers` backend.

    They are its special tokens, and of the other added ones those that end an answer (``end_tokens``) or that the
    source of the chat ``template`` writes, as `<tool_response>`.
    """

    def __init__(self, backend: Any, template: str, end_tokens: Collection[int]) -> None:
        added = backend.get_added_tokens_decoder()
        self._backend = backend
        self.ids = frozenset(
            token
            for token, entry in added.items()
            if entry.content.strip()
            and entry.content not in THINKING
            and (entry.special or token in end_tokens or (_is_markup(entry.content) and entry.content in template))
        )
        self.texts = frozenset(added[token].content for token in self.ids)
        self._pattern = re.compile(_any_of(self.texts) if self.texts else "(?!)")
        self._plain = _PlainBackend(backend, {t: e for t, e in added.items() if t not in self.ids}, self.ids)

    def new_mark(self) -> Mark:
        """For one prompt: a mark that no caller can know."""
        return Mark(self._pattern)

    def encode(self, text: str, starts: Collection[int]) -> list[int]:
        """The tokens of a prompt; those control tokens that begin at ``starts`` are a caller's text."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        if not starts:
            return list(encoding.ids)
        tokens: list[int] = []
        run: list[int] = []
        begin, forged = 0, False
        for token, (first, last) in zip(encoding.ids, encoding.offsets, strict=True):
            if token not in self.ids:
                run.append(token)
            elif any(start in starts for start in range(first, last)):
                forged = True
            else:
                tokens += self._plain.encode(text[begin:first], first=begin == 0) if forged else run
                tokens.append(token)
                run, begin, forged = [], last, False
        return tokens + (self._plain.encode(text[begin:], first=begin == 0) if forged else run)


class _PlainBackend:
    """Encodes with the same model, normalizer and pre-tokenizer, but without control tokens."""

    def __init__(self, backend: Any, others: Mapping[int, Any], control: frozenset[int]) -> None:
        tokenizers = import_once(load_tokenizers)
        # the model is shared, not copied: it is most of a tokenizer's memory
        self._backend = tokenizers.Tokenizer(backend.model)
        if backend.normalizer is not None:
            self._backend.normalizer = backend.normalizer
        if backend.pre_tokenizer is not None:
            self._backend.pre_tokenizer = backend.pre_tokenizer
        # stands before a text that is not the prompt's beginning: some tokenizers put a blank before that
        self._before = f"<{secrets.token_hex(16)}>"
        self._backend.add_tokens(
            [*others.values(), tokenizers.AddedToken(self._before, normalized=False, lstrip=False, rstrip=False)]
        )
        known = self._backend.get_added_tokens_decoder()
        self._ids = {token: backend.token_to_id(entry.content) for token, entry in known.items()}
        # the unknown token stands for any text
        self._control = control - {backend.token_to_id(getattr(backend.model, "unk_token", None) or "")}

    def encode(self, text: str, *, first: bool) -> list[int]:
        tokens = self._encode(text, first=first)
        if self._control.isdisjoint(tokens) or len(text) < 2:
            return [token for token in tokens if token not in self._control]
        # the model itself has the control token among its words: the text is encoded in halves that are none
        half = len(text) // 2
        return self.encode(text[:half], first=first) + self.encode(text[half:], first=False)

    def _encode(self, text: str, *, first: bool) -> list[int]:
        if not text:
            return []
        ids = self._backend.encode(text if first else self._before + text, add_special_tokens=False).ids
        return [self._ids.get(token, token) for token in (ids if first else ids[1:])]


def _any_of(texts: Iterable[str]) -> str:
    """A pattern that matches the longest of ``texts``; beginnings that they share are looked at once."""
    rests: dict[str, list[str]] = {}
    for text in texts:
        rests.setdefault(text[:1], []).append(text[1:])
    longer = "|".join(re.escape(first) + _any_of(rest) for first, rest in rests.items() if first)
    if not longer:
        return ""
    return f"(?:{longer})?" if "" in rests else f"(?:{longer})"


def _is_markup(text: str) -> bool:
    """Whether a text is made to stand out: a run of blanks or a word may be an added token too."""
    return len(text) > 2 and not text.isspace() and not all(c.isalnum() or c.isspace() for c in text)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_mapped(key, change): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value


def load_tokenizers() -> ModuleType:
    import tokenizers

    return tokenizers
