import json

import pytest

from apps.core.errors import InvalidValue
from apps.core.messages import Message, ToolCall, user_message
from apps.local.prompt import turns

ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALLED = Message("assistant", "", tool_calls=(ToolCall("1", "add", '{"a": "ü"}'), ToolCall("2", "add", "[]")))
RESULTS = (Message("tool", "42", tool_call_id="1"), Message("tool", "43", tool_call_id="2"))


def test_without_tools_the_turns_are_the_messages() -> None:
    messages = (Message("developer", "Be brief."), Message("user", [{"type": "text", "text": "hi"}]))
    assert turns(messages, (), own=False) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ]


def test_tools_are_described_in_the_system_turn_whether_the_caller_has_one_or_not() -> None:
    mine, user = turns((Message("system", "Be brief."), Message("user", "hi")), [ADD], own=False)
    assert mine["role"] == "system" and mine["content"].startswith("Be brief.\n\n")
    assert json.dumps(ADD) in mine["content"] and "<tool_call>" in mine["content"]
    assert user == {"role": "user", "content": "hi"}
    added, user = turns(user_message("hi"), [ADD], own=False)
    assert added["role"] == "system" and json.dumps(ADD) in added["content"]


def test_calls_and_results_become_text_where_the_template_has_no_place_for_them() -> None:
    _, call, results, thanks = turns((*user_message("hi"), CALLED, *RESULTS, Message("user", "thanks")), (), own=False)
    assert call["content"] == (
        '<tool_call>\n{"name": "add", "arguments": {"a": "ü"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "add", "arguments": "[]"}\n</tool_call>'
    )
    # one turn, or a template that wants turns to alternate would refuse
    assert results["role"] == "user"
    assert results["content"] == ("<tool_response>\n42\n</tool_response>\n<tool_response>\n43\n</tool_response>")
    assert thanks["content"] == "thanks"


def test_a_template_that_speaks_tools_gets_them_as_they_are() -> None:
    user, call, first, _ = turns((*user_message("hi"), CALLED, *RESULTS), [ADD], own=True)
    assert user == {"role": "user", "content": "hi"}
    assert call["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": "ü"}}
    assert first == {"role": "tool", "content": "42", "tool_call_id": "1"}
    assert turns([Message("assistant", "", (ToolCall("1", "now", ""),))], (), own=True)[0]["tool_calls"] == [
        {"id": "1", "type": "function", "function": {"name": "now", "arguments": {}}}
    ]


def test_a_result_that_is_not_text_is_refused() -> None:
    with pytest.raises(InvalidValue):
        turns((Message("tool", [{"type": "image_url"}], tool_call_id="1"),), (), own=False)
