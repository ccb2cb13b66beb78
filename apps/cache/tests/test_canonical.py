"""The canonical form: what means the same is the same bytes, what differs in anything is not."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.cache.entry import NotCanonical, canonical_json, fingerprint

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20
)
bodies = st.dictionaries(st.text(max_size=8), values, min_size=1, max_size=6)


def shuffled(value: Any) -> Any:
    """The same with every object's keys in the opposite order."""
    if isinstance(value, dict):
        return {name: shuffled(value[name]) for name in reversed(value)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


def respelled(value: Any) -> Any:
    """The same with whole numbers written as floats, where a float holds them."""
    if isinstance(value, dict):
        return {name: respelled(item) for name, item in value.items()}
    if isinstance(value, list):
        return [respelled(item) for item in value]
    if type(value) is int and abs(value) < 2**53:
        return float(value)
    return value


@given(bodies)
@pytest.mark.long
def test_the_order_of_keys_does_not_matter(body: dict[str, Any]) -> None:
    assert canonical_json(shuffled(body)) == canonical_json(body)


@given(bodies)
@pytest.mark.long
def test_the_spelling_of_numbers_does_not_matter(body: dict[str, Any]) -> None:
    assert canonical_json(respelled(body)) == canonical_json(body)


@given(bodies)
@pytest.mark.long
def test_the_spelling_of_text_and_white_space_does_not_matter(body: dict[str, Any]) -> None:
    spelled = json.loads(json.dumps(body, indent=3, ensure_ascii=True))
    assert canonical_json(spelled) == canonical_json(json.loads(json.dumps(body, ensure_ascii=False)))


@given(bodies, bodies)
def test_bodies_are_equal_where_their_canonical_forms_are(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert json.loads(canonical_json(one)) == respelled_exactly(one)
    if canonical_json(one) == canonical_json(two):
        assert strict(one) == strict(two)


@given(bodies, st.text(max_size=8), values)
@pytest.mark.long
def test_a_field_more_is_another_question(body: dict[str, Any], name: str, value: Any) -> None:
    if name not in body:
        assert canonical_json({**body, name: value}) != canonical_json(body)


@pytest.mark.parametrize(
    ("one", "two"),
    [(True, 1), (False, 0), (None, 0), ("1", 1), ([], {}), ([1, 2], [2, 1]), ("a", "a "), (0.1, 0.2), (None, "")],
)
def test_what_only_looks_alike_is_not(one: Any, two: Any) -> None:
    assert canonical_json({"x": one}) != canonical_json({"x": two})


@pytest.mark.parametrize("text", ["0", "0.0", "-0", "-0.0", "0e5", "0.00"])
def test_every_spelling_of_zero_is_one(text: str) -> None:
    assert canonical_json(json.loads(text)) == b"0"


@pytest.mark.parametrize("value", [math.inf, math.nan, json.loads("1e999"), json.loads("[" * 800 + "]" * 800)])
def test_what_has_no_one_spelling_is_refused(value: Any) -> None:
    with pytest.raises(NotCanonical):
        canonical_json(json.loads("1e999") if value != value else nested(value))


def nested(value: Any) -> Any:
    for _ in range(2000):
        value = [value]
    return value


@given(st.lists(st.binary(max_size=6), max_size=5), st.lists(st.binary(max_size=6), max_size=5))
def test_a_fingerprint_tells_where_one_part_ends(one: list[bytes], two: list[bytes]) -> None:
    assert (fingerprint(*one) == fingerprint(*two)) == (one == two)
    assert len(fingerprint(*one)) == 32


def respelled_exactly(value: Any) -> Any:
    return json.loads(json.dumps(value))


def strict(value: Any) -> Any:
    """Comparable, with booleans unlike numbers."""
    if isinstance(value, dict):
        return {name: strict(item) for name, item in value.items()}
    if isinstance(value, list):
        return [strict(item) for item in value]
    return (isinstance(value, bool), value)
