"""Thoughts of a model are told apart from its answer, wherever its text is cut."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from apps.core.deltas import TokenLogprob
from apps.local.engine.decoding import Sampler
from apps.local.engine.port import EngineOutput, Sampling
from apps.local.engine_exchange import ReasoningReader, ThinkingBudget, begins_thoughts
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


class Only:
    """A constraint that allows one token."""

    finished = False

    def __init__(self, token: int) -> None:
        self._token = token

    def allowed(self, remaining: int) -> NDArray[np.bool_]:
        row = np.zeros(128, np.bool_)
        row[self._token] = True
        return row

    def forced(self) -> Sequence[int]:
        return []

    def fitting(self, tokens: Sequence[int]) -> int:
        return len(tokens)

    def advance(self, token: int) -> None:
        assert token == self._token


def written(wanted: str, most: int, *, begun: bool = False, tools: bool = False) -> str:
    """What comes of an answer that would be ``wanted``: each of its characters, where no other is due."""
    budget, text, left = ThinkingBudget(most, EchoTokenizer(), begun=begun, tools=tools), "", list(wanted)
    while left:
        due = budget.due()
        token = ord(left.pop(0)) if due is None else due
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
    letters = EchoTokenizer()
    assert begins_thoughts(letters, letters.encode_text("so <think>\n"))
    assert not begins_thoughts(letters, letters.encode_text("so <think>a"))


def test_a_grammar_without_a_place_for_the_mark_ends_no_thoughts() -> None:
    budget, letters = ThinkingBudget(1, EchoTokenizer(), begun=True, tools=False), EchoTokenizer()
    budget.advance(ord("a"))
    assert budget.due() == ord("<")
    budget.advance(ord("b"))
    assert budget.due() is None
    # nor does the sampler hold an answer to a token that may not come
    row = np.zeros(128, np.float32)
    sampling = Sampling(0, 1, 9, thinking=ThinkingBudget(0, letters, begun=True, tools=False))
    assert Sampler(sampling).choose(row) == ord("<")
    assert Sampler(replace(sampling, constraint=Only(ord("a")))).choose(row) == ord("a")


@pytest.mark.parametrize("field", [{"allowed_tokens": frozenset({ord("a")})}, {"bad_sequences": ((ord("<"),),)}])
def test_a_budget_gives_up_where_the_caller_leaves_out_the_mark(field: dict[str, Any]) -> None:
    budget = ThinkingBudget(0, EchoTokenizer(), begun=True, tools=False)
    row = np.zeros(128, np.float32)
    row[ord("a")] = 1
    assert Sampler(Sampling(0, 1, 9, thinking=budget, **field)).choose(row) == ord("a")
    assert budget.due() is None
