"""tools, tool_choice and response_format of a chat completions body, read for the local model."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField
from apps.core.messages import JsonObject

NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
MOST_TOOLS = 128
FORMATS = ("text", "json_object", "json_schema")


def read_tools(tools: Any) -> tuple[JsonObject, ...]:
    """Functions only, each with a name of its own. Raises an error of the contract's table that names the field."""
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise InvalidType("Tools must be an array", field="tools")
    if len(tools) > MOST_TOOLS:
        raise InvalidValue(f"Tools must be at most {MOST_TOOLS}", field="tools", details={"max": MOST_TOOLS})
    names: set[str] = set()
    for i, tool in enumerate(tools):
        name = _function_name(tool, f"tools.{i}")
        if name in names:
            raise InvalidValue(f"Two tools are named {name}", field=f"tools.{i}.function.name")
        names.add(name)
    return tuple(tools)


def read_tool_choice(choice: Any, tools: Sequence[JsonObject]) -> str | JsonObject | None:
    """none, auto, required, or one function by its name."""
    if choice is None or (not tools and choice in ("none", "auto")):
        return None
    if not tools:
        raise InvalidValue("Tool choice needs tools", field="tool_choice")
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise InvalidValue("Tool choice must be none, auto, required or a function", field="tool_choice")
        return choice
    function = choice.get("function") if isinstance(choice, Mapping) else None
    if not isinstance(function, Mapping) or choice.get("type") != "function":
        raise InvalidValue("Tool choice must be none, auto, required or a function", field="tool_choice")
    if function.get("name") not in [tool["function"]["name"] for tool in tools]:
        raise InvalidValue("Tool choice names no function of tools", field="tool_choice.function.name")
    return {"type": "function", "function": {"name": function["name"]}}


def read_response_format(form: Any) -> JsonObject | None:
    """None for plain text. A schema's own faults show when it is compiled."""
    if form is None:
        return None
    if not isinstance(form, Mapping):
        raise InvalidType("Response format must be an object", field="response_format")
    kind = form.get("type")
    if kind not in FORMATS:
        raise InvalidValue(f"Response format must be one of {', '.join(FORMATS)}", field="response_format.type")
    if kind != "text" and isinstance(form.get("schema"), Mapping) and "json_schema" not in form:
        # llama.cpp's way to write a schema, and Together's
        return schema_format(form["schema"])
    if kind == "json_schema":
        _check_schema(form.get("json_schema"))
    return None if kind == "text" else form


def schema_format(schema: JsonObject) -> JsonObject:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def _check_schema(wrapped: Any) -> None:
    where = "response_format.json_schema"
    if wrapped is None:
        raise MissingRequiredField("Json schema is required", field=where)
    if not isinstance(wrapped, Mapping):
        raise InvalidType("Json schema must be an object", field=where)
    # some clients give it no name, and nothing here depends on one
    if wrapped.get("name") is not None and not (isinstance(wrapped["name"], str) and NAME.fullmatch(wrapped["name"])):
        raise InvalidValue(f"Name must match {NAME.pattern}", field=f"{where}.name")
    if not isinstance(wrapped.get("schema", {}), Mapping):
        raise InvalidType("Schema must be an object", field=f"{where}.schema")
    if not isinstance(wrapped.get("strict"), bool | None):
        raise InvalidType("Strict must be true or false", field=f"{where}.strict")


def _function_name(tool: Any, where: str) -> str:
    if not isinstance(tool, Mapping):
        raise InvalidType("A tool must be an object", field=where)
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, Mapping):
        raise InvalidValue("The local model takes tools of type function", field=f"{where}.type")
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidValue(f"Name must match {NAME.pattern}", field=f"{where}.function.name")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise InvalidType("Parameters must be a JSON schema", field=f"{where}.function.parameters")
    return name
