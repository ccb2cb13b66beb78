"""Responses that are made here, kept for a while in this process, so that a later call goes on from one by its id."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apps.core.errors import InvalidType, InvalidValue
from apps.gateway.protocol import BYTES_PER_TOKEN, Conversation, PromptSize, WireCall, prompt_size
from apps.models.event_stream import json_bytes

Item = Mapping[str, Any]
MOST = 1_000
MOST_BYTES_OF_ONE = 2 * 1024 * 1024
MOST_BYTES = 16 * 1024 * 1024
MOST_BYTES_OF_ALL = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """``response`` is its JSON, ``model`` the name that its caller asked for.

    ``conversation`` is all that was said, its answer last: that is ``answered`` items. ``item_ids`` are those that came
    with this response. ``kept_at`` is a time of the store's clock.
    """

    id: str
    model: str
    response: bytes
    conversation: Conversation
    answered: int
    item_ids: tuple[str, ...]
    kept_at: float

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.response) + len(self.conversation.items)

    def given(self) -> list[Item]:
        """The items of its input, those of the conversation that it went on from first."""
        items = self.conversation.parsed()
        return items[: len(items) - self.answered]


class StoredResponses:
    """Responses in this process, for ``ttl`` seconds; 0 keeps nothing.

    They belong to their tenant. Each is bounded in bytes with its whole conversation, and they are in number and bytes
    for each tenant and for all: the oldest of the tenant that has most goes first.
    """

    def __init__(
        self,
        ttl: float,
        most: int = MOST,
        most_bytes: int = MOST_BYTES,
        most_bytes_of_all: int = MOST_BYTES_OF_ALL,
        clock: Callable[[], float] = time.monotonic,
        most_bytes_of_one: int = MOST_BYTES_OF_ONE,
    ) -> None:
        self.ttl = ttl
        self._most = most
        self._most_bytes_of_one = min(most_bytes_of_one, most_bytes, most_bytes_of_all)
        self._most_bytes = most_bytes
        self._most_bytes_of_all = most_bytes_of_all
        self._clock = clock
        self._kept: dict[str, OrderedDict[str, StoredResponse]] = {}
        # the responses that each item came with, the newest last, by tenant and the item's id
        self._holders: dict[str, dict[str, list[str]]] = {}
        self._sizes: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    @property
    def on(self) -> bool:
        """Whether anything is kept at all."""
        return self.ttl > 0

    def keeps(self, call: WireCall) -> bool:
        """Whether the answer is kept, should it be made here."""
        return self.on and call.path == "/responses" and call.body.get("store") is not False

    def keep(
        self, tenant: str, model: str, response: Mapping[str, Any], given: list[Item], before: Conversation | None
    ) -> bool:
        """Keep a whole response that goes on from ``before`` with ``given``; whether there is room for it.

        Only what is new is made JSON of here: the conversation before may be long.
        """
        output = [_without_logprobs(item) for item in response["output"]]
        conversation = _longer(before, given, output)
        ids = tuple(dict.fromkeys(id for item in (*given, *output) if isinstance(id := item.get("id"), str)))
        name = str(response["id"])
        stored = StoredResponse(name, model, json_bytes(response), conversation, len(output), ids, self._clock())
        if stored.size > self._most_bytes_of_one:
            return False
        self._forget_old()
        kept = self._kept.setdefault(tenant, OrderedDict())
        kept[stored.id] = stored
        self._sizes[tenant] = self._sizes.get(tenant, 0) + stored.size
        holders = self._holders.setdefault(tenant, {})
        for item_id in ids:
            holders.setdefault(item_id, []).append(name)
        while len(kept) > self._most or self._sizes[tenant] > self._most_bytes:
            self._drop(tenant, next(iter(kept)))
        while sum(self._sizes.values()) > self._most_bytes_of_all:
            largest = max(self._sizes, key=lambda one: self._sizes[one])
            self._drop(largest, next(iter(self._kept[largest])))
        return stored.id in kept

    def find(self, tenant: str, id: str) -> StoredResponse | None:
        self._forget_old()
        kept = self._kept.get(tenant)
        return None if kept is None else kept.get(id)

    def resolved(self, tenant: str, given: list[Any]) -> tuple[list[Any], frozenset[str]]:
        """The items with those that are kept in the place of references to them, and the models that made those.

        A reference to an item that is not kept stays. Raises InvalidValue where they are too many bytes together.
        """
        self._forget_old()
        holders, parsed, models, size = self._holders.get(tenant, {}), dict[str, Item](), set[str](), 0
        items = []
        for item in given:
            id = referenced_id(item)
            if id is None or id not in holders:
                items.append(item)
                continue
            holder = self._kept[tenant][holders[id][-1]]
            if id not in parsed:
                parsed |= {str(one.get("id")): one for one in holder.conversation.parsed()}
            models.add(holder.model)
            items.append(parsed[id])
            size += len(json_bytes(parsed[id]))
            if size > self._most_bytes_of_one:
                raise InvalidValue(
                    "The items that input refers to are too large together",
                    field="input",
                    details={"max_bytes": self._most_bytes_of_one},
                )
        return items, frozenset(models)

    def delete(self, tenant: str, id: str) -> None:
        """Forget one that is there."""
        self._drop(tenant, id)

    def _forget_old(self) -> None:
        oldest = self._clock() - self.ttl
        for tenant in list(self._kept):
            kept = self._kept[tenant]
            while kept and (first := next(iter(kept.values()))).kept_at <= oldest:
                self._drop(tenant, first.id)

    def _drop(self, tenant: str, id: str) -> None:
        kept, holders = self._kept[tenant], self._holders[tenant]
        dropped = kept.pop(id)
        self._sizes[tenant] -= dropped.size
        for item in dropped.item_ids:
            # other responses may have it too
            holders[item].remove(id)
            if not holders[item]:
                del holders[item]
        if not kept:
            del self._kept[tenant], self._sizes[tenant], self._holders[tenant]


def referenced_id(item: Any) -> str | None:
    """The id in an item that is nothing but a reference to another one; None for any other item."""
    if not isinstance(item, Mapping) or item.keys() - {"id", "type"}:
        return None
    id = item.get("id") if item.get("type") in (None, "item_reference") else None
    return id if isinstance(id, str) else None


def _longer(before: Conversation | None, question: list[Item], answer: list[Item]) -> Conversation:
    """A conversation that has gone on with a question and its answer."""
    question_json, answer_json = json_bytes(question), json_bytes(answer)
    size = prompt_size(question_json, question)
    tokens, images = size.tokens + len(answer_json) // BYTES_PER_TOKEN, size.images
    lists = [question_json, answer_json]
    if before is not None:
        tokens, images = before.size.tokens + tokens, before.size.images + images
        lists.insert(0, before.items)
    joined = b", ".join(items for one in lists if (items := one[1:-1]))
    return Conversation(b"[%s]" % joined, PromptSize(tokens, images))


def _without_logprobs(item: Item) -> Item:
    """An item of an answer as the next call's prompt has it."""
    content = item.get("content")
    if not isinstance(content, list):
        return item
    return {**item, "content": [{**part, "logprobs": []} if part.get("logprobs") else part for part in content]}


def conversation_before(stored: StoredResponses, call: WireCall) -> tuple[Mapping[str, Any], Sequence[Item]]:
    """The body without the response that it goes on from, and the items of that conversation, which the call has.

    Raises InvalidType, and InvalidValue where the call has none, as none is kept; where nothing is, the body stays as
    it is.
    """
    previous = call.body.get("previous_response_id")
    if not stored.on or previous is None:
        return call.body, []
    if not isinstance(previous, str):
        raise InvalidType("Previous response id must be a string", field="previous_response_id")
    if call.earlier is None:
        raise InvalidValue(
            f"No response {previous[:100]} is kept here (any more): send the conversation in input",
            field="previous_response_id",
        )
    body = {name: value for name, value in call.body.items() if name != "previous_response_id"}
    return body, call.earlier.parsed()


def items_of(given: Any) -> list[Item]:
    """An input that has been read, as items with ids of their own."""
    items = [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given
    return [_with_id(item) for item in items]


def _with_id(item: Item) -> Item:
    content = item.get("content")
    if isinstance(content, str):
        answered = item.get("role") == "assistant"
        part: dict[str, Any] = {"type": "output_text" if answered else "input_text", "text": content}
        content = [part | ({"annotations": []} if answered else {})]
    texts = {} if content is None else {"content": content}
    return {"id": f"msg_{secrets.token_hex(16)}", "type": "message", **item, **texts}
