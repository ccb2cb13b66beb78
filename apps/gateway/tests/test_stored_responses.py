"""Responses that are kept for a while: whose they are, how many, how large, and for how long."""

import json
from typing import Any

import pytest

from apps.core.errors import InvalidValue
from apps.gateway.gateway import needs_of
from apps.gateway.openai_api.stored_responses import StoredResponse, StoredResponses
from apps.gateway.protocol import IMAGE_TOKENS, Conversation, WireCall, expected_use
from apps.tests.support.clock import Clock


def response(id: str, text: str = "b", **more: Any) -> dict[str, Any]:
    return {"id": id, "output": [{"type": "message", "role": "assistant", "content": text}], **more}


QUESTION = {"type": "message", "role": "user", "content": "a"}


def keep(
    stored: StoredResponses,
    tenant: str,
    made: dict[str, Any],
    given: list[Any] | None = None,
    before: Conversation | None = None,
) -> bool:
    return stored.keep(tenant, "m", made, [] if given is None else given, before)


def found(stored: StoredResponses, tenant: str, id: str) -> StoredResponse:
    kept = stored.find(tenant, id)
    assert kept is not None
    return kept


def test_a_response_is_its_tenants_alone_and_has_its_whole_conversation() -> None:
    stored = StoredResponses(60)
    assert keep(stored, "red", response("1"), [QUESTION])
    kept = found(stored, "red", "1")
    assert kept.conversation.parsed() == [QUESTION, *response("1")["output"]]
    assert kept.given() == [QUESTION] and kept.model == "m"
    assert json.loads(kept.response) == response("1")
    keep(stored, "red", response("2"), [QUESTION], kept.conversation)
    second = found(stored, "red", "2")
    assert [item["content"] for item in second.conversation.parsed()] == ["a", "b", "a", "b"]
    assert [item["content"] for item in second.given()] == ["a", "b", "a"]
    assert stored.find("blue", "1") is None
    stored.delete("red", "1")
    assert stored.find("red", "1") is None and len(stored) == 1


def reference(id: str) -> dict[str, Any]:
    return {"type": "item_reference", "id": id}


def test_items_are_found_by_their_ids_as_long_as_a_response_has_them() -> None:
    clock = Clock()
    stored = StoredResponses(60, clock=clock, most_bytes_of_one=1_000)
    asked, answered = {**QUESTION, "id": "q"}, {"id": "a", "type": "message", "role": "assistant", "content": "b"}
    keep(stored, "red", {"id": "1", "output": [answered]}, [asked])
    others: list[Any] = [QUESTION, reference("x"), {"type": "message", "id": "q", "content": "no reference"}, "x"]
    references = [reference("q"), {"id": "a"}]
    assert stored.resolved("red", [*references, *others]) == ([asked, answered, *others], frozenset({"m"}))
    assert stored.resolved("blue", references) == (references, frozenset())
    # a small body must not become a large one
    with pytest.raises(InvalidValue):
        stored.resolved("red", references * 20)
    clock.now = 30
    keep(stored, "red", response("2"), [asked])
    stored.delete("red", "1")
    assert stored.resolved("red", references) == ([asked, references[1]], frozenset({"m"}))
    clock.now = 90
    assert stored.resolved("red", references) == (references, frozenset())


@pytest.mark.parametrize("gone", ["1", "2"])
def test_an_item_of_two_responses_is_found_while_either_is_kept(gone: str) -> None:
    stored, asked = StoredResponses(60), {**QUESTION, "id": "q"}
    for id in ("1", "2"):
        # the same item may come twice in one
        keep(stored, "red", response(id), [asked, asked])
    stored.delete("red", gone)
    assert stored.resolved("red", [reference("q")]) == ([asked], frozenset({"m"}))
    keep(stored, "red", response("3"))
    stored.delete("red", {"1": "2", "2": "1"}[gone])
    assert stored.resolved("red", [reference("q")]) == ([reference("q")], frozenset())


def test_what_is_old_is_forgotten() -> None:
    clock = Clock()
    stored = StoredResponses(60, clock=clock)
    keep(stored, "red", response("1"))
    clock.now = 30
    keep(stored, "blue", response("2"))
    clock.now = 60
    assert stored.find("red", "1") is None and stored.find("blue", "2") is not None
    clock.now = 90
    assert stored.find("blue", "2") is None and len(stored) == 0


def test_a_tenant_has_so_many_and_so_many_bytes_and_all_together_too() -> None:
    stored = StoredResponses(60, most=2, most_bytes=2_000, most_bytes_of_all=3_000)
    for number in range(4):
        keep(stored, "red", response(str(number)))
    assert [number for number in range(4) if stored.find("red", str(number))] == [2, 3]
    assert keep(stored, "red", response("large", "x" * 900))
    assert stored.find("red", "3") is None and stored.find("red", "large") is not None
    assert not keep(stored, "red", response("too large", "x" * 1_000))
    assert stored.find("red", "too large") is None
    # the tenant that has most gives way
    assert keep(stored, "blue", response("1", "x" * 600))
    assert stored.find("red", "large") is None and stored.find("blue", "1") is not None
    assert not StoredResponses(0).on


def test_a_conversation_grows_to_its_bound_with_all_that_its_response_repeats() -> None:
    stored = StoredResponses(60, most_bytes_of_one=1_000)
    before: Conversation | None = None
    turns = 0
    while keep(stored, "red", response(str(turns)), [QUESTION], before):
        before = found(stored, "red", str(turns)).conversation
        turns += 1
    assert before is not None and 800 < len(before.items) < 1_000
    assert not keep(stored, "red", response("noted", metadata={"note": "x" * 1_000}))
    # a new one has room
    assert keep(stored, "red", response("new"), [QUESTION])


def test_how_long_an_answer_was_scored_is_no_part_of_the_next_prompt() -> None:
    stored, scored = StoredResponses(60), [{"token": "b", "logprob": -0.5}] * 100
    part = {"type": "output_text", "text": "b", "logprobs": scored}
    keep(stored, "red", {"id": "1", "output": [{"type": "message", "role": "assistant", "content": [part]}]})
    kept = found(stored, "red", "1")
    assert kept.conversation.parsed()[0]["content"] == [{**part, "logprobs": []}]
    assert json.loads(kept.response)["output"][0]["content"] == [part]
    assert kept.conversation.size.tokens < 50


def goes_on(earlier: Conversation | None) -> WireCall:
    body = {"model": "m", "input": "go on", "previous_response_id": "1"}
    return WireCall("/responses", json.dumps(body).encode(), body, True, earlier=earlier)


def test_what_a_call_goes_on_from_counts_for_its_prompt() -> None:
    stored = StoredResponses(60)
    long = {"type": "message", "role": "user", "content": "x" * 40_000}
    picture = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 100_000}
    keep(stored, "red", response("1", "y" * 4_000), [long])
    first = found(stored, "red", "1").conversation
    keep(stored, "red", response("2"), [{"role": "user", "content": [picture]}], first)
    seen = found(stored, "red", "2").conversation
    short = goes_on(None)
    assert expected_use(short).prompt < 100
    assert expected_use(goes_on(first)).prompt == pytest.approx(11_000, abs=200)
    assert expected_use(goes_on(seen)).prompt == pytest.approx(11_000 + IMAGE_TOKENS, abs=200)
    assert (needs_of(short).images, needs_of(goes_on(first)).images, needs_of(goes_on(seen)).images) == (
        False,
        False,
        True,
    )
    assert needs_of(goes_on(seen)).tokens == pytest.approx(11_000, abs=200)


def test_an_image_that_a_function_put_out_is_one_too() -> None:
    picture = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 100_000}
    body = {"model": "m", "input": [{"type": "function_call_output", "call_id": "c", "output": [picture]}]}
    call = WireCall("/responses", json.dumps(body).encode(), body, False)
    assert needs_of(call).images and expected_use(call).prompt == IMAGE_TOKENS
