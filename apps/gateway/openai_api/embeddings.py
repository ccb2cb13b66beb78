"""An Embedder on OpenAI's wire: POST /embeddings in OpenAI's own shapes, and nothing else."""

import asyncio
import base64
import json
import math
from array import array
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apps.core.calls import Usage
from apps.core.deltas import Delta
from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField, TextTooLong
from apps.core.messages import ChatRequest
from apps.core.ports import Embedder, EmbedsTokens, Readiness, digest_of
from apps.gateway.openai_api.fields import NEUTRAL, refuse_others
from apps.gateway.protocol import WireCall, WireReply

# several dialects' words for it; the last is a number of tokens
TRUNCATIONS = ("truncation", "truncate", "truncate_prompt_tokens")
KNOWN = frozenset({"model", "input", "encoding_format", "dimensions", *TRUNCATIONS})
# values that ask for nothing, beside those that do so everywhere
EMBEDDING_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "stream": (False,),
    "add_special_tokens": (True,),
    "normalize": (True,),
    "embd_normalize": (2,),
    "embedding_type": ("float",),
    "output_dtype": ("float",),
    "priority": (0,),
}
MOST_TEXTS = 2048


@dataclass(frozen=True, slots=True)
class Options:
    """How vectors are made and written; texts over ``most`` tokens are cut, none where it is None."""

    dimensions: int
    as_base64: bool
    most: int | None


class EmbeddingsWire:
    """Implements WireTarget, and the ChatModel of an embedder, which refuses to chat.

    What the embedder cannot honour is refused by name, never dropped.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def open(self, call: WireCall, model: str) -> WireReply:
        if call.path != "/embeddings":
            raise _only_embeddings(self._embedder.name)
        given = _inputs(call.body.get("input"))
        options = _options(call.body, self._embedder)
        vectors, tokens = await _embedded(self._embedder, given, options)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        head = {"object": "list", "model": self._embedder.name, "usage": usage}
        # a thousand vectors are half a second's writing: not on the event loop
        body = await asyncio.to_thread(_body, head, vectors, options)
        if call.record is not None:
            call.record.usage = Usage(tokens, 0)
        return WireReply("application/json", body)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        raise _only_embeddings(self._embedder.name)
        yield Delta()

    def revision(self, request: ChatRequest) -> str:
        return digest_of(self._embedder.name, self._embedder.dimensions)

    def readiness(self) -> Readiness:
        return self._embedder.readiness()

    async def start(self) -> None:
        """The embedder loads at its first use."""

    async def aclose(self) -> None:
        """The embedder is closed by its maker."""


def _only_embeddings(name: str) -> InvalidValue:
    return InvalidValue(f"{name} makes embeddings, and nothing else", field="model")


def _inputs(given: Any) -> list[str] | list[list[int]]:
    """Texts, or runs of tokens; never both. Raises an error of the contract's table that names the field."""
    if given is None:
        raise MissingRequiredField("Input is required", field="input")
    alone = isinstance(given, str) or (isinstance(given, list) and bool(given) and isinstance(given[0], int | float))
    inputs = [given] if alone else given
    if not isinstance(inputs, list):
        raise InvalidType("Input must be a string, tokens, or an array of either", field="input")
    if not 1 <= len(inputs) <= MOST_TEXTS:
        details = {"min": 1, "max": MOST_TEXTS, "received": len(inputs)}
        raise InvalidValue(f"Input must be 1 to {MOST_TEXTS} texts", field="input", details=details)
    for index, one in enumerate(inputs):
        where = "input" if alone else f"input.{index}"
        if not isinstance(one, str | list) or isinstance(one, str) is not isinstance(inputs[0], str):
            raise InvalidType("Input must be a string, tokens, or an array of either", field=where)
        if not one:
            raise InvalidValue("Input must not be empty", field=where)
        if isinstance(one, list) and not all(isinstance(t, int) and not isinstance(t, bool) for t in one):
            raise InvalidType("The tokens of a text must be integers", field=where)
    return inputs


def _options(body: Mapping[str, Any], embedder: Embedder) -> Options:
    """How the vectors are made and written, after checking that there is nothing that cannot be honoured."""
    refuse_others(body, KNOWN, {**NEUTRAL, **EMBEDDING_NEUTRAL}, embedder.name)
    dimensions = body.get("dimensions")
    if dimensions is not None:
        cuttable = embedder.cuttable if isinstance(embedder, EmbedsTokens) else ()
        if isinstance(dimensions, bool) or not isinstance(dimensions, int):
            raise InvalidType("Dimensions must be an integer", field="dimensions")
        if dimensions != embedder.dimensions and dimensions not in cuttable:
            # cut vectors would be worse ones where it was not trained to be cut
            words = f"{embedder.name} has {embedder.dimensions} dimensions, and {_cuts(cuttable)}"
            raise InvalidValue(words, field="dimensions", details={"dimensions": embedder.dimensions})
    form = body.get("encoding_format")
    if form not in (None, "float", "base64"):
        raise InvalidValue("Encoding format must be float or base64", field="encoding_format")
    return Options(dimensions or embedder.dimensions, form == "base64", _most_tokens(body, embedder.longest))


def _cuts(cuttable: Collection[int]) -> str:
    """What its vectors can be cut to, in words."""
    if not cuttable:
        return "cannot be cut to another number"
    if isinstance(cuttable, range):
        return "can be cut to any number below"
    return f"can be cut to {', '.join(map(str, sorted(cuttable)))}"


def _most_tokens(body: Mapping[str, Any], longest: int) -> int | None:
    """The tokens to which a text is cut; None where none may be cut."""
    for name in ("truncation", "truncate"):
        value = body.get(name)
        if not isinstance(value, bool | None):
            raise InvalidType(f"{name.capitalize()} must be true or false", field=name)
    limit = body.get("truncate_prompt_tokens")
    if isinstance(limit, bool) or not isinstance(limit, int | None):
        raise InvalidType("Truncate prompt tokens must be an integer", field="truncate_prompt_tokens")
    if limit is not None and limit != -1 and not 1 <= limit <= longest:
        details = {"min": 1, "max": longest, "received": limit}
        words = f"Truncate prompt tokens must be between 1 and {longest}, or -1"
        raise InvalidValue(words, field="truncate_prompt_tokens", details=details)
    if limit not in (None, -1):
        return limit
    return longest if limit == -1 or body.get("truncation") or body.get("truncate") else None


async def _embedded(
    embedder: Embedder, given: list[str] | list[list[int]], options: Options
) -> tuple[list[list[float]], int]:
    """The vectors, and how many tokens were read."""
    if not isinstance(embedder, EmbedsTokens):
        texts = [text for text in given if isinstance(text, str)]
        if len(texts) < len(given):
            raise InvalidValue("This model takes texts, not tokens: its tokenizer is not here", field="input")
        counts = await embedder.count_tokens(texts)
        if options.most is not None and any(count > options.most for count in counts):
            raise InvalidValue("This model cannot cut a text: its tokenizer is not here", field="input")
        _refuse_too_long(counts, embedder.longest)
        return await embedder.embed(texts), sum(counts)
    texts = [text for text in given if isinstance(text, str)]
    tokens = await embedder.tokenize(texts) if texts else [run for run in given if isinstance(run, list)]
    if options.most is not None:
        tokens = [_cut(run, options.most, special=bool(texts)) for run in tokens]
    _refuse_too_long([len(run) for run in tokens], embedder.longest)
    vectors = await embedder.embed_tokens(tokens)
    if options.dimensions < embedder.dimensions:
        vectors = [_shortened(vector, options.dimensions) for vector in vectors]
    return vectors, sum(map(len, tokens))


def _refuse_too_long(counts: Sequence[int], longest: int) -> None:
    for index, count in enumerate(counts):
        if count > longest:
            raise TextTooLong(count, longest, index, "input" if len(counts) == 1 else f"input.{index}")


def _cut(run: list[int], most: int, *, special: bool) -> list[int]:
    """The beginning of a text; the special token at its end stays."""
    if len(run) <= most:
        return run
    return [*run[: most - 1], run[-1]] if special and most > 1 else run[:most]


def _shortened(vector: Sequence[float], dimensions: int) -> list[float]:
    """The first values, with a length of 1 again."""
    first = vector[:dimensions]
    length = math.sqrt(sum(value * value for value in first))
    return [value / length for value in first] if length else list(first)


def _body(head: Mapping[str, Any], vectors: Sequence[Sequence[float]], options: Options) -> bytes:
    """A vector at a time, so that other threads get their turns between two."""
    written = [
        json.dumps({"object": "embedding", "index": index, "embedding": _base64(v) if options.as_base64 else v})
        for index, v in enumerate(vectors)
    ]
    return (json.dumps(head)[:-1] + ', "data": [' + ", ".join(written) + "]}").encode()


def _base64(vector: Sequence[float]) -> str:
    """Little-endian float32, as OpenAI's clients read it."""
    values = array("f", vector)
    if values.itemsize != 4:
        raise RuntimeError("float is not 32 bits here")
    return base64.b64encode(values.tobytes()).decode()
