"""What a field may hold, so that an error can say it: ranges with both ends, and which fields there are at all."""

import math
import sys
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

OUT_OF_RANGE = "out_of_range"
UNKNOWN_FIELD = "unknown_field"


@dataclass(frozen=True)
class Between:
    """A number from ``minimum`` to ``maximum``, the maximum included and the minimum too unless ``above`` it.

    An error names both and what was received.
    """

    minimum: int
    maximum: int
    above: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        number = handler(source)
        if number["type"] == "float":
            number = core_schema.no_info_before_validator_function(_within_floats, number)
        return core_schema.no_info_after_validator_function(self.check, number)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        least = "exclusiveMinimum" if self.above else "minimum"
        return {**handler(schema), least: self.minimum, "maximum": self.maximum}

    def check(self, value: float) -> float:
        if self.minimum <= value <= self.maximum and not (self.above and value == self.minimum):
            return value
        words = f"more than {self.minimum} and at most" if self.above else f"between {self.minimum} and"
        raise _out_of_range(f"must be {words} {self.maximum}", self.minimum, self.maximum, value)


@dataclass(frozen=True)
class CodePoints:
    """Text of 1 to ``maximum`` Unicode code points; white space alone counts as empty."""

    maximum: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "minLength": 1, "maxLength": self.maximum, "pattern": r"\S"}

    def _check(self, value: str) -> str:
        if not value.strip():
            raise _out_of_range("must not be empty", 1, self.maximum, 0)
        if len(value) > self.maximum:
            raise _out_of_range(f"must be at most {self.maximum} characters", 1, self.maximum, len(value))
        return value


@dataclass(frozen=True)
class Entries:
    """A list of ``minimum`` to ``maximum`` entries."""

    minimum: int
    maximum: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "minItems": self.minimum, "maxItems": self.maximum}

    def _check(self, value: Sized) -> Sized:
        if not self.minimum <= len(value) <= self.maximum:
            rule = f"must have {self.minimum} to {self.maximum} entries"
            raise _out_of_range(rule, self.minimum, self.maximum, len(value))
        return value


class Schema(BaseModel):
    """A shape of the API whose validator is built at its first use: at import, it would cost every start.

    Not for the body of a route itself: FastAPI puts its name into the same validator, and pydantic warns of that.
    """

    model_config = ConfigDict(defer_build=True)


class KnownFields(BaseModel):
    """A body that refuses fields it does not have, and says which ones it has."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="wrap")
    @classmethod
    def _tells_which_there_are(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            found = error.errors()
            if all(one["type"] != "extra_forbidden" for one in found):
                raise
            known = ", ".join(cls.model_fields)
            raise ValidationError.from_exception_data(cls.__name__, [_again(one, known) for one in found]) from None


def _again(error: ErrorDetails, known: str) -> InitErrorDetails:
    """The same error, to be raised anew; that of an unknown field with what there is instead."""
    context = error.get("ctx", {})
    kind: str | PydanticCustomError = error["type"]
    if kind == "extra_forbidden":
        kind = PydanticCustomError(UNKNOWN_FIELD, "is not known here: there are {known}", {"known": known})
    elif kind == OUT_OF_RANGE:
        kind = PydanticCustomError(OUT_OF_RANGE, "{rule}", context)
    return InitErrorDetails(type=kind, loc=error["loc"], input=error["input"], ctx=context)


def _within_floats(value: Any) -> Any:
    """An integer that no float can hold is out of range, not of the wrong type."""
    if type(value) is int and abs(value) > sys.float_info.max:
        return math.inf if value > 0 else -math.inf
    return value


def _out_of_range(rule: str, minimum: int, maximum: int, received: float) -> PydanticCustomError:
    context = {"rule": rule, "min": minimum, "max": maximum, "received": received}
    return PydanticCustomError(OUT_OF_RANGE, "{rule}", context)
