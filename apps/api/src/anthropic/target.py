"""POST /messages over a target that serves chat completions only: translated there and back."""

from apps.api.src.anthropic.events import MessageEvents
from apps.api.src.anthropic.request import chat_body, is_prefilled
from apps.gateway.openai_api.over_chat import open_over_chat
from apps.gateway.protocol import WireCall, WireReply, WireTarget

# what a chat target calls it, and what the caller called it
FIELDS = {"stop": "stop_sequences", "response_format": "output_format"}


class MessagesOverChat:
    """Implements WireTarget for POST /messages. ``in_process``: the chat is a model of this process."""

    def __init__(self, chat: WireTarget, *, in_process: bool = False) -> None:
        self._chat = chat
        self._in_process = in_process

    async def open(self, call: WireCall, model: str) -> WireReply:
        body = chat_body(call.body)
        if self._in_process and is_prefilled(call.body):
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        events = MessageEvents(model or str(call.body["model"]))
        return await open_over_chat(self._chat, call, model, body, events, _callers_field, fits=True)

    async def aclose(self) -> None:
        """The chat target is closed by its maker."""


def _callers_field(field: str) -> str:
    name, _, rest = field.partition(".")
    if name == "messages":
        # the system prompt and results of calls move the numbers of messages
        return "messages"
    if name == "tools":
        return field.replace(".function.parameters", ".input_schema", 1).replace(".function", "", 1)
    return FIELDS.get(name, name) if name in FIELDS or not rest else field
