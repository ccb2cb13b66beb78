"""An emoji's halves come together again, however its deltas were cut; what comes out always encodes."""

from hypothesis import given
from hypothesis import strategies as st

from apps.models.event_stream import SurrogateJoiner

LEAD, TRAIL = "\ud83d", "\ude00"


def joined(*texts: str) -> str:
    joiner = SurrogateJoiner()
    return "".join([*map(joiner.join, texts), joiner.flush()])


def test_halves_in_two_deltas_are_one_character() -> None:
    assert joined("a" + LEAD, TRAIL + "b") == "a😀b"


def test_halves_with_an_empty_delta_between_are_one_character() -> None:
    assert joined(LEAD, "", TRAIL) == "😀"


def test_halves_in_one_delta_are_one_character() -> None:
    assert joined(LEAD + TRAIL) == "😀"


def test_a_leading_half_is_held_back_until_it_is_known() -> None:
    joiner = SurrogateJoiner()
    assert joiner.join("a" + LEAD) == "a"
    assert joiner.join("b") == "\ufffdb"


def test_a_half_that_stays_alone_is_the_replacement_character() -> None:
    assert joined(LEAD) == "\ufffd"
    assert joined(TRAIL) == "\ufffd"
    assert joined(TRAIL + LEAD) == "\ufffd\ufffd"


@given(st.text(), st.randoms(use_true_random=False))
def test_text_cut_anywhere_in_its_utf16_comes_out_unchanged(text: str, random: object) -> None:
    units = text.encode("utf-16-le")
    halves = [units[i : i + 2].decode("utf-16-le", "surrogatepass") for i in range(0, len(units), 2)]
    deltas = [""]
    for half in halves:
        if random.random() < 0.5:  # type: ignore[attr-defined]
            deltas.append("")
        deltas[-1] += half
    assert joined(*deltas) == text


@given(st.lists(st.text(st.characters(exclude_categories=())), max_size=5))
def test_whatever_comes_in_what_comes_out_is_unicode(texts: list[str]) -> None:
    joined(*texts).encode()
