"""POST /responses over a target that serves chat completions only: translated there and back.

The chat target may be the local model or an upstream; which upstreams need this the routing file says (``responses``).
What a model thought goes back into the turn that it led to.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from apps.core.errors import AppError, InvalidValue
from apps.gateway.openai_api.over_chat import open_over_chat
from apps.gateway.openai_api.response_events import Keep, ResponseEvents
from apps.gateway.openai_api.responses_request import FIELDS, FlatTool, chat_body, flat_tools
from apps.gateway.openai_api.stored_responses import StoredResponses, conversation_before, items_of
from apps.gateway.protocol import WireCall, WireReply, WireTarget

log = logging.getLogger(__name__)
# what an upstream answers to a path that it does not have
NO_SUCH_PATH = (404, 405, 501)
INSTEAD = "leave it out and wait, or stream"


class ResponsesOverChat:
    """Implements WireTarget for POST /responses; ``stored`` keeps what is made, for calls that go on from it."""

    makes_responses = True

    def __init__(self, chat: WireTarget, stored: StoredResponses | None = None) -> None:
        self._chat = chat
        self._stored = StoredResponses(0) if stored is None else stored

    async def open(self, call: WireCall, model: str) -> WireReply:
        if call.body.get("background") is True:
            raise InvalidValue(f"This model cannot honour background: {INSTEAD}", field="background")
        chat = chat_of(self._stored, call)
        tools = flat_tools(call.body.get("tools"))
        namespaced = {tool.flat_name: (tool.namespace, tool.name) for tool in tools if tool.namespace is not None}
        events = ResponseEvents(call.body, self._keeper(call), namespaced)
        return await open_over_chat(self._chat, call, model, chat, events, partial(callers_field, tools))

    def _keeper(self, call: WireCall) -> Keep | None:
        stored = self._stored
        if not stored.keeps(call):
            return None
        tenant, name, given = call.caller.tenant, str(call.body["model"]), items_of(call.body["input"])
        return lambda response: stored.keep(tenant, name, response, given, call.earlier)

    async def aclose(self) -> None:
        """The chat target is closed by its maker."""


def chat_of(stored: StoredResponses, call: WireCall) -> dict[str, Any]:
    """The body of the chat that a response is made from. Raises an error of the contract's table."""
    return chat_body(*conversation_before(stored, call))


class ResponsesEitherWay:
    """Asks ``native`` first; where it has no such path, and only then, ``translated``.

    That is settled, and said in the log, once a translated call has succeeded: before that a 404 may be about the
    model. A call with ``background``, which is never translated, settles nothing: after its 404 `makes_responses` says
    so, until a response of the upstream's own or a translated call that fails tells better.
    """

    def __init__(self, native: WireTarget, translated: WireTarget, name: str) -> None:
        self._native = native
        self._translated = translated
        self._name = name
        self._has_none = False
        self._may_have_none = False

    @property
    def makes_responses(self) -> bool:
        return self._has_none or self._may_have_none

    async def open(self, call: WireCall, model: str) -> WireReply:
        if self._has_none:
            return await self._translated.open(call, model)
        try:
            reply = await self._native.open(call, model)
        except AppError as error:
            if error.upstream_status not in NO_SUCH_PATH:
                raise
        else:
            self._may_have_none = False
            return reply
        try:
            reply = await self._translated.open(call, model)
        except AppError:
            self._may_have_none = call.body.get("background") is True
            raise
        self._has_none = True
        log.warning("Provider %s has no /responses: its responses are made from chat completions", self._name)
        return reply

    async def aclose(self) -> None:
        """Both are closed by their makers."""


def callers_field(tools: Sequence[FlatTool], field: str) -> str:
    """The caller's own word for a field of the chat; ``tools`` are those of his body."""
    if field.startswith("tools."):
        # chat holds a function one level deeper, and knows no namespaces
        _, index, *rest = field.replace(".function", "", 1).split(".")
        known = index.isascii() and index.isdigit() and int(index) < len(tools)
        return ".".join((tools[int(index)].where if known else f"tools.{index}", *rest))
    # where in the messages something is wrong says nothing about where in the input
    return FIELDS.get(field.partition(".")[0], field)
