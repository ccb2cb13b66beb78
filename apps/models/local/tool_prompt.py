"""Tools, calls and their results in the prompt: by the model's own chat template where it writes calls as we read
them, else as text in the turns that every template knows.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

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
