"""What is asked of responses beside making one: those that are kept here, their input_items, and input_tokens.

What is kept elsewhere goes on to the upstream that has it.
"""

import json
import re
from typing import Any

from fastapi import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive

from apps.api.src.auth.authentication import allow_model, caller_of
from apps.api.src.v1.background import BackgroundResponse, BackgroundResponses
from apps.api.src.v1.execution import streamed_reply
from apps.api.src.v1.models import input_tokens
from apps.api.src.v1.relay import OF_A_RESPONSE, read_call, with_earlier, with_items
from apps.api.src.wiring.services import Services
from apps.core.errors import InvalidValue, NotFound, quoted
from apps.core.ports import Tokenizing
from apps.gateway.openai_api.response_events import MADE_HERE
from apps.gateway.openai_api.responses_request import chat_body
from apps.gateway.openai_api.stored_responses import Item, StoredResponse, StoredResponses, conversation_before
from apps.gateway.routing.router import Needs

INPUT_TOKENS, ITEMS, CANCEL = "input_tokens", "input_items", "cancel"
MOST_ITEMS, ITEMS_AT_ONCE = 100, 20
# -1 is before the first
STARTING_AFTER = re.compile(r"-1|[0-9]{1,9}")


async def answered_here(request: Request, path: str) -> Response | Request:
    """The answer; where the upstream has it, the request that goes on to it.

    Raises NotFound for an id that is not kept (any more), InvalidValue for what cannot be done with one.
    """
    services: Services = request.app.state.services
    if request.method == "POST" and path == INPUT_TOKENS:
        return await _counted(request, services)
    id, _, rest = path.partition("/")
    if not id.startswith(MADE_HERE):
        return request
    operation = (request.method, rest)
    background: BackgroundResponses = request.app.state.background
    going = background.find(caller_of(request).tenant, id)
    if going is not None:
        _allow(request, services, going.model)
        return _of_background(request, background, going, operation)
    stored, found = _found(request, services, id)
    if operation == ("GET", ""):
        if request.query_params.get("stream") == "true":
            raise InvalidValue("A response that is kept cannot be streamed again", field="stream")
        return Response(found.response, media_type="application/json")
    if operation == ("DELETE", ""):
        stored.delete(caller_of(request).tenant, id)
        return _deleted(id)
    if operation == ("GET", ITEMS):
        return JSONResponse(_listed(found.given(), request))
    if operation == ("POST", CANCEL):
        if json.loads(found.response)["background"]:
            return Response(found.response, media_type="application/json")
        raise InvalidValue("Cannot cancel a synchronous response.", field="response_id")
    raise NotFound("No such route")


def _of_background(
    request: Request, background: BackgroundResponses, found: BackgroundResponse, operation: tuple[str, str]
) -> Response:
    if operation == ("GET", ""):
        if request.query_params.get("stream") != "true":
            return JSONResponse(found.response)
        after = request.query_params.get("starting_after", "-1")
        if not STARTING_AFTER.fullmatch(after):
            raise InvalidValue("Starting after must be the sequence number of an event", field="starting_after")
        return streamed_reply(request, found.events(int(after)), found.recording.record)
    if operation == ("GET", ITEMS):
        return JSONResponse(_listed(found.items(), request))
    if operation == ("POST", CANCEL):
        found.cancel()
        return JSONResponse(found.response)
    if operation == ("DELETE", ""):
        background.delete(found)
        stored: StoredResponses = request.app.state.services.gateway.stored_responses
        if stored.find(found.tenant, found.id) is not None:
            stored.delete(found.tenant, found.id)
        return _deleted(found.id)
    raise NotFound("No such route")


def _deleted(id: str) -> Response:
    return JSONResponse({"id": id, "object": "response.deleted", "deleted": True})


def _allow(request: Request, services: Services, model: str) -> None:
    allow_model(caller_of(request), model, services.gateway.router.is_local, OF_A_RESPONSE)


def _found(request: Request, services: Services, id: str) -> tuple[StoredResponses, StoredResponse]:
    stored = services.gateway.stored_responses
    found = stored.find(caller_of(request).tenant, id)
    if found is None:
        raise NotFound(f"Response with id {quoted(id)} not found.", field="response_id")
    _allow(request, services, found.model)
    return stored, found


def _listed(items: list[Item], request: Request) -> dict[str, Any]:
    """The items of an input, the last first unless ``order`` is asc."""
    if request.query_params.get("order", "desc") != "asc":
        items.reverse()
    limit = request.query_params.get("limit", str(ITEMS_AT_ONCE))
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit) <= MOST_ITEMS:
        details = {"min": 1, "max": MOST_ITEMS}
        raise InvalidValue(f"Limit must be between 1 and {MOST_ITEMS}", field="limit", details=details)
    after = request.query_params.get("after")
    ids = [item.get("id") for item in items]
    if after is not None and after not in ids:
        raise InvalidValue("No item of the input has this id", field="after")
    first = 0 if after is None else ids.index(after) + 1
    page = items[first : first + int(limit)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0].get("id") if page else None,
        "last_id": page[-1].get("id") if page else None,
        "has_more": first + len(page) < len(items),
    }


async def _counted(request: Request, services: Services) -> Response | Request:
    """How many tokens the prompt of a response would have; exact, so of a model whose tokenizer is here."""
    call = with_earlier(await read_call(request, "/responses", services.gateway.router.is_local), services.gateway)
    call = with_items(call, services.gateway)
    chat = services.gateway.router.candidates(str(call.body["model"]), Needs())[0].provider.chat
    if not isinstance(chat, Tokenizing):
        return Request(request.scope, _replayed(call.for_model(str(call.body["model"])), request.receive))
    body, before = conversation_before(services.gateway.stored_responses, call)
    return JSONResponse(await input_tokens(chat, chat_body(body, before), call.caller))


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that has been read already, and then what comes behind it."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
