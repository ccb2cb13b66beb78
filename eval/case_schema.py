"""The shape of a case file, and its reading: a mistake in one is an error that names the file, the case and the field.

A file holds settings for the server of its cases (``server``), what they need (``needs``) and the cases themselves.
"""

import base64
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from jsonschema import Draft202012Validator, SchemaError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

Need = Literal["local", "mock"]
Latency = Literal["fast", "normal", "slow"]
SECONDS: dict[Latency, float] = {"fast": 0.3, "normal": 5, "slow": 60}


class CaseFileError(Exception):
    """A case file is wrong; the message says where and how."""


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    return pattern


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"no JSON schema: {error.message}") from None
    return schema


Regex = Annotated[str, AfterValidator(_regex)]
JsonSchema = Annotated[dict[str, Any], AfterValidator(_schema)]
Pointer = Annotated[str, Field(pattern=r"^(/.*)?$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Repeated(Strict):
    """``text``, ``times`` times: for prompts at a limit."""

    text: str
    times: int = Field(ge=0)


class Request(Strict):
    """One HTTP request. The body is ``json``, or raw: ``text``, ``base64`` or ``blanks`` (so many spaces)."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"] = "GET"
    path: str = Field(pattern="^/")
    headers: dict[str, str] = {}
    json_body: Any = Field(None, alias="json")
    prompt: Repeated | None = None
    text: str | None = None
    base64: str | None = None
    blanks: int | None = Field(None, ge=0)
    chunked: bool = False

    @model_validator(mode="after")
    def _one_body(self) -> "Request":
        if sum(part is not None for part in (self.json_body, self.text, self.base64, self.blanks)) > 1:
            raise ValueError("at most one of json, text, base64 and blanks")
        if self.prompt and not isinstance(self.json_body, dict):
            raise ValueError("prompt goes into json, which must be an object")
        return self

    def content(self) -> bytes | None:
        """The body's bytes."""
        if self.json_body is not None:
            extra = {"prompt": self.prompt.text * self.prompt.times} if self.prompt else {}
            return json.dumps(self.json_body | extra if extra else self.json_body, ensure_ascii=False).encode()
        if self.text is not None:
            return self.text.encode()
        if self.base64 is not None:
            return base64.b64decode(self.base64)
        return b" " * self.blanks if self.blanks is not None else None


class Check(Strict):
    """What one text must be: all that is given must hold."""

    equals: str | None = None
    contains: list[str] = []
    excludes: list[str] = []
    regex: Regex | None = None
    min_length: int | None = None


class ErrorCheck(Strict):
    """The envelope. Of ``details`` these must be there with these values; ``beside`` may stand next to the error.

    ``openai``: OpenAI's code, on the routes of /v1, which have its ``type`` and ``param`` in the error, too.
    """

    code: str
    field: str | None = None
    message: Check = Check()
    details: dict[str, Any] = {}
    beside: list[str] = []
    openai: str | None = None


class StreamCheck(Strict):
    """The events of a stream: how it ends, and the joined text of its deltas."""

    terminal: Literal["done", "error"]
    text: Check = Check()
    min_deltas: int = 0
    done: JsonSchema | None = None
    error: ErrorCheck | None = None


class Expect(Strict):
    """What an answer must be. ``json`` maps JSON pointers to values; a header that is null must be absent."""

    status: int = Field(ge=100, le=599)
    headers: dict[str, Check | None] = {}
    error: ErrorCheck | None = None
    json_values: dict[Pointer, Any] = Field({}, alias="json")
    checks: dict[Pointer, Check] = {}
    body: Check = Check()
    json_schema: JsonSchema | None = Field(None, alias="schema")
    stream: StreamCheck | None = None
    upstream_calls: int | None = None
    latency: Latency = "normal"

    @model_validator(mode="after")
    def _errors_are_checked(self) -> "Expect":
        if self.status >= 400 and self.error is None:
            raise ValueError("a status of 400 or more needs an error")
        return self


class Case(Strict):
    """One case: send ``before`` so many times, keep ``meanwhile`` streaming, send ``request``, judge its answer."""

    name: str = Field(min_length=3)
    request: Request
    expect: Expect
    needs: list[Need] = []
    before: int = Field(0, ge=0, le=100)
    meanwhile: Request | None = None


class CaseFile(Strict):
    server: dict[str, str] = {}
    needs: list[Need] = []
    cases: list[Case] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> "CaseFile":
        names = [case.name for case in self.cases]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two cases have the name {twice[0]!r}")
        return self


def load(path: Path) -> CaseFile:
    """Read one file. Raises CaseFileError."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        return CaseFile.model_validate(data)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CaseFileError(f"{path.name}: not YAML: {error}") from error
    except ValidationError as error:
        lines = [f"{path.name}: {_where(data, e['loc'])}: {e['msg']}" for e in error.errors(include_url=False)]
        raise CaseFileError("\n".join(lines)) from error


def _where(data: Any, location: tuple[int | str, ...]) -> str:
    """The place in words: a case by its name, where it has one."""
    place = ".".join(str(part) for part in location) or "the file"
    match location:
        case ("cases", int(index), *rest) if isinstance(data["cases"][index], dict) and "name" in data["cases"][index]:
            return f"case {data['cases'][index]['name']!r}: {'.'.join(map(str, rest)) or 'the case'}"
        case _:
            return place
