"""An engine and a tokenizer without torch: honest implementations of the seams, for tests of what uses them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from apps.core.messages import JsonObject, Message
from apps.core.settings import Settings
from apps.local.checkpoint import Report
from apps.local.engine.port import EngineOutput, Progress, Sampling
from apps.local.loading import Loaded
from apps.local.prompt import NO_OPTIONS, PromptOptions, text_of
from apps.local.tokenizer import Vocabulary


class EchoTokenizer:
    """One token a character."""

    vocabulary_size = 0x110000

    def encode_chat(
        self, messages: Sequence[Message], tools: Sequence[JsonObject] = (), options: PromptOptions = NO_OPTIONS
    ) -> list[int]:
        return [ord(character) for message in messages for character in text_of(message)]

    def encode_raw(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def encode_text(self, text: str) -> list[int]:
        return self.encode_raw(text)

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(chr(token) for token in tokens)

    def decode_all(self, tokens: Sequence[int]) -> str:
        return self.decode(tokens)

    def piece(self, token: int) -> str:
        return chr(token)

    def vocabulary(self) -> Vocabulary:
        return Vocabulary([bytes([token]) for token in range(256)], frozenset(), frozenset({4}), self)

    def control_texts(self) -> frozenset[str]:
        return frozenset({"<|end|>"})

    def encode(self, text: str, add_special_tokens: bool) -> "Encoding":
        return Encoding(list(text.encode()))


@dataclass
class Encoding:
    """What a `tokenizers` backend returns."""

    ids: list[int]


class EchoEngine:
    """Says the prompt again, a character a token. With ``delay``, one each so many seconds.

    ``failing_after`` tokens it raises what a broken engine might.
    """

    def __init__(self, context_length: int = 100, delay: float = 0.0, failing_after: int | None = None) -> None:
        self.context_length = context_length
        self.delay = delay
        self.failing_after = failing_after
        self.running = 0
        self.most_running = 0
        self.closed = False
        self.failure: str | None = None
        self.samplings: list[Sampling] = []
        self.steps = 0

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[EngineOutput, None]:
        self.samplings.append(sampling)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            count = min(len(prompt), sampling.max_tokens)
            for number, token in enumerate(prompt[:count], 1):
                await asyncio.sleep(self.delay)
                if self.failing_after == number:
                    raise RuntimeError("the engine broke")
                reason = None if number < count else "length" if len(prompt) > count else "stop"
                self.steps += 1
                yield EngineOutput(chr(token), number, reason, tokens=(token,))
        finally:
            self.running -= 1

    def progress(self) -> Progress:
        return Progress(self.steps, 0.0)

    def describe(self) -> JsonObject:
        return {"engine": "echo"}

    def close(self) -> None:
        self.closed = True


class EchoLoader:
    """Loads an EchoEngine at once."""

    def __init__(self, engine: EchoEngine) -> None:
        self.engine = engine

    def __call__(self, settings: Settings, report: Report) -> Loaded:
        report("loading echo")
        return Loaded("echo", self.engine, EchoTokenizer(), {"fallback_reason": None})
