"""A conversation as the text that the model was trained on: its own chat template, or the Zephyr format.

Tools, calls and their results are written by the template where it writes calls as we read them, else as text in the
turns that every template knows. What a template can say is found out by a trial. Knows no tokens: see tokenizer.py.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from apps.core.errors import InvalidValue
from apps.core.messages import JsonObject, Message, ToolCall
from apps.local.control_tokens import MARK, Mark

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

# the form of Hermes 2 Pro, which Qwen and SmolLM2-1.7B were trained on too
CALL_BEGINS, CALL_ENDS = "<tool_call>", "</tool_call>"
INTRODUCTION = """You can call these functions:
{tools}

To call a function, answer with its name and its arguments in this form and nothing else:
<tool_call>
{{"name": "<name>", "arguments": {{<arguments>}}}}
</tool_call>"""
DEFAULT_SYSTEM = "You are a helpful assistant."


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
    return _turn(message, text)


def _own_turn(message: Message) -> dict[str, Any]:
    turn = _turn(message, text_of(message))
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _arguments(call)}}
            for call in message.tool_calls
        ]
    return turn


def _turn(message: Message, text: str) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": _role(message), "content": text}
    if message.name is not None:
        turn["name"] = message.name
    if message.reasoning is not None:
        turn["reasoning_content"] = message.reasoning
    return turn


def _written(call: ToolCall) -> str:
    body = json.dumps({"name": call.name, "arguments": _arguments(call)}, ensure_ascii=False)
    return f"{CALL_BEGINS}\n{body}\n{CALL_ENDS}"


def _arguments(call: ToolCall) -> Any:
    """As an object, which many templates walk through; as the text it is where another model wrote something else."""
    if not call.arguments.strip():
        return {}
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


# stands behind the text of a turn that is to be continued; private use, so that no template knows it
CONTINUES_HERE = "\U0010fffd"


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """What a prompt is made of besides messages and tools.

    ``arguments`` are variables for the chat template. With ``continue_final`` the prompt ends with the last message's
    text, and no new turn begins; nor does one without ``generation_prompt``.
    """

    documents: tuple[JsonObject, ...] = ()
    arguments: JsonObject | None = None
    continue_final: bool = False
    generation_prompt: bool = True


NO_OPTIONS = PromptOptions()


class ChatTemplate:
    """Renders conversations. ``source`` is the tokenizer's Jinja template, None where it has none.

    ``with_tools`` is another template that a checkpoint has for conversations with tools. A checkpoint's template is a
    stranger's program: it runs in Jinja's sandbox.
    """

    def __init__(self, source: str | None, special_tokens: Mapping[str, str], with_tools: str | None = None) -> None:
        self.own = source is not None
        self.source = ZEPHYR if source is None else source
        self._template = _environment().from_string(self.source)
        self._special_tokens = dict(special_tokens)
        self._speaks_tools = "tools" in self.source and CALL_BEGINS in self.source and self._writes_calls()
        self._has_system = source is None or self._writes_system()
        self._with_tools = None if with_tools is None else ChatTemplate(with_tools, special_tokens)

    @property
    def sources(self) -> str:
        """All that is written by it, or by its template for tools."""
        return self.source + ("" if self._with_tools is None else self._with_tools.source)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[JsonObject] = (),
        options: PromptOptions = NO_OPTIONS,
        mark: Mark | None = None,
    ) -> str:
        """The text up to where the model's turn begins. Raises InvalidValue for what the template cannot say.

        ``mark`` is applied to everything that comes from the caller.
        """
        if tools and self._with_tools is not None:
            return self._with_tools.render(messages, tools, options, mark)
        made = turns(messages, tools, own=self._speaks_tools)
        if not self._has_system:
            made = _without_system(made)
        if options.continue_final:
            _mark_end(messages, made)
        given: dict[str, Any] = {
            "messages": made,
            "tools": list(tools) if tools and self._speaks_tools else None,
            "documents": list(options.documents) or None,
        }
        arguments: Any = dict(options.arguments or {})
        if mark is not None:
            given, arguments = mark(given), mark(arguments)
        begins = options.generation_prompt and not options.continue_final
        fixed = {"add_generation_prompt": begins, **self._special_tokens, MARK: mark}
        try:
            text = self._template.render({**arguments, **given, **fixed})
        except Exception as error:
            # a template is a program, and these messages may be any: whatever it raises, it cannot say them
            raise InvalidValue(f"The local model cannot take these messages: {error}", field="messages") from error
        return _until_continuation(text) if options.continue_final else text

    def _writes_calls(self) -> bool:
        """Whether it describes tools itself, and writes calls in the form that answers are held to."""
        messages = [_own_turn(message) for message in TRIAL]
        text = self._tried(messages, tools=[TRIAL_TOOL])
        return str(TRIAL_TOOL["function"]["description"]) in text and any(map(_is_call, text.split(CALL_BEGINS)[1:]))

    def _writes_system(self) -> bool:
        """Whether it has a place for a system turn. One that says nothing at all of a trial may have."""
        user = _turn(TRIAL[0], "Hi")
        return TRIAL_SYSTEM in self._tried([{"role": "system", "content": TRIAL_SYSTEM}, user]) or not self._tried(
            [user]
        )

    def _tried(self, messages: list[dict[str, Any]], tools: list[JsonObject] | None = None) -> str:
        fixed = {"add_generation_prompt": True, "documents": None, **self._special_tokens}
        try:
            return self._template.render(messages=messages, tools=tools, **fixed)
        except Exception:
            # a template may refuse whatever it likes
            return ""


TRIAL_TOOL: JsonObject = {
    "type": "function",
    "function": {
        "name": "trial_tool",
        "description": "Tries something",
        "parameters": {"type": "object", "properties": {"trial_key": {"type": "string"}}, "required": ["trial_key"]},
    },
}
TRIAL_ARGUMENTS = {"trial_key": "a value"}
TRIAL_SYSTEM = "Speak like a trial"
TRIAL = (
    Message("user", "Hi"),
    Message("assistant", "", (ToolCall("call00001", "trial_tool", json.dumps(TRIAL_ARGUMENTS)),)),
    Message("tool", "42", tool_call_id="call00001"),
)


def _is_call(text: str) -> bool:
    """Whether a text begins with the trial's call in the form of Hermes."""
    text = text.lstrip()
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return False
    return value == {"name": "trial_tool", "arguments": TRIAL_ARGUMENTS} and text[end:].lstrip().startswith(CALL_ENDS)


def _without_system(turns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the system turns say stands before the text of the next user turn."""
    made: list[dict[str, Any]] = []
    waiting: list[str] = []
    for turn in turns:
        if turn["role"] == "system":
            waiting.append(turn["content"])
        elif turn["role"] == "user" and waiting:
            made.append({**turn, "content": "\n\n".join([*waiting, turn["content"]])})
            waiting = []
        else:
            made.append(turn)
    return [*made, {"role": "user", "content": "\n\n".join(waiting)}] if waiting else made


def _mark_end(messages: Sequence[Message], made: list[dict[str, Any]]) -> None:
    if not made or messages[-1].tool_calls:
        raise InvalidValue("A turn with tool calls cannot be continued", field="continue_final_message")
    made[-1] = {**made[-1], "content": made[-1]["content"] + CONTINUES_HERE}


def _until_continuation(text: str) -> str:
    at = text.rfind(CONTINUES_HERE)
    if at < 0:
        raise InvalidValue("The model's chat template cannot leave a turn open", field="continue_final_message")
    return text[:at]


def _environment() -> "ImmutableSandboxedEnvironment":
    """What transformers gives to chat templates, of functions, filters and tags."""
    # jinja2 comes with the local model's requirements: the base installation has none
    from jinja2 import TemplateError, ext, nodes, parser, pass_context
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(ext.Extension):
        """``{% generation %}`` marks the model's own turns for training; it says nothing to a prompt."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

        def parse(self, parser: parser.Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    @pass_context
    def to_json(
        context: Mapping[str, Any],
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """Jinja's own filter escapes HTML, which a prompt must not be."""
        mark = context.get(MARK)
        text = json.dumps(
            # a mark would become an escape, and what it stood before would lose it
            value if mark is None else mark.removed(value),
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )
        return text if mark is None else str(mark(text))

    def refuse(reason: str) -> NoReturn:
        raise TemplateError(reason)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().astimezone().strftime(form)
    return environment
