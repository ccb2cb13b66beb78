"""Ranges of fields: what is taken, what an error says of the rest, and what the schema says of both."""

import json
import math
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from apps.core.fields import Between, CodePoints, Entries, KnownFields


class Body(BaseModel):
    count: Annotated[int, Between(1, 5)] = 1
    share: Annotated[float, Between(0, 2)] = 1.0
    more: Annotated[float, Between(0, 2, above=True)] = 1.0
    text: Annotated[str, CodePoints(3)] = "x"
    names: Annotated[list[str], Entries(1, 2)] = ["x"]


class Strict(KnownFields):
    count: Annotated[int, Between(1, 5)] = 1
    text: str = ""

    @field_validator("text")
    @classmethod
    def _is_not_refused(cls, value: str) -> str:
        if value == "refused":
            raise PydanticCustomError("refused", "is refused")
        return value


def fault(kind: type[BaseModel], body: dict[str, Any]) -> dict[str, Any]:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    (found,) = caught.value.errors(include_url=False)
    return dict(found)


@pytest.mark.parametrize(
    "body",
    [
        *({"count": 1}, {"count": 5}, {"share": 0}, {"share": 2.0}, {"more": 0.01}, {"more": 2}),
        *({"text": "é" * 3}, {"text": " x "}, {"names": ["a"]}, {"names": ["a", "b"]}),
    ],
)
def test_both_ends_are_in_the_range(body: dict[str, Any]) -> None:
    (name,) = body
    assert getattr(Body.model_validate(body), name) == body[name]


@pytest.mark.parametrize(
    ("body", "words", "context"),
    [
        ({"count": 0}, "must be between 1 and 5", (1, 5, 0)),
        ({"count": 6}, "must be between 1 and 5", (1, 5, 6)),
        ({"share": -0.5}, "must be between 0 and 2", (0, 2, -0.5)),
        ({"share": 2.5}, "must be between 0 and 2", (0, 2, 2.5)),
        ({"share": float("inf")}, "must be between 0 and 2", (0, 2, math.inf)),
        ({"more": 0}, "must be more than 0 and at most 2", (0, 2, 0)),
        ({"more": 3}, "must be more than 0 and at most 2", (0, 2, 3)),
        ({"text": ""}, "must not be empty", (1, 3, 0)),
        ({"text": " \n"}, "must not be empty", (1, 3, 0)),
        ({"text": "abcd"}, "must be at most 3 characters", (1, 3, 4)),
        ({"names": []}, "must have 1 to 2 entries", (1, 2, 0)),
        ({"names": ["a", "b", "c"]}, "must have 1 to 2 entries", (1, 2, 3)),
    ],
)
def test_what_is_out_of_its_range_is_told_both_ends_and_what_came(
    body: dict[str, Any], words: str, context: tuple[float, float, float]
) -> None:
    found = fault(Body, body)
    assert (found["type"], found["msg"], found["loc"]) == ("out_of_range", words, tuple(body))
    minimum, maximum, received = context
    assert found["ctx"] == {"rule": words, "min": minimum, "max": maximum, "received": received}


def test_a_number_that_is_none_is_in_no_range() -> None:
    assert fault(Body, {"share": math.nan})["type"] == "out_of_range"


@pytest.mark.parametrize(("value", "received"), [(10**400, math.inf), (-(10**400), -math.inf)])
def test_an_integer_that_no_float_can_hold_is_out_of_range(value: int, received: float) -> None:
    found = fault(Body, {"share": value})
    assert (found["type"], found["ctx"]["received"]) == ("out_of_range", received)


def test_the_largest_floats_are_still_numbers() -> None:
    assert fault(Body, {"share": int(1.7976931348623157e308)})["ctx"]["received"] == 1.7976931348623157e308
    assert fault(Body, {"share": "x"})["type"] == "float_parsing"


def test_the_schema_says_the_ranges() -> None:
    shown = {name: field for name, field in Body.model_json_schema()["properties"].items()}
    assert (shown["count"]["minimum"], shown["count"]["maximum"]) == (1, 5)
    assert (shown["more"]["exclusiveMinimum"], shown["more"]["maximum"]) == (0, 2)
    assert "minimum" not in shown["more"]
    assert (shown["text"]["minLength"], shown["text"]["maxLength"], shown["text"]["pattern"]) == (1, 3, r"\S")
    assert (shown["names"]["minItems"], shown["names"]["maxItems"]) == (1, 2)


def test_a_field_that_is_not_known_is_told_which_ones_there_are() -> None:
    found = fault(Strict, {"cuont": 2})
    assert (found["type"], found["loc"], found["input"]) == ("unknown_field", ("cuont",), 2)
    assert found["msg"] == "is not known here: there are count, text"
    assert found["ctx"] == {"known": "count, text"}


def test_beside_an_unknown_field_other_faults_stay_what_they_are() -> None:
    with pytest.raises(ValidationError) as caught:
        Strict.model_validate({"count": 9, "text": 5, "more": 1})
    found = json.loads(caught.value.json(include_url=False))
    assert [(one["type"], one["loc"]) for one in found] == [
        ("out_of_range", ["count"]),
        ("string_type", ["text"]),
        ("unknown_field", ["more"]),
    ]
    assert found[0]["msg"] == "must be between 1 and 5"
    assert found[0]["ctx"] == {"rule": "must be between 1 and 5", "min": 1, "max": 5, "received": 9}
    assert caught.value.title == "Strict"


def test_without_an_unknown_field_faults_are_pydantics_own() -> None:
    assert fault(Strict, {"text": 5})["type"] == "string_type"
    assert fault(Strict, {"count": 9})["msg"] == "must be between 1 and 5"
    assert fault(Strict, {"text": "refused"})["type"] == "refused"
