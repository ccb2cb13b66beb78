"""A Messages body as a chat: what becomes of each kind of block, and what is refused by its field."""

from typing import Any

import httpx2
import pytest

from apps.api.src.anthropic.request import chat_body, thinking_budget
from apps.core.errors import AppError
from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.serving import serving_models

USER: Any = [{"role": "user", "content": "hi"}]
TOOL: Any = {"name": "look", "description": "Looks", "input_schema": {"type": "object"}, "strict": True}
SCHEMA: Any = {"type": "json_schema", "schema": {"type": "object"}}


def chat(**fields: Any) -> dict[str, Any]:
    return chat_body({"model": "tiny", "max_tokens": 9, "messages": USER, **fields})


def turns(*messages: Any) -> Any:
    return chat(messages=list(messages))["messages"]


def test_a_conversation_with_tools_becomes_turns_of_a_chat() -> None:
    assert turns(
        {"role": "user", "content": [{"type": "text", "text": "Look"}, {"type": "text", "text": "there"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Shall I?", "signature": "s"},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "Ü"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "an owl"}]},
                {"type": "text", "text": "And?"},
            ],
        },
        {"role": "assistant", "content": ""},
    ) == [
        {"role": "user", "content": "Look\nthere"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at": "Ü"}'}}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "an owl"},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": ""},
    ]


def test_pictures_and_documents_stand_in_the_users_message_those_of_results_too() -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    shown = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    far = {"type": "image", "source": {"type": "url", "url": "http://example.com/a.png"}}
    paper = {"type": "document", "title": "Rules", "source": {"type": "text", "data": "No."}}
    scan = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JQ=="}}
    found = {"type": "search_result", "title": "T", "source": "s", "content": [{"type": "text", "text": "owl"}]}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "see"}, picture]}
    assert turns({"role": "user", "content": [result, far, paper, scan, found]}) == [
        {"role": "tool", "tool_call_id": "t", "content": "see"},
        {
            "role": "user",
            "content": [
                shown,
                {"type": "image_url", "image_url": {"url": "http://example.com/a.png"}},
                {"type": "text", "text": "Rules\nNo."},
                {"type": "file", "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,JQ=="}},
                {"type": "text", "text": "T (s)\nowl"},
            ],
        },
    ]
    assert turns({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "one"}]}) == [
        {"role": "tool", "tool_call_id": "t", "content": "one"}
    ]


def test_a_system_prompt_is_one_text_without_what_is_billed_by() -> None:
    bill = {"type": "text", "text": "x-anthropic-billing-header: a=1;"}
    made = chat(system=[bill, {"type": "text", "text": "Be terse."}, {"type": "text", "text": "Be kind."}])
    assert made["messages"][0] == {"role": "system", "content": "Be terse.\nBe kind."}
    assert chat(system="Be terse.")["messages"][0] == {"role": "system", "content": "Be terse."}
    assert chat(system=[bill])["messages"] == USER


@pytest.mark.parametrize(
    ("choice", "made"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none", "disable_parallel_tool_use": True}, {"tool_choice": "none", "parallel_tool_calls": False}),
        ({"type": "tool", "name": "look"}, {"tool_choice": {"type": "function", "function": {"name": "look"}}}),
    ],
)
def test_the_choice_of_a_tool_is_that_of_a_chat(choice: Any, made: dict[str, Any]) -> None:
    with_tool = chat(tools=[TOOL], tool_choice=choice)
    assert made.items() <= with_tool.items()
    function = {"name": "look", "description": "Looks", "parameters": {"type": "object"}, "strict": True}
    assert with_tool["tools"] == [{"type": "function", "function": function}]


def test_settings_of_the_answer_are_those_of_a_chat() -> None:
    made = chat(temperature=0.5, top_k=3, stop_sequences=["x"], stream=True, metadata={"user_id": "a"}, container=None)
    assert (made["temperature"], made["top_k"], made["stop"]) == (0.5, 3, ["x"])
    assert made["stream_options"] == {"include_usage": True}
    assert "metadata" not in made
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
    assert chat(output_format=SCHEMA)["response_format"] == form
    assert chat(output_config={"format": SCHEMA, "effort": "low"})["response_format"] == form
    assert "response_format" not in chat(context_management={"edits": [{"type": "clear_thinking_20251015"}]})
    assert "tool_choice" not in chat(tool_choice={"type": "auto"})


def test_a_budget_of_thoughts_is_a_whole_number_that_is_set() -> None:
    assert thinking_budget({"thinking": {"type": "enabled", "budget_tokens": 7}}) == 7
    given: list[Any] = [None, {}, {"budget_tokens": True}, {"budget_tokens": -1}, {"budget_tokens": "7"}]
    assert [thinking_budget({"thinking": one}) for one in given] == [None] * 5


def of_user(*blocks: Any) -> Any:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"container": "c1"}, "container", "INVALID_VALUE"),
    ({"max_tokens": None}, "max_tokens", "MISSING_REQUIRED_FIELD"),
    ({"max_tokens": True}, "max_tokens", "INVALID_TYPE"),
    ({"max_tokens": 0}, "max_tokens", "INVALID_VALUE"),
    ({"messages": None}, "messages", "MISSING_REQUIRED_FIELD"),
    ({"messages": "hi"}, "messages", "INVALID_TYPE"),
    ({"messages": []}, "messages", "INVALID_VALUE"),
    ({"messages": ["hi"]}, "messages.0", "INVALID_TYPE"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "INVALID_VALUE"),
    ({"messages": [{"role": "user", "content": 1}]}, "messages.0.content", "INVALID_TYPE"),
    (of_user("hi"), "messages.0.content.0", "INVALID_TYPE"),
    (of_user({"type": "audio"}), "messages.0.content.0.type", "INVALID_VALUE"),
    (of_user({"type": "text"}), "messages.0.content.0.text", "MISSING_REQUIRED_FIELD"),
    (of_user({"type": "text", "text": 1}), "messages.0.content.0.text", "INVALID_TYPE"),
    (of_user({"type": "image"}), "messages.0.content.0.source", "MISSING_REQUIRED_FIELD"),
    (of_user({"type": "image", "source": 1}), "messages.0.content.0.source", "INVALID_TYPE"),
    (of_user({"type": "image", "source": {"type": "file"}}), "messages.0.content.0.source.type", "INVALID_VALUE"),
    (of_user({"type": "tool_result", "content": 1}), "messages.0.content.0.content", "INVALID_TYPE"),
    (of_user({"type": "search_result", "content": 1}), "messages.0.content.0.content", "INVALID_TYPE"),
    (
        {"messages": [{"role": "assistant", "content": [{"type": "image"}]}]},
        "messages.0.content.0.type",
        "INVALID_VALUE",
    ),
    ({"system": 1}, "system", "INVALID_TYPE"),
    ({"system": [{"type": "image"}]}, "system.0.type", "INVALID_VALUE"),
    ({"tools": {}}, "tools", "INVALID_TYPE"),
    ({"tools": ["look"]}, "tools.0", "INVALID_TYPE"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0.type", "INVALID_VALUE"),
    ({"tools": [{"name": "look"}]}, "tools.0.input_schema", "MISSING_REQUIRED_FIELD"),
    ({"tool_choice": "any"}, "tool_choice", "INVALID_TYPE"),
    ({"tool_choice": {"type": "every"}}, "tool_choice.type", "INVALID_VALUE"),
    ({"output_config": 1}, "output_config", "INVALID_TYPE"),
    ({"output_config": {"voice": "low"}}, "output_config.voice", "INVALID_VALUE"),
    ({"output_format": {"type": "json"}}, "output_format", "INVALID_VALUE"),
    ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management", "INVALID_VALUE"),
    ({"context_management": {"edits": 1}}, "context_management", "INVALID_TYPE"),
]


@pytest.mark.parametrize(("fields", "field", "code"), WRONG)
def test_what_a_chat_cannot_say_is_refused_by_its_field(fields: dict[str, Any], field: str, code: str) -> None:
    with pytest.raises(AppError) as refused:
        chat(**fields)
    assert (refused.value.field, refused.value.code) == (field, code)


def test_every_refusal_is_the_callers_fault_over_http(http: httpx2.Client) -> None:
    body = {"model": "tiny", "max_tokens": 9, "messages": USER}
    with serving_models(local=ScriptedModel(saying("hi"), name="tiny"), auth="off") as url:
        statuses = {http.post(f"{url}/v1/messages", json={**body, **fields}).status_code for fields, *_ in WRONG}
    assert statuses == {400}
