"""Calls of tools as upstreams send them: each comes out whole, with its name, under an index of its own."""

import json
from typing import Any

import pytest

from apps.core.deltas import ToolCallDelta
from apps.core.errors import UpstreamError
from apps.models.openai_chat import ToolCallReader

NONE: Any = object()
PARIS, ROME = '{"city": "Paris"}', '{"city": "Rome"}'


def piece(index: Any = NONE, id: Any = NONE, name: Any = NONE, arguments: Any = NONE) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not NONE}
    outer = {key: value for key, value in (("index", index), ("id", id)) if value is not NONE}
    return {"type": "function", "function": function, **outer}


def read(*deltas: list[dict[str, Any]]) -> list[ToolCallDelta]:
    reader = ToolCallReader()
    return [out for pieces in deltas for out in reader.read(pieces)] + reader.finish()


def calls(*deltas: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Name and arguments of each call, as a client puts them together that goes by the index alone."""
    joined: dict[int, list[str]] = {}
    for delta in read(*deltas):
        if delta.index not in joined:
            assert delta.id
            assert delta.name
            joined[delta.index] = [delta.name, ""]
        else:
            assert delta.id is delta.name is None
        joined[delta.index][1] += delta.arguments
    assert list(joined) == list(range(len(joined)))
    return [(name, arguments) for name, arguments in joined.values()]


def test_openais_own_pieces_come_out_as_they_are() -> None:
    first = [piece(0, "a", "weather", ""), piece(1, "b", "now", "")]
    rest = [[piece(0, arguments='{"city"')], [piece(1, arguments="{}")], [piece(0, arguments=': "Paris"}')]]
    assert read(first, *rest) == [
        ToolCallDelta(0, "a", "weather", ""),
        ToolCallDelta(1, "b", "now", ""),
        ToolCallDelta(0, arguments='{"city"'),
        ToolCallDelta(1, arguments="{}"),
        ToolCallDelta(0, arguments=': "Paris"}'),
    ]


TWO = [("weather", PARIS), ("weather", ROME)]


@pytest.mark.parametrize(
    "deltas",
    [
        [[piece(0, "a", "weather", PARIS)], [piece(0, "b", "weather", ROME)]],
        [[piece(0, "a", "weather", PARIS), piece(0, "b", "weather", ROME)]],
        [[piece(NONE, "a", "weather", PARIS)], [piece(NONE, "b", "weather", ROME)]],
        [[piece(None, "a", "weather", PARIS), piece(None, "b", "weather", ROME)]],
        [[piece(0, NONE, "weather", PARIS)], [piece(0, NONE, "weather", ROME)]],
        [[piece(0, "", "weather", PARIS), piece(0, "", "weather", ROME)]],
        [[piece(NONE, None, "weather", PARIS)], [piece(NONE, None, "weather", ROME)]],
        [[piece(0, "a", "weather", json.loads(PARIS))], [piece(0, "b", "weather", json.loads(ROME))]],
        [[piece(1, "a", "weather", PARIS)], [piece(2, "b", "weather", ROME)]],
        [
            [piece(0, "a", "weather", "")],
            [piece(0, NONE, NONE, PARIS)],
            [piece(0, "b", "weather", "")],
            [piece(0, NONE, NONE, ROME)],
        ],
    ],
)
def test_calls_side_by_side_are_two(deltas: list[list[dict[str, Any]]]) -> None:
    assert calls(*deltas) == TWO


@pytest.mark.parametrize(
    "deltas",
    [
        [
            [piece(0, "a")],
            [piece(0, NONE, "weather")],
            [piece(0, NONE, NONE, PARIS[:5])],
            [piece(0, arguments=PARIS[5:])],
        ],
        [[piece(0, NONE, "weather", "")], [piece(0, "a", NONE, PARIS)]],
        [[piece(0, "a", "weather", ""), piece(0, "a", "weather", PARIS[:5])], [piece(0, "a", "weather", PARIS[5:])]],
        [[piece(0, "a", "weather", PARIS[:5])], [piece(0, "b", NONE, PARIS[5:])]],
        [[piece(0, "a", "weather")], [piece(0, NONE, NONE, json.loads(PARIS))]],
        [[piece(0, "a", NONE, PARIS)], [piece(0, "a", "weather", None)]],
        [[piece(0, "a", "weather", json.loads(PARIS))], [piece(0, "a", "weather", json.loads(PARIS))]],
    ],
)
def test_pieces_of_one_call_are_one(deltas: list[list[dict[str, Any]]]) -> None:
    assert calls(*deltas) == [("weather", PARIS)]


@pytest.mark.parametrize("arguments", [NONE, None, "", " "])
def test_a_call_without_arguments_has_an_empty_object(arguments: Any) -> None:
    ((name, given),) = calls([piece(0, "a", "now", arguments)])
    assert (name, json.loads(given)) == ("now", {})


def test_the_upstreams_id_is_kept_where_it_comes_before_the_arguments() -> None:
    assert read([piece(0, NONE, "weather", "")], [piece(0, "a", NONE, PARIS)])[0].id == "a"


@pytest.mark.parametrize("pieces", [[piece(0, "a", NONE, PARIS)], [piece(0)], [{}]])
def test_a_call_that_never_gets_a_name_is_an_error(pieces: list[dict[str, Any]]) -> None:
    with pytest.raises(UpstreamError, match="without a name"):
        read(pieces)


@pytest.mark.parametrize("pieces", [7, "x", {"a": 1}, [7], [{"function": 7}], [{"id": 7}], [piece(0, "a", "x", 7)]])
def test_shapes_that_nobody_knows_are_errors(pieces: Any) -> None:
    with pytest.raises(UpstreamError):
        read(pieces)
