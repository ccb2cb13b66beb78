import pytest

from apps.core.errors import InvalidValue
from apps.core.messages import ChatRequest, JsonObject, user_message
from apps.local.answer_grammar import answer_grammar, offered_tools


def tool(name: str) -> JsonObject:
    return {"type": "function", "function": {"name": name}}


def asked(**fields: object) -> ChatRequest:
    return ChatRequest(user_message("x"), **fields)  # type: ignore[arg-type]


def test_plain_text_needs_no_grammar() -> None:
    assert answer_grammar(asked()) is None
    assert answer_grammar(asked(tools=(tool("f"),), tool_choice="none")) is None


def test_the_choice_says_which_tools_are_offered() -> None:
    both = (tool("f"), tool("g"))
    assert offered_tools(asked(tools=both)) == both
    assert offered_tools(asked(tools=both, tool_choice="none")) == ()
    assert offered_tools(asked(tools=both, tool_choice=tool("g"))) == (tool("g"),)
    with pytest.raises(InvalidValue) as refused:
        offered_tools(asked(tools=both, tool_choice=tool("h")))
    assert refused.value.field == "tool_choice"


def test_a_call_cannot_be_required_of_no_tools() -> None:
    with pytest.raises(InvalidValue) as refused:
        answer_grammar(asked(tool_choice="required"))
    assert refused.value.field == "tool_choice"


def test_the_field_at_fault_is_the_one_that_the_grammar_is_made_of() -> None:
    form = {"type": "json_object"}
    schema, tools = answer_grammar(asked(response_format=form)), answer_grammar(asked(tools=(tool("f"),)))
    assert schema is not None and schema.field == "response_format"
    assert tools is not None and tools.field == "tools"
