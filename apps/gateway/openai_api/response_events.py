"""The events of a response in the making: chunks of a chat in, OpenAI's events and the response object out.

Chat chunks become created, in_progress, then for each item added, deltas, done, and last completed or incomplete. What
a model thought is an item of its own.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from apps.core.deltas import TokenLogprob, ToolCallDelta
from apps.gateway.openai_api.chat_completions import logprobs_json
from apps.gateway.openai_api.over_chat import Event
from apps.models.openai_chat import ChoiceReader

# no upstream's id begins so: theirs go on in hexadecimal digits
MADE_HERE = "resp_g"
# whether there was room for it
Keep = Callable[[Mapping[str, Any]], bool]
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
# of the request's own fields, those that a response repeats, and what stands there where the request said nothing
REPEATED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "user": None,
}


# the kinds of text that a model says, and what OpenAI calls the part that holds one
PARTS = {"text": "output_text", "refusal": "refusal", "reasoning": "reasoning_text"}


NO_NAMES: Mapping[str, tuple[str, str]] = {}


class MessageItem:
    """An item of text: one content part, of kind ``text``, ``refusal`` or ``reasoning``."""

    def __init__(self, index: int, kind: str) -> None:
        self.open = True
        self._kind = kind
        self._part_type = PARTS[kind]
        self._text = ""
        self._logprobs: list[TokenLogprob] = []
        name = f"{'rs' if kind == 'reasoning' else 'msg'}_{secrets.token_hex(16)}"
        self._where: Event = {"item_id": name, "output_index": index, "content_index": 0}

    def accepts(self, kind: str) -> bool:
        return self.open and kind == self._kind

    def opening(self) -> Iterator[Event]:
        item = {**self.item("in_progress"), "content": []}
        yield _item_event("added", self._where["output_index"], item)
        yield {"type": "response.content_part.added", **self._where, "part": self._part()}

    def feed(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> Iterator[Event]:
        self._text += text
        self._logprobs += logprobs
        event = {"type": f"response.{self._part_type}.delta", **self._where, "delta": text}
        yield {**event, "logprobs": _of_event(logprobs)} if self._kind == "text" else event

    def closing(self, status: str) -> Iterator[Event]:
        self.open = False
        content_field = "refusal" if self._kind == "refusal" else "text"
        event = {"type": f"response.{self._part_type}.done", **self._where, content_field: self._text}
        yield {**event, "logprobs": _of_event(self._logprobs)} if self._kind == "text" else event
        yield {"type": "response.content_part.done", **self._where, "part": self._part()}
        yield _item_event("done", self._where["output_index"], self.item(status))

    def item(self, status: str) -> dict[str, Any]:
        if self._kind == "reasoning":
            head = {"id": self._where["item_id"], "type": "reasoning", "status": status, "summary": []}
        else:
            head = {"id": self._where["item_id"], "type": "message", "status": status, "role": "assistant"}
        return {**head, "content": [self._part()]}

    def _part(self) -> dict[str, Any]:
        if self._kind == "refusal":
            return {"type": "refusal", "refusal": self._text}
        if self._kind == "reasoning":
            return {"type": "reasoning_text", "text": self._text}
        logprobs = logprobs_json(self._logprobs)["content"]
        return {"type": "output_text", "text": self._text, "annotations": [], "logprobs": logprobs}


def _of_event(entries: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """As events have them: without the bytes."""
    return [
        {
            "token": entry.token,
            "logprob": entry.logprob,
            "top_logprobs": [{"token": other.token, "logprob": other.logprob} for other in entry.top],
        }
        for entry in entries
    ]


class CallItem:
    """An item that calls a function; its arguments come in pieces."""

    def __init__(self, index: int, call_id: str, name: str, namespace: str | None = None) -> None:
        self.open = True
        self._call_id, self._arguments = call_id, ""
        self._name = {"name": name} if namespace is None else {"namespace": namespace, "name": name}
        self._where: Event = {"item_id": f"fc_{secrets.token_hex(16)}", "output_index": index}

    def opening(self) -> Iterator[Event]:
        yield _item_event("added", self._where["output_index"], self.item("in_progress"))

    def feed(self, arguments: str) -> Iterator[Event]:
        self._arguments += arguments
        yield {"type": "response.function_call_arguments.delta", **self._where, "delta": arguments}

    def closing(self, status: str) -> Iterator[Event]:
        self.open = False
        yield {"type": "response.function_call_arguments.done", **self._where, "arguments": self._arguments}
        yield _item_event("done", self._where["output_index"], self.item(status))

    def item(self, status: str) -> dict[str, Any]:
        head = {"id": self._where["item_id"], "type": "function_call", "status": status}
        return {**head, "call_id": self._call_id, **self._name, "arguments": self._arguments}


class ResponseEvents:
    """One response in the making. ``body`` is the request; every event carries its ``sequence_number``.

    ``keep`` is given the response when it is whole; without it nothing is kept. ``store`` in the response says so.
    ``namespaced`` are the namespace and the name of each function that the model calls by another one.
    """

    def __init__(
        self, body: Mapping[str, Any], keep: Keep | None = None, namespaced: Mapping[str, tuple[str, str]] = NO_NAMES
    ) -> None:
        self._body = body
        self._namespaced = namespaced
        self._keep = keep
        self._is_kept = keep is not None
        self._whole: dict[str, Any] = {}
        self._id = f"{MADE_HERE}{secrets.token_hex(24)}"
        self._created = int(time.time())
        self._model = str(body.get("model"))
        self._usage: dict[str, Any] | None = None
        self._finish = ""
        self._items: list[MessageItem | CallItem] = []
        self._calls: dict[int, CallItem] = {}
        self._reader = ChoiceReader()
        self._count = 0

    @property
    def finished(self) -> bool:
        """Whether the chat has said how it ended."""
        return bool(self._finish)

    def start(self, first: Mapping[str, Any]) -> Iterator[Event]:
        self._model = first.get("model") or self._model
        for kind in ("created", "in_progress"):
            yield from self._numbered([{"type": f"response.{kind}", "response": self.response("in_progress")}])

    def feed(self, chunk: Mapping[str, Any]) -> Iterator[Event]:
        """A chunk of a chat; a whole answer's ``message`` may stand where a chunk has its ``delta``."""
        self._model = chunk.get("model") or self._model
        self._usage = _usage(chunk.get("usage")) or self._usage
        for choice in chunk.get("choices") or []:
            read = self._reader.read(choice)
            for kind, text in (("reasoning", read.reasoning), ("text", read.text), ("refusal", read.refusal)):
                logprobs = read.logprobs if kind == "text" else ()
                if text or logprobs:
                    yield from self._numbered(self._say(kind, text, logprobs))
            for piece in read.tool_calls:
                yield from self._numbered(self._call(piece))
            self._finish = read.finish_reason or self._finish

    def finish(self) -> Iterator[Event]:
        status = self._status
        for item in self._items:
            if item.open:
                yield from self._numbered(item.closing(status))
        response = self._whole = self.response(status)
        if self._keep is not None:
            self._is_kept = response["store"] = self._keep(response)
        yield from self._numbered([{"type": f"response.{status}", "response": response}])

    @property
    def _status(self) -> str:
        return "incomplete" if self._finish in INCOMPLETE else "completed"

    def whole(self) -> dict[str, Any]:
        """The response object, after `finish`."""
        return self._whole

    def response(self, status: str) -> dict[str, Any]:
        """The response object as of now."""
        over = status != "in_progress"
        reason = INCOMPLETE.get(self._finish) if over else None
        repeated = {
            name: default if self._body.get(name) is None else self._body[name] for name, default in REPEATED.items()
        }
        repeated["text"] = {**REPEATED["text"], **repeated["text"]}
        repeated["tools"] = [_whole_tool(tool) for tool in repeated["tools"]]
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": self._model,
            "output": [item.item(status) for item in self._items] if over else [],
            "previous_response_id": self._body.get("previous_response_id"),
            "reasoning": {"effort": None, "summary": None, **(self._body.get("reasoning") or {})},
            "store": self._is_kept,
            "truncation": "disabled",
            "usage": self._usage if over else None,
            **repeated,
        }

    def _say(self, kind: str, text: str, logprobs: Sequence[TokenLogprob] = ()) -> Iterator[Event]:
        last = self._items[-1] if self._items else None
        if isinstance(last, MessageItem) and last.accepts(kind):
            yield from last.feed(text, logprobs)
            return
        yield from self._close_message()
        item = MessageItem(len(self._items), kind)
        self._items.append(item)
        yield from item.opening()
        yield from item.feed(text, logprobs)

    def _call(self, piece: ToolCallDelta) -> Iterator[Event]:
        item = self._calls.get(piece.index)
        if item is None:
            yield from self._close_message()
            name = piece.name or ""
            namespace, name = self._namespaced.get(name, (None, name))
            item = self._calls[piece.index] = CallItem(len(self._items), piece.id or "", name, namespace)
            self._items.append(item)
            yield from item.opening()
        if piece.arguments:
            yield from item.feed(piece.arguments)

    def _close_message(self) -> Iterator[Event]:
        """Text is over when something else begins; calls may be written side by side."""
        if self._items and isinstance(self._items[-1], MessageItem) and self._items[-1].open:
            yield from self._items[-1].closing("completed")

    def _numbered(self, events: Iterator[Event] | list[Event]) -> Iterator[Event]:
        for event in events:
            yield {**event, "sequence_number": self._count}
            self._count += 1


def _whole_tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the fields that a function has in any case, in a namespace too."""
    if tool.get("type") == "namespace":
        return {"description": "", **tool, "tools": [_whole_tool(one) for one in tool["tools"]]}
    return {"strict": None, "parameters": None, **tool}


def _item_event(what: str, index: int, item: Mapping[str, Any]) -> Event:
    return {"type": f"response.output_item.{what}", "output_index": index, "item": item}


def _usage(usage: Any) -> dict[str, Any] | None:
    """A chat's usage in the words of a response."""
    if not isinstance(usage, Mapping):
        return None
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + completion,
    }
