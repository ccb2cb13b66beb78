from typing import Any

import pytest

from apps.core.errors import AppError, InvalidType, InvalidValue, MissingRequiredField
from apps.core.messages import ChatRequest, Message, ToolCall
from apps.gateway.openai_api.chat_request import chat_request, choice_count, wants_usage

USER = [{"role": "user", "content": "hi"}]
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True}}


def read(**fields: Any) -> ChatRequest:
    return chat_request({"model": "local", "messages": USER, **fields})


def test_every_field_that_is_honoured_arrives() -> None:
    request = read(
        temperature=0.5, top_p=1, max_completion_tokens=7, max_tokens=9, stop=["a", "b"], seed=-3, tools=[ADD],
        tool_choice="required", parallel_tool_calls=False, response_format=SCHEMA, logprobs=True, top_logprobs=20,
    )  # fmt: skip
    assert request == ChatRequest(
        (Message("user", "hi"),), None, 0.5, 1, 7, ("a", "b"), -3, (ADD,), "required", False, SCHEMA, 20
    )


def test_what_says_nothing_special_changes_nothing() -> None:
    plain = read()
    assert plain == ChatRequest((Message("user", "hi"),))
    assert plain == read(
        n=1, logprobs=False, presence_penalty=0, frequency_penalty=0.0, logit_bias={}, tools=[], tool_choice="auto",
        response_format={"type": "text"}, modalities=["text"], user="me", metadata={}, stop=None, seed=None,
        min_p=0, repetition_penalty=1.0, min_tokens=0, ignore_eos=False, echo=False, best_of=1, functions=[],
        reasoning_effort="none", session_id="s", chat_id="c", client_metadata={"a": 1}, store=True, top_k=-1,
        top_p=None, max_tokens=-1, mirostat=0, mirostat_eta=0.1, num_ctx=4096, skip_special_tokens=True,
        add_generation_prompt=True, continue_final_message=False, chat_template_kwargs={}, structured_outputs={},
        verbosity="medium", stream_options=None, use_beam_search=False, length_penalty=1.0, stop_token_ids=[],
    )  # fmt: skip


def test_samplers_that_people_set_arrive() -> None:
    request = read(
        top_k=40, min_p=0.05, repetition_penalty=1.1, frequency_penalty=0.5, presence_penalty=-0.5,
        logit_bias={"7": -100, "9": 5.5}, min_tokens=3, ignore_eos=True,
    )  # fmt: skip
    assert (request.top_k, request.min_p, request.repetition_penalty) == (40, 0.05, 1.1)
    assert (request.frequency_penalty, request.presence_penalty) == (0.5, -0.5)
    assert (request.logit_bias, request.min_tokens, request.ignore_eos) == ({7: -100, 9: 5.5}, 3, True)
    assert read(repeat_penalty=1.2).repetition_penalty == 1.2
    assert read(n_predict=9).max_tokens == 9


def test_what_may_come_and_what_may_not_arrives() -> None:
    request = read(stop_token_ids=[7, 7, 2], allowed_token_ids=[3], bad_words=["no", "never ever"])
    assert (request.stop_tokens, request.allowed_tokens, request.bad_words) == ((7, 2), (3,), ("no", "never ever"))
    assert read(logprob_token_ids=[5, 6, 5], logprobs=True).scored_tokens == (5, 6)
    for logprobs in (None, False):
        with pytest.raises(InvalidValue, match="need logprobs"):
            read(logprob_token_ids=[5], logprobs=logprobs)
    for field, value, error in (
        ("stop_token_ids", "7", InvalidType), ("stop_token_ids", [True], InvalidType),
        ("stop_token_ids", [-1], InvalidValue), ("allowed_token_ids", [1.5], InvalidType),
        ("bad_words", "no", InvalidType), ("bad_words", [" "], InvalidValue), ("bad_words", ["x" * 201], InvalidValue),
    ):  # fmt: skip
        with pytest.raises(error) as refused:
            read(**{field: value})
        assert refused.value.field == field
    with pytest.raises(InvalidValue, match="must be between 0 and 2147483647"):
        read(allowed_token_ids=[3, -5])


def test_a_bias_that_is_none_is_named() -> None:
    with pytest.raises(InvalidValue, match="takes the numbers of tokens: bad1, -2 is none"):
        read(logit_bias={"bad1": 50.0, "7": 1, "-2": 20.0})
    with pytest.raises(InvalidValue, match="between -100 and 100, and that of 9 is not"):
        read(logit_bias={"7": 1, "9": "x"})
    with pytest.raises(InvalidValue) as refused:
        read(logit_bias={f"{n}x" * 100: 1 for n in range(1000)})
    assert len(refused.value.message) < 1_200


def test_what_is_told_of_tokens_arrives_where_they_are_known() -> None:
    fields: dict[str, Any] = {"return_token_ids": True, "prompt_logprobs": 2, "truncate_prompt_tokens": 9}
    fields["thinking_token_budget"] = 0
    request = read(**fields, truncation_side="right", add_generation_prompt=False)
    assert (request.token_ids, request.prompt_logprobs, request.generation_prompt) == (True, 2, False)
    assert (request.truncate_prompt, request.truncate_right) == (9, True)
    assert request.thinking_tokens == 0 and read(thinking_token_budget=-1).thinking_tokens is None
    assert read(truncate_prompt_tokens=-1).truncate_prompt == -1
    usage = {"include_usage": True, "continuous_usage_stats": True}
    assert read(stream=True, stream_options=usage).running_usage
    assert not read(stream=True, stream_options={**usage, "include_usage": False}).running_usage
    said = {"messages": [*USER, {"role": "assistant", "content": "a"}], "echo": True}
    assert chat_request(said).echo
    for name, value in {**fields, "echo": True}.items():
        # an agent, or documents: their tokens are others'
        with pytest.raises(InvalidValue) as refused:
            chat_request({"model": "agent/a", "messages": said["messages"], name: value}, of_tokens=False)
        assert refused.value.field == name


SCHEMA_ALONE = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"structured_outputs": {"regex": "a+"}}, ("answer_regex", "a+")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, ("answer_choices", ("a", "b"))),
        ({"structured_outputs": {"grammar": "start: /a/"}}, ("answer_grammar", "start: /a/")),
        ({"structured_outputs": {"json": {"type": "object"}}}, ("response_format", SCHEMA_ALONE)),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}},
            ("response_format", {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}),
        ),
        ({"structured_outputs": {"json": '{"type": "object"}'}}, ("response_format", SCHEMA_ALONE)),
        ({"structured_outputs": {"json_object": True}}, ("response_format", {"type": "json_object"})),
        ({"guided_regex": "a+"}, ("answer_regex", "a+")),
        ({"guided_choice": ["a"]}, ("answer_choices", ("a",))),
        ({"guided_json": {"type": "object"}}, ("response_format", SCHEMA_ALONE)),
        ({"guided_grammar": "start: /a/"}, ("answer_grammar", "start: /a/")),
        ({"json_schema": {"type": "object"}}, ("response_format", SCHEMA_ALONE)),
        ({"grammar": "start: /a/"}, ("answer_grammar", "start: /a/")),
        ({"response_format": {"type": "json_object", "schema": {"type": "object"}}}, ("response_format", SCHEMA_ALONE)),
    ],
)
def test_the_form_of_an_answer_is_read_in_every_dialect(fields: dict[str, Any], expected: tuple[str, Any]) -> None:
    name, value = expected
    assert getattr(read(**fields), name) == value


def test_a_form_may_be_said_in_the_older_words_and_in_the_newer_ones_at_once() -> None:
    both = {"guided_grammar": 'start: "x"', "structured_outputs": {"grammar": 'start: "x"'}}
    assert read(guided_decoding_backend="guidance", **both).answer_grammar == 'start: "x"'
    with pytest.raises(InvalidValue, match="excludes guided_grammar"):
        read(**{**both, "guided_grammar": 'start: "y"'})


def test_the_last_message_may_be_the_beginning_of_the_answer() -> None:
    begun = [*USER, {"role": "assistant", "content": "The"}]
    request = chat_request(
        {
            "messages": begun,
            "continue_final_message": True,
            "add_generation_prompt": False,
            "documents": [{"text": "x"}],
        }
    )
    assert request.continue_final_message
    with pytest.raises(InvalidValue, match="begins no new turn"):
        chat_request({"messages": begun, "continue_final_message": True, "add_generation_prompt": True})
    assert request.documents == ({"text": "x"},)


def test_participants_have_names_and_thoughts() -> None:
    messages = [
        {"role": "user", "content": "hi", "name": "Ann"},
        {"role": "assistant", "content": "ho", "reasoning_content": "She greets.", "name": "bot", "refusal": None},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "Never."}]},
    ]
    assert chat_request({"messages": messages}).messages == (
        Message("user", "hi", name="Ann"),
        Message("assistant", "ho", name="bot", reasoning="She greets."),
        Message("assistant", "No."),
        Message("assistant", [{"type": "text", "text": "Never."}]),
    )


def test_log_probabilities_are_none_zero_or_the_number_of_rivals() -> None:
    assert [read(logprobs=wanted).top_logprobs for wanted in (None, False, True)] == [None, None, 0]
    assert read(logprobs=True, top_logprobs=3).top_logprobs == 3


def test_choices_and_usage() -> None:
    assert [choice_count(body) for body in ({}, {"n": None}, {"n": 4})] == [1, 1, 4]
    assert wants_usage({"stream": True, "stream_options": {"include_usage": True}})
    assert not wants_usage({"stream": True, "stream_options": {}}) and not wants_usage({})
    assert not wants_usage({"stream_options": {"include_usage": False, "continuous_usage_stats": False}})


@pytest.mark.parametrize(
    ("fields", "field", "error"),
    [
        ({"presence_penalty": 3}, "presence_penalty", InvalidValue),
        ({"frequency_penalty": "a"}, "frequency_penalty", InvalidType),
        ({"logit_bias": {"a": 2}}, "logit_bias", InvalidValue),
        ({"logit_bias": {"1": 101}}, "logit_bias", InvalidValue),
        ({"logit_bias": {"1": True}}, "logit_bias", InvalidValue),
        ({"logit_bias": [1]}, "logit_bias", InvalidType),
        ({"top_k": 1.5}, "top_k", InvalidType),
        ({"min_p": 2}, "min_p", InvalidValue),
        ({"repetition_penalty": 0}, "repetition_penalty", InvalidValue),
        ({"ignore_eos": 1}, "ignore_eos", InvalidType),
        ({"best_of": 2}, "best_of", InvalidValue),
        ({"best_of": True}, "best_of", InvalidValue),
        ({"echo": True}, "echo", InvalidValue),
        ({"mirostat": 2}, "mirostat", InvalidValue),
        ({"cache_salt": "x"}, "cache_salt", InvalidValue),
        ({"thinking": {"type": "enabled"}}, "thinking", InvalidValue),
        ({"use_beam_search": True}, "use_beam_search", InvalidValue),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", InvalidValue),
        ({"truncate_prompt_tokens": 5, "truncation_side": "middle"}, "truncation_side", InvalidValue),
        ({"prompt_logprobs": -1}, "prompt_logprobs", InvalidValue),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", InvalidValue),
        ({"return_token_ids": 1}, "return_token_ids", InvalidType),
        ({"continue_final_message": True}, "continue_final_message", InvalidValue),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice", InvalidValue),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag", InvalidValue),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", InvalidValue),
        ({"structured_outputs": "x"}, "structured_outputs", InvalidType),
        ({"guided_choice": [1]}, "guided_choice", InvalidType),
        ({"guided_regex": "a", "response_format": SCHEMA}, "response_format", InvalidValue),
        ({"chat_template_kwargs": 1}, "chat_template_kwargs", InvalidType),
        ({"documents": ["x"]}, "documents", InvalidType),
        ({"functions": [{"name": "f"}]}, "functions", InvalidValue),
        ({"audio": {"voice": "x"}}, "audio", InvalidValue),
        ({"thinking_token_budget": -2}, "thinking_token_budget", InvalidValue),
        ({"thinking_token_budget": True}, "thinking_token_budget", InvalidType),
        ({"reasoning_effort": "low"}, "reasoning_effort", InvalidValue),
        ({"nobody_knows": 0}, "nobody_knows", InvalidValue),
        ({"logprobs": 1}, "logprobs", InvalidType),
        ({"top_logprobs": 2}, "top_logprobs", InvalidValue),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", InvalidValue),
        ({"max_tokens": 0}, "max_tokens", InvalidValue),
        ({"max_completion_tokens": 2**31}, "max_completion_tokens", InvalidValue),
        ({"stop": ["a"] * 65}, "stop", InvalidValue),
        ({"stop": 0}, "stop", InvalidType),
        ({"seed": 1.5}, "seed", InvalidType),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls", InvalidType),
        ({"tools": {}}, "tools", InvalidType),
        ({"tools": [ADD] * 129}, "tools", InvalidValue),
        ({"tools": [ADD, ADD]}, "tools.1.function.name", InvalidValue),
        ({"tools": ["add"]}, "tools.0", InvalidType),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0.type", InvalidValue),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name", InvalidValue),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
            "tools.0.function.parameters",
            InvalidType,
        ),
        ({"tool_choice": "required"}, "tool_choice", InvalidValue),
        ({"tools": [ADD], "tool_choice": "always"}, "tool_choice", InvalidValue),
        ({"tools": [ADD], "tool_choice": {"type": "allowed_tools"}}, "tool_choice", InvalidValue),
        (
            {"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "sub"}}},
            "tool_choice.function.name",
            InvalidValue,
        ),
        ({"response_format": "json"}, "response_format", InvalidType),
        ({"response_format": {"type": "yaml"}}, "response_format.type", InvalidValue),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", MissingRequiredField),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
            "response_format.json_schema.name",
            InvalidValue,
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": True}}},
            "response_format.json_schema.schema",
            InvalidType,
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(
    fields: dict[str, Any], field: str, error: type[AppError]
) -> None:
    with pytest.raises(error) as refused:
        read(**fields)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("n", "error"), [(0, InvalidValue), (5, InvalidValue), (True, InvalidType), ("2", InvalidType)]
)
def test_the_number_of_choices_is_bounded(n: object, error: type[AppError]) -> None:
    with pytest.raises(error) as refused:
        choice_count({"n": n})
    assert refused.value.field == "n"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"stream": True, "stream_options": "usage"}, InvalidType),
        ({"stream": True, "stream_options": {"include_usage": 1}}, InvalidType),
        ({"stream_options": {"include_usage": True}}, InvalidValue),
        ({"stream_options": {"include_usage": False, "continuous_usage_stats": True}}, InvalidValue),
        ({"stream": True, "stream_options": {"continuous_usage_stats": 1}}, InvalidType),
        ({"stream": True, "stream_options": {"nobody_knows": 1}}, InvalidValue),
    ],
)
def test_stream_options_are_checked(body: dict[str, Any], error: type[AppError]) -> None:
    with pytest.raises(error):
        wants_usage(body)


def test_a_conversation_with_calls_and_results_is_read() -> None:
    messages = [
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "audio": None},
        {"role": "tool", "tool_call_id": "1", "content": "42", "name": "add"},
    ]
    assert chat_request({"messages": messages}).messages[1:] == (
        Message("assistant", "", (ToolCall("1", "add", "{}"),)),
        Message("tool", "42", tool_call_id="1", name="add"),
    )


@pytest.mark.parametrize(
    ("message", "field", "error"),
    [
        ("hi", "messages.0", InvalidType),
        ({"role": "robot", "content": "x"}, "messages.0.role", InvalidValue),
        ({"role": "user", "content": None}, "messages.0.content", InvalidType),
        ({"role": "user", "content": ["x"]}, "messages.0.content", InvalidType),
        ({"role": "user", "content": "x", "name": 3}, "messages.0.name", InvalidType),
        ({"role": "assistant", "content": None}, "messages.0.content", InvalidType),
        (
            {"role": "assistant", "content": "", "function_call": {"name": "f"}},
            "messages.0.function_call",
            InvalidValue,
        ),
        ({"role": "user", "content": "", "tool_calls": [CALL]}, "messages.0.tool_calls", InvalidValue),
        ({"role": "assistant", "tool_calls": {}}, "messages.0.content", InvalidType),
        ({"role": "assistant", "tool_calls": "x"}, "messages.0.tool_calls", InvalidType),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "messages.0.tool_calls.0", InvalidValue),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": {}}}]},
            "messages.0.tool_calls.0",
            InvalidType,
        ),
        ({"role": "tool", "content": "42"}, "messages.0.tool_call_id", MissingRequiredField),
        ({"role": "tool", "content": "42", "tool_call_id": "9"}, "messages.0.tool_call_id", InvalidValue),
    ],
)
def test_a_message_that_is_wrong_is_named(message: object, field: str, error: type[AppError]) -> None:
    with pytest.raises(error) as refused:
        chat_request({"messages": [message]})
    assert refused.value.field == field
