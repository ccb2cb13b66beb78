"""Tool calls in an answer that arrives as text: read as it comes, into text and pieces of calls.

The grammar of the answer has made sure of their form (answer_grammar.py); nothing is validated here.
"""

import json
import re
import secrets

from apps.core.deltas import TokenLogprob, ToolCallDelta
from apps.local.detokenizer import PendingLogprobs, StopStrings
from apps.local.engine.port import EngineOutput
from apps.local.prompt import CALL_BEGINS, CALL_ENDS

HEAD = re.compile(r'\n\{"name": ("[^"]*"), "arguments": ')
# JSON writes a newline as an escape, so that this cannot stand inside of the arguments
TAIL = f"}}\n{CALL_ENDS}"


class ToolCallReader:
    """One answer's. ``calls`` counts those that have begun."""

    def __init__(self) -> None:
        self.calls = 0
        self._text = StopStrings([CALL_BEGINS])
        self._head = ""
        self._arguments: StopStrings | None = None
        self._logprobs = PendingLogprobs()

    def read(self, output: EngineOutput) -> tuple[str, tuple[ToolCallDelta, ...], tuple[TokenLogprob, ...]]:
        """The content and the pieces of calls that have become certain, and the log probabilities of the content's
        tokens. At the last piece also what was held back, also of a call that was cut."""
        self._logprobs.add(output.logprobs)
        content, calls = self._feed(output.text)
        if output.finish_reason is not None:
            content, calls = content + self._text.flush(), calls + self._held_arguments()
        logprobs = self._logprobs.take(content)
        if output.finish_reason is not None and not self._text.found:
            logprobs += self._logprobs.rest()
        return content, tuple(calls), logprobs

    def _feed(self, text: str) -> tuple[str, list[ToolCallDelta]]:
        if self._text.found:
            return "", self._feed_call(text)
        content = self._text.feed(text)
        return content, self._feed_call(self._text.rest) if self._text.found else []

    def _held_arguments(self) -> list[ToolCallDelta]:
        held = self._arguments.flush() if self._arguments else ""
        return [ToolCallDelta(self.calls - 1, arguments=held)] if held else []

    def _feed_call(self, text: str) -> list[ToolCallDelta]:
        pieces: list[ToolCallDelta] = []
        while text:
            if self._arguments is None:
                text = self._read_head(text, pieces)
                continue
            arguments = self._arguments.feed(text)
            if arguments:
                pieces.append(ToolCallDelta(self.calls - 1, arguments=arguments))
            if not self._arguments.found:
                break
            text, self._arguments = self._arguments.rest, None
        return pieces

    def _read_head(self, text: str, pieces: list[ToolCallDelta]) -> str:
        """Reads up to where the arguments begin, also past the mark of a further call; returns the text behind."""
        self._head += text
        head = HEAD.search(self._head)
        if head is None:
            return ""
        rest = self._head[head.end() :]
        pieces.append(ToolCallDelta(self.calls, f"call_{secrets.token_hex(12)}", json.loads(head[1])))
        self.calls += 1
        self._head, self._arguments = "", StopStrings([TAIL])
        return rest
