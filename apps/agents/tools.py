"""Tools: what an agent may call. A typed function with a docstring becomes one; its schema comes from the types.

``Redaction`` keeps the service's secrets out of what models see and what runs are on record for. It is a last line: no
tool is given a secret. But a server of tools has a key of its own, and may say it aloud.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from apps.core.callers import Caller
from apps.core.messages import JsonObject

Arguments = dict[str, Any]


class ToolError(Exception):
    """A call failed; the model gets these words. They must hold no secret."""


@dataclass(frozen=True, slots=True)
class ToolContext:
    """For whom a tool is called. A function that has a parameter of this type gets it; the model never sees it."""

    caller: Caller
    collections: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentTool:
    """``invoke`` checks the arguments itself and raises ToolError for wrong ones; its result is text or JSON.

    ``route`` is the path that a caller's key must reach for the tool to be offered to his run; empty: every key's.
    """

    name: str
    description: str
    parameters: JsonObject
    invoke: Callable[[ToolContext, Arguments], Awaitable[Any]]
    approval: bool = False
    route: str = ""
    collections: tuple[str, ...] = field(default=())

    def narrowed(self, *, approval: bool, collections: tuple[str, ...]) -> "AgentTool":
        """The tool as an agent's declaration has it."""
        return replace(self, approval=approval, collections=collections)

    def allowed_for(self, caller: Caller) -> bool:
        return not self.route or caller.may_call(self.route)


def function_tool(function: Callable[..., Any], *, name: str = "", route: str = "") -> AgentTool:
    """A tool of an async function, or of one that returns at once (it runs on the event loop).

    Every parameter has a type; ``Annotated[int, Field(description=..., ge=1)]`` says more of it. The docstring is what
    the model reads of the tool.
    """
    description = inspect.getdoc(function)
    tool_name = name or function.__name__
    if not description:
        raise TypeError(f"the tool {tool_name} has no docstring")
    hints = get_type_hints(function, include_extras=True)
    contexts = [parameter for parameter, hint in hints.items() if hint is ToolContext]
    model = _arguments_model(function, tool_name, hints)

    async def invoke(context: ToolContext, arguments: Arguments) -> Any:
        try:
            checked = model.model_validate(arguments)
        except ValidationError as error:
            raise ToolError(f"Wrong arguments: {_faults(error)}") from None
        given = {name: getattr(checked, name) for name in model.model_fields}
        result = function(**given, **dict.fromkeys(contexts, context))
        return await result if inspect.isawaitable(result) else result

    return AgentTool(tool_name, description, _schema(model), invoke, route=route)


def _arguments_model(function: Callable[..., Any], name: str, hints: dict[str, Any]) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        hint = hints.get(parameter.name)
        if hint is None:
            raise TypeError(f"the parameter {parameter.name} of the tool {name} has no type")
        if hint is not ToolContext:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[parameter.name] = (hint, default)
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)


def _schema(model: type[BaseModel]) -> JsonObject:
    """Without the titles that pydantic adds: they say nothing, and each costs tokens."""
    schema = model.model_json_schema()
    schema.pop("title", None)
    for described in schema.get("properties", {}).values():
        described.pop("title", None)
    return {"properties": {}, **schema}


def _faults(error: ValidationError) -> str:
    faults = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'arguments'}: {fault['msg']}" for fault in faults[:5])


SHORTEST = 8
MARK = "[secret]"


class Redaction:
    """Call it with a text. Secrets shorter than eight characters would be found in innocent words: they are left."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted({secret for secret in secrets if len(secret) >= SHORTEST}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, MARK)
        return text
