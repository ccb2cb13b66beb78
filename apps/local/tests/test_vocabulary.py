from typing import Any

import pytest

pytest.importorskip("tokenizers", reason="tokenizers comes with requirements-local.txt")
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from apps.local.tokenizer import HubTokenizer, read_vocabulary

TEXT = 'Grüße 🦜\n{"a": [1, 2]}'


def byte_level() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT] * 20, trainer)
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


def sentence_piece() -> Any:
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "\u2581a", "a", "{", '"']
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return tokenizer


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_the_bytes_of_a_texts_tokens_are_the_texts_bytes(make: Any) -> None:
    backend = make()
    vocabulary = read_vocabulary(backend, frozenset({1}))
    tokens = backend.encode(TEXT.replace(" ", "\u2581") if make is sentence_piece else TEXT).ids
    assert b"".join(vocabulary.tokens[token] for token in tokens) == TEXT.encode()


def test_special_tokens_are_known_and_spelled_by_their_names() -> None:
    vocabulary = read_vocabulary(byte_level(), frozenset({1}))
    (special,) = vocabulary.special
    assert vocabulary.tokens[special] == b"<|end|>"


@pytest.mark.local
def test_the_packaged_models_tokens_are_spelled_as_they_decode(tokenizer: HubTokenizer) -> None:
    vocabulary = tokenizer.vocabulary()
    assert len(vocabulary.tokens) == 49152
    tokens = tokenizer.encode(TEXT)
    assert b"".join(map(tokenizer.token_bytes, tokens)) == TEXT.encode()
    assert vocabulary.end_tokens <= vocabulary.special
    assert tokenizer.token_bytes(10**6) == b""
