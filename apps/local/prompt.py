"""Tools, calls and their results in the prompt: by the model's own chat template where it writes calls as we read
them, else as text in the turns that every template knows.

A conversation as the text that the model was trained on: its own chat template, or the Zephyr format.

Knows no tokens: see tokenizer.py.
"""

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from apps.core.errors import InvalidValue
from apps.core.messages import JsonObject, Message, ToolCall

# the form of Hermes 2 Pro, which Qwen and SmolLM2-1.7B were trained on too
CALL_BEGINS, CALL_ENDS = "<tool_call>", "</tool_call>"
INTRODUCTION = """You can call these functions:
{tools}

To call a function, answer with its name and its arguments in this form and nothing else:
<tool_call>
{{"name": "<name>", "arguments": {{<arguments>}}}}
</tool_call>"""
DEFAULT_SYSTEM = "You are a helpful assistant."


def speaks_tools(template: str | None) -> bool:
    """Whether a chat template describes tools itself, in the form that answers are held to."""
    return template is not None and "tools" in template and CALL_BEGINS in template


def turns(messages: Sequence[Message], tools: Sequence[JsonObject], *, own: bool) -> list[dict[str, Any]]:
    """The messages as a template takes them; with ``own`` the template writes tools, calls and results itself.

    Raises InvalidValue for content that is not text.
    """
    if own:
        return [_own_turn(message) for message in messages]
    plain: list[dict[str, Any]] = []
    for i, message in enumerate(messages):
        turn = _plain_turn(message)
        if message.role == "tool" and i and messages[i - 1].role == "tool":
            # results of parallel calls: many templates want turns to alternate
            plain[-1]["content"] += f"\n{turn['content']}"
        else:
            plain.append(turn)
    return _introduced(plain, tools) if tools else plain


def text_of(message: Message) -> str:
    """Content parts, joined. Raises InvalidValue for a part that is not text."""
    if isinstance(message.content, str):
        return message.content
    for part in message.content:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise InvalidValue(
                "The local model takes text parts only", field="messages", details={"received": str(part.get("type"))}
            )
    return "".join(part["text"] for part in message.content)


def _introduced(turns: list[dict[str, Any]], tools: Sequence[JsonObject]) -> list[dict[str, Any]]:
    described = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = INTRODUCTION.format(tools=described)
    if turns and turns[0]["role"] == "system":
        return [{"role": "system", "content": f"{turns[0]['content']}\n\n{text}"}, *turns[1:]]
    return [{"role": "system", "content": f"{DEFAULT_SYSTEM}\n\n{text}"}, *turns]


def _plain_turn(message: Message) -> dict[str, Any]:
    text = text_of(message)
    if message.role == "tool":
        return {"role": "user", "content": f"<tool_response>\n{text}\n</tool_response>"}
    if message.tool_calls:
        text = "\n".join(([text] if text else []) + [_written(call) for call in message.tool_calls])
    return {"role": _role(message), "content": text}


def _own_turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": _role(message), "content": text_of(message)}
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _arguments(call)}}
            for call in message.tool_calls
        ]
    return turn


def _written(call: ToolCall) -> str:
    body = json.dumps({"name": call.name, "arguments": _arguments(call)}, ensure_ascii=False)
    return f"{CALL_BEGINS}\n{body}\n{CALL_ENDS}"


def _arguments(call: ToolCall) -> Any:
    """As an object; as the text it is where another model wrote something else into the conversation."""
    try:
        value = json.loads(call.arguments)
    except ValueError:
        return call.arguments
    return value if isinstance(value, Mapping) else call.arguments


def _role(message: Message) -> str:
    # templates know the older word only
    return "system" if message.role == "developer" else message.role


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
