from collections.abc import Sequence

import pytest

from apps.core.errors import InvalidValue
from apps.core.messages import Message, user_message

pytest.importorskip("jinja2", reason="jinja2 comes with requirements-local.txt")

from apps.core.messages import ToolCall
from apps.local.prompt import ChatTemplate, PromptOptions, text_of

SPECIAL = {"eos_token": "</s>", "bos_token": "<s>"}


def render(messages: Sequence[Message], source: str | None = None) -> str:
    return ChatTemplate(source, SPECIAL).render(messages)


def test_without_a_template_of_its_own_a_tokenizer_gets_the_zephyr_format() -> None:
    assert render(user_message("Your question here")) == (
        "<|system|>\nYou are a helpful assistant.</s>\n<|user|>\nYour question here</s>\n<|assistant|>\n"
    )


def test_a_system_message_takes_the_place_of_the_zephyr_formats_own() -> None:
    messages = [Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Yo"), Message("user", "?")]
    assert render(messages) == (
        "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nYo</s>\n<|user|>\n?</s>\n<|assistant|>\n"
    )


def test_a_developer_message_is_a_system_message_to_the_template() -> None:
    assert render([Message("developer", "Be brief."), Message("user", "Hi")]).startswith("<|system|>\nBe brief.</s>")


@pytest.mark.parametrize("text", ["{{ 7 * 7 }}", "{% raise %}", "<b>&amp;</b>", "a\nb\r\n  c", "🎉"])
def test_a_prompt_goes_into_the_template_as_it_is(text: str) -> None:
    assert f"<|user|>\n{text}</s>" in render(user_message(text))


def test_text_parts_are_joined() -> None:
    assert text_of(Message("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])) == "ab"


@pytest.mark.parametrize(
    "part",
    [{"type": "image_url", "image_url": {"url": "data:"}}, {"type": "text"}, {"type": "text", "text": 3}, {}],
)
def test_any_other_part_is_refused(part: dict[str, object]) -> None:
    with pytest.raises(InvalidValue) as refused:
        text_of(Message("user", [part]))
    assert refused.value.field == "messages"


def test_what_the_template_refuses_is_the_callers_error() -> None:
    source = "{{ raise_exception('Conversation roles must alternate') }}"
    with pytest.raises(InvalidValue, match="Conversation roles must alternate") as refused:
        render(user_message("x"), source)
    assert refused.value.field == "messages"


@pytest.mark.parametrize(
    "source",
    ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}", "{{ lipsum.__globals__['os'] }}"],
)
def test_a_strangers_template_stays_in_the_sandbox(source: str) -> None:
    with pytest.raises(InvalidValue):
        render(user_message("x"), source)


def test_the_tags_around_training_turns_say_nothing() -> None:
    source = "{% for m in messages %}{%- generation -%} {{ m.content }} {%- endgeneration %}|{% endfor %}"
    assert render(user_message("x"), source) == "x|"


def test_templates_have_the_functions_that_transformers_gives_them() -> None:
    source = (
        "{{ strftime_now('%Y') | length }}{{ {'a': '<ü>'} | tojson }}{% for m in messages %}{% break %}{% endfor %}"
    )
    assert render(user_message("x"), source) == '4{"a": "<ü>"}'


TOOLS = ({"type": "function", "function": {"name": "f", "description": "<ü>", "parameters": {"type": "object"}}},)
CALL = Message("assistant", "", (ToolCall("c1", "f", '{"city": "Paris", "days": 2}'),))
# describes tools and writes calls in the form of Hermes
WRITES_CALLS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>\n"
    "{{ c.function | tojson }}\n</tool_call>{% endfor %}{% endfor %}"
)
# what current models' templates do: GLM-4.5, MiniMax, Qwen3, Granite
TEMPLATES = [
    "{{ tools | tojson(ensure_ascii=False) }}" + WRITES_CALLS,
    "{{ tools | tojson(ensure_ascii=True, indent=2, sort_keys=True) }}" + WRITES_CALLS,
    "{{ tools | tojson(separators=(',', ':')) }}" + WRITES_CALLS,
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{% for c in m.tool_calls or [] %}"
    "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v | tojson }};{% endfor %}{% endfor %}{% endfor %}"
    + WRITES_CALLS,
    "{% set ns = namespace(last=0) %}{% for m in messages %}{%- generation %}{% set ns.last = loop.index %}"
    "{{ m.content }}{% endgeneration -%}  {% endfor %}{{ ns.last }}",
    "{% set a = 1 %}{% generation %}{% set a = 2 %}{% endgeneration %}{{ a }}",
    "{% for d in documents or [] %}{{ d.title }}: {{ d.text }}\n{% endfor %}{{ messages[0].content }}",
    "{% for m in messages %}{% if m.reasoning_content is defined %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.name | default('') }}{% endfor %}",
    "{{ enable_thinking }}{{ messages[0].content }}{{ bos_token }}",
    "{% for m in messages %}\n    {%- if m.role == 'user' %}\n    U {{ m.content.strip() }}\n    {%- endif %}\n"
    "{% endfor %}",
]


@pytest.mark.local
@pytest.mark.parametrize("source", TEMPLATES)
def test_a_template_renders_as_transformers_renders_it(source: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    thought = Message("assistant", "yes", reasoning="hm")
    messages: tuple[Message, ...] = (
        Message("user", " hi ", name="ann"),
        CALL,
        Message("tool", "42", tool_call_id="c1"),
        thought,
    )
    documents = ({"title": "T", "text": "D"},)
    options = PromptOptions(documents, {"enable_thinking": False})
    turns = [
        {"role": "user", "content": " hi ", "name": "ann"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"city": "Paris", "days": 2}}}
            ],
        },
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        {"role": "assistant", "content": "yes", "reasoning_content": "hm"},
    ]
    own = "<tool_call>" in source
    if not own:
        del turns[1:3]
        messages = (messages[0], thought)
    expected, _ = render_jinja_template(
        [turns],
        tools=list(TOOLS) if own else None,
        documents=list(documents),
        chat_template=source,
        add_generation_prompt=True,
        enable_thinking=False,
        **SPECIAL,
    )
    assert ChatTemplate(source, SPECIAL).render(messages, TOOLS if own else (), options) == expected[0]


XML_CALLS = (
    "{% if tools %}{{ tools | tojson }}\n<tool_call>name\n<arg_key>..</arg_key></tool_call>{% endif %}"
    "{% for m in messages %}"
    "<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }}\n"
    "{% for k, v in c.function.arguments.items() %}<arg_key>{{ k }}</arg_key>{% endfor %}</tool_call>"
    "{% endfor %}{% endfor %}"
)


def test_calls_are_the_templates_where_it_writes_them_as_they_are_read() -> None:
    messages = (*user_message("hi"), CALL)
    hermes = ChatTemplate("{% if tools %}{{ tools | tojson }}{% endif %}" + WRITES_CALLS, SPECIAL)
    assert hermes.render(messages, TOOLS).startswith('[{"type": "function"')
    # GLM's and Qwen3-Coder's own form is none that answers are held to: they get the one that is
    described, *_ = ChatTemplate(XML_CALLS, SPECIAL).render(messages, TOOLS).split("<user>")
    assert described.startswith("<system>You are a helpful assistant.") and "<arg_key>" not in described
    assert '{"name": "<name>", "arguments": {<arguments>}}' in described


NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}"
)


@pytest.mark.parametrize(
    "source", [NO_SYSTEM, NO_SYSTEM.replace("{{ raise_exception('System role not supported') }}", "{% continue %}")]
)
def test_what_a_system_turn_says_is_kept_where_the_template_has_no_place_for_one(source: str) -> None:
    first, second = Message("system", "Be brief."), Message("developer", "Be kind.")
    template = ChatTemplate(source, SPECIAL)
    assert template.render((first, second, Message("user", "Hi"))) == "<user>Be brief.\n\nBe kind.\n\nHi"
    assert (
        template.render((Message("user", "Hi"), Message("assistant", "Yo"), first))
        == "<user>Hi<assistant>Yo<user>Be brief."
    )
    assert "<tool_call>" in template.render(user_message("Hi"), TOOLS)


def test_a_template_for_tools_serves_where_there_are_some() -> None:
    template = ChatTemplate("plain", SPECIAL, "{% for tool in tools %}{{ tool.function.name }}{% endfor %}<tool_call>")
    assert template.render(user_message("x")) == "plain"
    assert (
        ChatTemplate("plain", SPECIAL, "{{ tools | tojson }}" + WRITES_CALLS).render(user_message("x"), TOOLS)[0] == "["
    )
    assert template.sources == "plain" + "{% for tool in tools %}{{ tool.function.name }}{% endfor %}<tool_call>"


def test_a_template_that_crashes_is_the_callers_error() -> None:
    with pytest.raises(InvalidValue) as refused:
        render(user_message("x"), "{{ messages[0].content | tojson(nonsense=1) }}")
    assert refused.value.field == "messages"


def test_a_final_message_is_continued_with_its_last_blank() -> None:
    source = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<a>{% endif %}"
    )
    messages = (Message("user", "Write"), Message("assistant", "The sky is "))
    template = ChatTemplate(source, SPECIAL)
    assert template.render(messages, options=PromptOptions(continue_final=True)) == (
        "<user>Write</s><assistant>The sky is "
    )
    with pytest.raises(InvalidValue) as refused:
        template.render((*user_message("x"), CALL), options=PromptOptions(continue_final=True))
    assert refused.value.field == "continue_final_message"
    with pytest.raises(InvalidValue):
        ChatTemplate("nothing", SPECIAL).render(messages, options=PromptOptions(continue_final=True))


def test_a_callers_template_arguments_cannot_take_the_place_of_the_conversation() -> None:
    arguments = {"messages": [], "eos_token": "no", "add_generation_prompt": False}
    found = ChatTemplate(None, SPECIAL).render(user_message("Hi"), options=PromptOptions(arguments=arguments))
    assert found == ChatTemplate(None, SPECIAL).render(user_message("Hi"))
