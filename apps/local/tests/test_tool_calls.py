import pytest

from apps.core.deltas import TokenLogprob, ToolCallDelta
from apps.local.engine.port import EngineOutput
from apps.local.engine_exchange import ToolCallReader

ARGUMENTS = ('{"a": "}\\n</tool_call>", "b": {"c": 1}}', "{}")
CALLS = "".join(
    f'<tool_call>\n{{"name": "f{i}", "arguments": {arguments}}}\n</tool_call>\n'
    for i, arguments in enumerate(ARGUMENTS)
).rstrip("\n")


def read(*texts: str, finish: str = "stop") -> tuple[str, dict[int, tuple[str, str, str]], list[ToolCallDelta]]:
    reader, content = ToolCallReader(), ""
    calls: dict[int, tuple[str, str, str]] = {}
    everything: list[ToolCallDelta] = []
    for number, text in enumerate(texts, 1):
        more, pieces, _ = reader.read(EngineOutput(text, number, finish if number == len(texts) else None))
        content += more
        everything += pieces
        for piece in pieces:
            old = calls.get(piece.index, ("", "", ""))
            calls[piece.index] = (old[0] + (piece.id or ""), old[1] + (piece.name or ""), old[2] + piece.arguments)
    return content, calls, everything


@pytest.mark.parametrize("lead", ["", "I will < add.\n"])
def test_calls_are_read_the_same_wherever_the_text_is_cut(lead: str) -> None:
    text = lead + CALLS
    for cut in range(len(text) + 1):
        content, calls, _ = read(text[:cut], text[cut:])
        assert content == lead
        assert [(name, arguments) for _, name, arguments in calls.values()] == [
            ("f0", ARGUMENTS[0]),
            ("f1", ARGUMENTS[1]),
        ]
    content, calls, pieces = read(*text)
    assert content == lead and [arguments for _, _, arguments in calls.values()] == list(ARGUMENTS)
    assert len({call_id for call_id, _, _ in calls.values()}) == 2
    # the id and the name come first and once, then the arguments as they grow
    firsts = [piece for piece in pieces if piece.name]
    assert [(piece.index, piece.arguments) for piece in firsts] == [(0, ""), (1, "")]
    assert len(pieces) > 20


def test_text_without_a_call_goes_through_with_its_last_character() -> None:
    assert read("a <tool", " b", "ox> <tool_")[0] == "a <tool box> <tool_"


def test_a_call_that_was_cut_keeps_what_there_is_of_it() -> None:
    _, calls, _ = read('<tool_call>\n{"name": "f", "arguments": {"a": {"b": 1}', finish="length")
    assert calls[0][1:] == ("f", '{"a": {"b": 1}')


def test_log_probabilities_are_those_of_the_content_only() -> None:
    def piece(text: str, finish: str | None = None) -> EngineOutput:
        return EngineOutput(text, 1, finish, logprobs=(TokenLogprob(text, text.encode(), -1.0),))

    reader = ToolCallReader()
    texts = ["Well", " <", "tool", "_call>", '\n{"name": "f", "arguments": ', "{}", "}\n</tool_call>"]
    kept = [entry.token for text in texts for entry in reader.read(piece(text))[2]]
    assert kept == ["Well", " <"]
    reader = ToolCallReader()
    kept = [e.token for t, f in (("a", None), (" <tool", None), ("", "stop")) for e in reader.read(piece(t, f))[2]]
    assert kept == ["a", " <tool", ""]


@pytest.mark.parametrize("behind", range(len('}\n</tool_call>\n<tool_call>\n{"name": "f", "argu')))
@pytest.mark.parametrize("width", [1, 7, 1000])
def test_a_limit_behind_the_arguments_leaves_them_whole(behind: int, width: int) -> None:
    arguments = '{"city": "Paris}\\"}", "days": [{"n": 1}]}'
    whole = f'<tool_call>\n{{"name": "f", "arguments": {arguments}'
    text = whole + '}\n</tool_call>\n<tool_call>\n{"name": "f", "argu'[:behind]
    reader, found = ToolCallReader(), ""
    for start in range(0, len(text), width):
        part = text[start : start + width]
        _, calls, _ = reader.read(EngineOutput(part, 1, "length" if start + width >= len(text) else None))
        found += "".join(call.arguments for call in calls)
    assert found == arguments
    assert reader.whole


@pytest.mark.parametrize("length", range(1, len("<tool_call>")))
def test_the_beginning_of_a_mark_is_text_only_where_the_answer_may_be_text(length: int) -> None:
    entry = TokenLogprob("<", b"<", -1.0)
    cut = EngineOutput("<tool_call>"[:length], 1, "length", logprobs=(entry,))
    assert ToolCallReader().read(cut) == (cut.text, (), (entry,))
    assert ToolCallReader(required=True).read(cut) == ("", (), ())
