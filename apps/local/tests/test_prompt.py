from collections.abc import Sequence

import pytest

from apps.core.errors import InvalidValue
from apps.core.messages import Message, user_message

pytest.importorskip("jinja2", reason="jinja2 comes with requirements-local.txt")

from apps.local.prompt import ChatTemplate, text_of

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
