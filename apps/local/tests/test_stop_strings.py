import itertools
import random

import pytest

from apps.local.detokenizer import StopStrings


def run(text: str, stops: list[str], cuts: list[int]) -> tuple[str, str | None]:
    matcher = StopStrings(stops)
    edges = [0, *sorted(cuts), len(text)]
    out = "".join(matcher.feed(text[a:b]) for a, b in itertools.pairwise(edges))
    return out + matcher.flush(), matcher.found


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two three", ["two"], ("one ", "two")),
        ("one two three", ["four"], ("one two three", None)),
        ("aaab", ["aab"], ("a", "aab")),
        ("xx STOP", ["STOP", "xx"], ("", "xx")),
        ("abc", [], ("abc", None)),
        ("abc", [""], ("abc", None)),
        ("end\n\n", ["\n\n"], ("end", "\n\n")),
        ("almost STO", ["STOP"], ("almost STO", None)),
        ("🎉🎊", ["🎊"], ("🎉", "🎊")),
    ],
)
def test_the_text_ends_before_the_first_stop_string_however_it_is_cut(
    text: str, stops: list[str], expected: tuple[str, str | None]
) -> None:
    rng = random.Random(1)
    for _ in range(50):
        cuts = [rng.randint(0, len(text)) for _ in range(rng.randint(0, 5))]
        assert run(text, stops, cuts) == expected


def test_text_that_cannot_become_a_stop_string_is_not_held_back() -> None:
    matcher = StopStrings(["STOP"])
    assert matcher.feed("hello S") == "hello "
    assert matcher.feed("un") == "Sun"


def test_nothing_goes_out_after_a_stop_string() -> None:
    matcher = StopStrings(["."])
    assert (matcher.feed("a.b"), matcher.feed("c"), matcher.flush()) == ("a", "", "")
