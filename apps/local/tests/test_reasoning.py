"""Thoughts of a model are told apart from its answer, wherever its text is cut."""

from collections.abc import Sequence

import numpy as np
import pytest

from apps.core.deltas import TokenLogprob
from apps.local.engine.port import Constraint, EngineOutput
from apps.local.reasoning import ReasoningReader, ThinkingBudget, begins_thoughts
from apps.local.tests.fakes import EchoTokenizer


def read(*texts: str, begun: bool = False, tools: bool = False, finish: str = "stop") -> tuple[str, str, int]:
    reader, thoughts, answer = ReasoningReader(begun=begun, tools=tools), "", ""
    for number, text in enumerate(texts, 1):
        thought, output = reader.read(EngineOutput(text, number, finish if number == len(texts) else None))
        thoughts, answer = thoughts + thought, answer + output.text
    return thoughts, answer, reader.tokens


@pytest.mark.parametrize(
    "text", ["<think>\nA < b?\n</think>\n\nYes </think> no.", "\n<think>A < b?</think>Yes </think> no."]
)
def test_thoughts_stand_before_the_answer(text: str) -> None:
    for cut in range(len(text) + 1):
        thoughts, answer, _ = read(text[:cut], text[cut:])
        assert (thoughts.strip(), answer.lstrip("\n")) == ("A < b?", "Yes </think> no.")
    thoughts, answer, tokens = read(*text)
    assert (thoughts.strip(), answer.lstrip("\n")) == ("A < b?", "Yes </think> no.")
    # a token a character: up to the end mark
    assert tokens == text.index("</think>") + len("</think>")


@pytest.mark.parametrize("text", ["", "Hi", "<", "<thin", "<thinking> aloud", "I <think> so", "  x"])
def test_an_answer_without_thoughts_goes_through_whole(text: str) -> None:
    for cut in range(len(text) + 1):
        assert read(text[:cut], text[cut:]) == ("", text, 0)


def test_thoughts_that_the_prompt_has_begun() -> None:
    assert read("Hm", ".</thi", "nk>Yes", begun=True) == ("Hm.", "Yes", 3)


def test_a_call_ends_the_thoughts_that_it_is_made_in() -> None:
    text = "<think>Hm. <tool_call>\n{}</think>"
    for cut in range(len(text) + 1):
        assert read(text[:cut], text[cut:], tools=True)[:2] == ("Hm. ", "<tool_call>\n{}</think>")
    assert read("Hm. <tool", "_call>\n{}", begun=True, tools=True)[:2] == ("Hm. ", "<tool_call>\n{}")
    assert read(text)[:2] == ("Hm. <tool_call>\n{}", "")


def test_thoughts_that_a_limit_has_cut_are_thoughts() -> None:
    assert read("<think>Hm", ", </th", finish="length") == ("Hm, </th", "", 2)


def test_log_probabilities_are_those_of_the_answer() -> None:
    texts = ["<th", "ink>", "Hm", "</", "think>", "Yes", " no"]
    reader, kept = ReasoningReader(), []
    for number, text in enumerate(texts, 1):
        entry = TokenLogprob(text, text.encode(), -1.0)
        _, output = reader.read(EngineOutput(text, number, "stop" if number == len(texts) else None, logprobs=(entry,)))
        kept += [entry.token for entry in output.logprobs]
    assert kept == ["Yes", " no"]
    assert reader.tokens == 5


class Letters(EchoTokenizer):
    """One token a character, of a vocabulary whose rows are short."""

    vocabulary_size = 128


class Only:
    """A constraint that allows some characters, and is finished behind as many tokens."""

    def __init__(self, characters: str, most: int = 1000) -> None:
        self._row = np.zeros(Letters.vocabulary_size, np.bool_)
        self._row[[ord(character) for character in characters]] = True
        self._left = most

    @property
    def finished(self) -> bool:
        return self._left == 0

    def allowed(self, remaining: int) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
        return self._row

    def forced(self) -> Sequence[int]:
        return [ord("f")]

    def fitting(self, tokens: Sequence[int]) -> int:
        return min(1, len(tokens))

    def advance(self, token: int) -> None:
        self._left -= 1


def written(
    wanted: str, most: int, within: Constraint | None = None, *, begun: bool = False, tools: bool = False
) -> str:
    """What comes of an answer that would be ``wanted``: each of its characters, where no other must come."""
    budget, text, left = ThinkingBudget(most, Letters(), within, begun=begun, tools=tools), "", list(wanted)
    while left:
        row = budget.allowed(len(left))
        forced = [] if row.sum() > 1 else [int(row.argmax())]
        assert not forced or list(budget.forced())[:1] == forced
        token = forced[0] if forced else ord(left.pop(0))
        budget.advance(token)
        text += chr(token)
    return text


@pytest.mark.parametrize(
    ("wanted", "most", "comes"),
    [
        ("<think>abcdef", 3, "<think>abc</think>def"),
        ("\n<think>abcdef", 0, "\n<think></think>abcdef"),
        ("<think>ab</think>Yes, and more", 10, "<think>ab</think>Yes, and more"),
        ("<thinking> aloud", 0, "<thinking> aloud"),
        ("Yes <think>abc", 0, "Yes <think>abc"),
        # the model was about to end them itself
        ("<think>ab</think>Yes", 4, "<think>ab</</think>think>Yes"),
    ],
)
def test_thoughts_end_where_their_budget_does(wanted: str, most: int, comes: str) -> None:
    assert written(wanted, most) == comes


def test_a_budget_is_that_of_thoughts_which_the_prompt_has_begun_and_ends_with_a_call() -> None:
    assert written("abcdef", 3, begun=True) == "abc</think>def"
    assert written("ab<tool_call>cdefghijkl", 20, begun=True, tools=True) == "ab<tool_call>cdefghijkl"
    assert written("ab<tool_call>cdefghijkl", 20, begun=True) == "ab<tool_call>cdefghi</think>jkl"
    letters = Letters()
    assert begins_thoughts(letters, letters.encode_text("so <think>\n"))
    assert not begins_thoughts(letters, letters.encode_text("so <think>a"))


def test_a_budget_keeps_to_the_grammar_of_the_answer() -> None:
    assert written("<think>abab", 1, Only("<think>ab/")) == "<think>a</think>bab"
    # one that has no place for the mark
    assert written("<think>abab", 1, Only("think>ab")) == "<think>abab"
    budget = ThinkingBudget(1, Letters(), Only("ab", 1), begun=False, tools=False)
    assert (budget.finished, list(budget.forced()), budget.fitting([1, 2])) == (False, [ord("f")], 1)
    budget.advance(ord("a"))
    assert budget.finished
    alone = ThinkingBudget(1, Letters(), None, begun=False, tools=False)
    assert (alone.finished, list(alone.forced()), alone.fitting([1, 2])) == (False, [], 2)
