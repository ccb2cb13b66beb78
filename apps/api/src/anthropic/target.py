"""POST /messages over a target that serves chat completions only: translated there and back."""

from collections.abc import Mapping
from typing import Any

from apps.api.src.anthropic.events import MessageEvents
from apps.api.src.anthropic.request import chat_body, is_prefilled
from apps.core.errors import AppError
from apps.core.messages import ChatRequest
from apps.core.ports import Writer
from apps.gateway.openai_api.chat_request import chat_request
from apps.gateway.openai_api.over_chat import open_over_chat
from apps.gateway.protocol import WireCall, WireReply, WireTarget

# what a chat target calls it, and what the caller called it
FIELDS = {"stop": "stop_sequences", "response_format": "output_format"}


class MessagesOverChat:
    """Implements WireTarget for POST /messages.

    ``in_process``: the chat is a model of this process; ``counter`` is one that counts a prompt's tokens beforehand.
    """

    def __init__(self, chat: WireTarget, *, in_process: bool = False, counter: Writer | None = None) -> None:
        self._chat = chat
        self._in_process = in_process
        self._counter = counter

    async def open(self, call: WireCall, model: str) -> WireReply:
        body = chat_body(call.body)
        if self._in_process and is_prefilled(call.body):
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        events = MessageEvents(model or str(call.body["model"]), await self._counted(call, body))
        return await open_over_chat(self._chat, call, model, body, events, _callers_field, fits=True)

    async def _counted(self, call: WireCall, body: Mapping[str, Any]) -> int:
        """The prompt's tokens, which a stream tells at its start; 0 where they are known at its end alone."""
        if self._counter is None or not call.stream:
            return 0
        try:
            return await count_chat(self._counter, chat_request(body, call.caller))
        except AppError as error:
            error.field = None if error.field is None else _callers_field(error.field)
            raise

    async def aclose(self) -> None:
        """The chat target is closed by its maker."""


async def count_chat(model: Writer, request: ChatRequest) -> int:
    """Tokens of a conversation as the model's own template writes it, tools and all."""
    window = await model.window(request)
    return await window.count(request.messages, request.tools)


def _callers_field(field: str) -> str:
    name, _, rest = field.partition(".")
    if name == "messages":
        # the system prompt and results of calls move the numbers of messages
        return "messages"
    if name == "tools":
        return field.replace(".function.parameters", ".input_schema", 1).replace(".function", "", 1)
    return FIELDS.get(name, name) if name in FIELDS or not rest else field
