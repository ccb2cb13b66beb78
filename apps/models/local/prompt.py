"""A conversation as the text that the model was trained on: its own chat template, or the Zephyr format.

Knows no tokens: see tokenizer.py.
"""

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from apps.core.errors import InvalidValue
from apps.core.messages import JsonObject, Message
from apps.models.local.tool_prompt import speaks_tools, turns

# What TinyLlama's chat models were trained on; each turn ends with the tokenizer's own end token.
ZEPHYR = (
    "{% if messages[0]['role'] != 'system' %}<|system|>\nYou are a helpful assistant.{{ eos_token }}\n{% endif %}"
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


class ChatTemplate:
    """Renders conversations. ``source`` is the tokenizer's Jinja template, None where it has none.

    A checkpoint's template is a stranger's program: it runs in Jinja's sandbox.
    """

    def __init__(self, source: str | None, special_tokens: Mapping[str, str]) -> None:
        # jinja2 comes with torch: the base installation has none
        from jinja2 import ext
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if source is not None:
            # marks the model's own turns for training; says nothing to a prompt
            source = re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", _without_tag, source)
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[ext.loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().astimezone().strftime(form)
        self.own = source is not None
        self._speaks_tools = speaks_tools(source)
        self._template = environment.from_string(ZEPHYR if source is None else source)
        self._special_tokens = dict(special_tokens)

    def render(self, messages: Sequence[Message], tools: Sequence[JsonObject] = ()) -> str:
        """The text up to where the model's turn begins. Raises InvalidValue for what the template cannot say."""
        from jinja2 import TemplateError

        try:
            return self._template.render(
                messages=turns(messages, tools, own=self._speaks_tools),
                add_generation_prompt=True,
                tools=list(tools) if tools and self._speaks_tools else None,
                documents=None,
                **self._special_tokens,
            )
        except TemplateError as error:
            raise InvalidValue(f"The local model cannot take these messages: {error}", field="messages") from error


def _without_tag(tag: re.Match[str]) -> str:
    """A comment in the tag's place: Jinja trims blanks around it in the same way."""
    return "{#" + ("-" if tag[0].startswith("{%-") else "") + " " + ("-" if tag[0].endswith("-%}") else "") + "#}"


def _refuse(reason: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(reason)


def _to_json(value: Any, indent: int | None = None) -> str:
    """Jinja's own filter escapes HTML, which a prompt must not be."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
