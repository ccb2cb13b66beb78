"""Thoughts of a model are told apart from its answer, wherever its text is cut."""

import pytest

from apps.core.deltas import TokenLogprob
from apps.local.engine.port import EngineOutput
from apps.local.engine_exchange import ReasoningReader


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
