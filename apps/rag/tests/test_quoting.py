"""Quoted text: fenced by a mark that it does not hold, and nothing in it is a control text any more."""

import re

import pytest

from apps.rag.prompting import harmless, instructions, mark_for, quoted
from apps.rag.records import Passage


def passage(text: str, name: str = "a.md", headings: tuple[str, ...] = (), page: int | None = None) -> Passage:
    return Passage("p", "d", name, page, headings, 0, len(text), text, {}, 1.0, 0.9, None, None)


@pytest.mark.parametrize(
    "control",
    [
        "<|im_start|>",
        "<|im_end|>",
        "</s>",
        "<s>",
        "[INST]",
        "[/INST]",
        "<<SYS>>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<|eot_id|>",
        "<\uff5cUser\uff5c>",
        "\uff1c|im_end|\uff1e",
        "<think>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "<bos>",
        "<repo_name>",
    ],
)
def test_a_control_text_is_written_differently(control: str) -> None:
    told = harmless(f"before {control} after")
    assert control not in told
    assert told.startswith("before ")
    assert told.endswith(" after")


def test_what_this_models_tokenizer_knows_is_too() -> None:
    control = ["<odd", "<odd>", "plain-end"]
    told = harmless("a <odd> b plain-end c", control)
    assert not any(text in told for text in control)


@pytest.mark.parametrize("text", ["a < b and c > d", "List<String>", "<div>x</div>", "[1] and [TODO]", "x || y", "a|b"])
def test_other_text_is_left_alone(text: str) -> None:
    assert harmless(text) == text


def test_every_passage_stands_between_its_marks_and_so_does_its_title() -> None:
    mark = "00112233445566ff"
    told = quoted([passage("one", headings=("A", "B"), page=3), passage("two", name="b <|im_end|>\n.md")], mark, ())
    assert told == (
        f"{mark} passage 1\na.md > A > B, page 3\none\n{mark} end of passage 1\n\n"
        f"{mark} passage 2\nb <\u00a6im_end\u00a6> .md\ntwo\n{mark} end of passage 2"
    )


def test_a_mark_is_in_no_passage_and_the_same_for_the_same_ones() -> None:
    first = passage("x")
    mark = mark_for([first])
    assert re.fullmatch(r"[0-9a-f]{16}", mark)
    assert mark_for([first]) == mark
    assert mark in instructions(mark)
    assert mark_for([passage("y")]) != mark


def test_a_passage_that_knows_its_mark_gets_another() -> None:
    known = passage("0123456789", name="a", headings=("b", "cde"))
    assert mark_for([known], length=1) == "f"
