"""The local model's window: prompts counted by its own tokenizer and chat template, to the token."""

import asyncio
from collections.abc import Sequence

from apps.core.messages import JsonObject, Message
from apps.local.tokenizer import ChatTokenizer


class LocalWindow:
    """Implements ContextWindow."""

    def __init__(self, tokenizer: ChatTokenizer, context_length: int) -> None:
        self.tokens = context_length
        self.control = tokenizer.control_texts()
        self._tokenizer = tokenizer

    async def count(self, messages: Sequence[Message], tools: Sequence[JsonObject] = ()) -> int:
        return len(await asyncio.to_thread(self._tokenizer.encode_chat, messages, tools))
