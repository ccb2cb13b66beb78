"""Responses that are kept for a while: whose they are, how many, and for how long."""

from typing import Any

import pytest

from apps.core.errors import InvalidValue
from apps.gateway.openai_api.over_chat import StoredResponses


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def response(id: str, text: str = "b") -> dict[str, Any]:
    return {"id": id, "output": [{"type": "message", "role": "assistant", "content": text}]}


QUESTION = {"type": "message", "role": "user", "content": "a"}


def test_a_response_is_its_tenants_alone_and_has_its_whole_conversation() -> None:
    stored = StoredResponses(60)
    stored.keep("red", response("1"), [QUESTION], [])
    kept = stored.require("red", "1")
    assert kept.conversation == [QUESTION, *response("1")["output"]]
    stored.keep("red", response("2"), [QUESTION], kept.conversation)
    assert [item["content"] for item in stored.require("red", "2").conversation] == ["a", "b", "a", "b"]
    assert stored.find("blue", "1") is None
    stored.delete("red", "1")
    with pytest.raises(InvalidValue) as refused:
        stored.require("red", "1")
    assert refused.value.field == "previous_response_id" and len(stored) == 1


def test_what_is_old_is_forgotten() -> None:
    clock = Clock()
    stored = StoredResponses(60, clock=clock)
    stored.keep("red", response("1"), [], [])
    clock.now = 30
    stored.keep("blue", response("2"), [], [])
    clock.now = 60
    assert stored.find("red", "1") is None and stored.find("blue", "2") is not None
    clock.now = 90
    assert stored.find("blue", "2") is None and len(stored) == 0


def test_a_tenant_has_so_many_and_so_many_bytes_and_all_together_too() -> None:
    stored = StoredResponses(60, most=2, most_bytes=1_000, most_bytes_of_all=1_500)
    for number in range(4):
        stored.keep("red", response(str(number)), [], [])
    assert [number for number in range(4) if stored.find("red", str(number))] == [2, 3]
    stored.keep("red", response("large", "x" * 900), [], [])
    assert stored.find("red", "3") is None and stored.find("red", "large") is not None
    stored.keep("red", response("too large", "x" * 1_000), [], [])
    assert stored.find("red", "too large") is None
    # the tenant that has most gives way
    stored.keep("blue", response("1", "x" * 600), [], [])
    assert stored.find("red", "large") is None and stored.find("blue", "1") is not None
    assert not StoredResponses(0).on
