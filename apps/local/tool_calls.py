"""Tool calls in an answer that arrives as text: read as it comes, into text and parts of calls.

The grammar of the answer has made sure of their form (grammar.py); nothing is validated here.
"""

import json
import re
import secrets

from apps.core.deltas import TokenLogprob, ToolCallDelta
from apps.local.detokenizer import PendingLogprobs, StopStrings
from apps.local.engine.port import EngineOutput
from apps.local.prompt import CALL_BEGINS

HEAD = re.compile(r'\n\{"name": ("[^"]*"), "arguments": ')


class ToolCallReader:
    """One answer's. ``calls`` counts those that have begun; ``whole``: the last one's arguments are complete."""

    def __init__(self) -> None:
        self.calls = 0
        self._text = StopStrings([CALL_BEGINS])
        self._head = ""
        self._arguments: _ArgumentsEnd | None = None
        self._logprobs = PendingLogprobs()

    @property
    def whole(self) -> bool:
        return self.calls > 0 and self._arguments is None

    def read(self, output: EngineOutput) -> tuple[str, tuple[ToolCallDelta, ...], tuple[TokenLogprob, ...]]:
        """The content and the parts of calls that have become certain, and the log probabilities of the content's
        tokens. At the last output also what was held back."""
        self._logprobs.add(output.logprobs)
        content, calls = self._feed(output.text)
        if output.finish_reason is not None:
            content += self._text.flush()
        logprobs = self._logprobs.take(content)
        if output.finish_reason is not None and not self._text.found:
            logprobs += self._logprobs.rest()
        return content, tuple(calls), logprobs

    def _feed(self, text: str) -> tuple[str, list[ToolCallDelta]]:
        if self._text.found:
            return "", self._feed_call(text)
        content = self._text.feed(text)
        return content, self._feed_call(self._text.rest) if self._text.found else []

    def _feed_call(self, text: str) -> list[ToolCallDelta]:
        parts: list[ToolCallDelta] = []
        while text:
            if self._arguments is None:
                text = self._read_head(text, parts)
                continue
            length = self._arguments.feed(text)
            arguments, text = text[:length], text[length:]
            if arguments:
                parts.append(ToolCallDelta(self.calls - 1, arguments=arguments))
            if self._arguments.found:
                self._arguments = None
        return parts

    def _read_head(self, text: str, parts: list[ToolCallDelta]) -> str:
        """Reads past the end of a call and the mark of the next, up to where arguments begin; returns the rest."""
        self._head += text
        head = HEAD.search(self._head)
        if head is None:
            return ""
        rest = self._head[head.end() :]
        parts.append(ToolCallDelta(self.calls, f"call_{secrets.token_hex(12)}", json.loads(head[1])))
        self.calls += 1
        self._head, self._arguments = "", _ArgumentsEnd()
        return rest


class _ArgumentsEnd:
    """Finds where a JSON object ends, as its text comes: what follows is the form of the call, not arguments."""

    def __init__(self) -> None:
        self.found = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, text: str) -> int:
        """How many characters of ``text`` belong to the object."""
        for index, character in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.found = True
                    return index + 1
        return len(text)
