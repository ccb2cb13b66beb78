"""What a model thinks: `<think>` at the beginning of an answer, up to `</think>`; told apart from it, and bounded."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.local.detokenizer import Detokenizer, PendingLogprobs, StopStrings
from apps.local.engine.port import Constraint, EngineOutput
from apps.local.prompt import CALL_BEGINS
from apps.local.tokenizer import ChatTokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

THOUGHT_BEGINS, THOUGHT_ENDS = "<think>", "</think>"


# behind its mark a template may begin a line
PROMPT_TAIL = 8


def begins_thoughts(tokenizer: ChatTokenizer, prompt: Sequence[int]) -> bool:
    """Whether the prompt's end has opened the thoughts already."""
    return tokenizer.decode(prompt[-PROMPT_TAIL:]).rstrip().endswith(THOUGHT_BEGINS)


def _ends(tools: bool) -> list[str]:
    return [THOUGHT_ENDS, CALL_BEGINS] if tools else [THOUGHT_ENDS]


class ReasoningReader:
    """One answer's. ``tokens`` counts those of the thoughts, the marks among them.

    ``begun``: the prompt's end has opened the thoughts already. ``tools``: a call ends them too, since the grammar
    takes it for one wherever it begins.
    """

    def __init__(self, *, begun: bool = False, tools: bool = False) -> None:
        self.tokens = 0
        self._ends = _ends(tools)
        self._end: StopStrings | None = StopStrings(self._ends) if begun else None
        self._undecided: str | None = None if begun else ""
        self._logprobs = PendingLogprobs()
        self._tells_logprobs = False

    def read(self, output: EngineOutput) -> tuple[str, EngineOutput]:
        """The thoughts that have become certain, and the output without them and without their log probabilities."""
        last = output.finish_reason is not None
        self._tells_logprobs = self._tells_logprobs or bool(output.logprobs)
        if self._end is None and self._undecided is None and not (last or self._tells_logprobs):
            # an answer whose thoughts are over
            return "", output
        self._logprobs.add(output.logprobs)
        thoughts, text, skipped = self._split(output.text, last)
        if self._end is not None or thoughts or skipped:
            self.tokens = output.completion_tokens
        self._logprobs.take(skipped)
        logprobs = self._logprobs.take(text)
        if last:
            logprobs += self._logprobs.rest() if self._end is None else ()
        return thoughts, replace(output, text=text, logprobs=logprobs)

    def _split(self, text: str, last: bool) -> tuple[str, str, str]:
        """Thoughts, answer, and all of the text up to where the answer begins."""
        whole = text
        if self._undecided is not None:
            whole = text = self._undecided + text
            beginning = text.lstrip()
            if (
                not last
                and THOUGHT_BEGINS.startswith(beginning[: len(THOUGHT_BEGINS)])
                and len(beginning) < len(THOUGHT_BEGINS)
            ):
                self._undecided = text
                return "", "", ""
            self._undecided = None
            if beginning.startswith(THOUGHT_BEGINS):
                self._end, text = StopStrings(self._ends), beginning[len(THOUGHT_BEGINS) :].removeprefix("\n")
        if self._end is None:
            return "", text, ""
        thoughts = self._end.feed(text)
        if self._end.found:
            call = self._end.found == CALL_BEGINS
            rest = CALL_BEGINS + self._end.rest if call else self._end.rest.lstrip("\n")
            self._end = None
            # a mark may have begun in the text before
            return thoughts, rest, whole[: max(0, len(whole) - len(rest))]
        if last:
            thoughts += self._end.flush()
        return thoughts, "", whole


class ThinkingBudget:
    """Implements Constraint: after ``most`` tokens of thoughts their end mark comes, and no other token.

    ``within`` is what the answer is held to besides. ``begun`` and ``tools`` are those of `ReasoningReader`.
    """

    def __init__(
        self, most: int, tokenizer: ChatTokenizer, within: Constraint | None, *, begun: bool, tools: bool
    ) -> None:
        self._most = most
        self._within = within
        self._detokenizer = Detokenizer(tokenizer.decode)
        self._any = np.ones(tokenizer.vocabulary_size, np.bool_)
        self._mark = tokenizer.encode_text(THOUGHT_ENDS)
        self._stops = StopStrings(_ends(tools))
        self._beginning = ""
        self._thinking = begun
        self._over = False
        self._count = 0

    @property
    def finished(self) -> bool:
        return self._within is not None and self._within.finished

    def allowed(self, remaining: int) -> "NDArray[Any]":
        allowed = self._any if self._within is None else self._within.allowed(remaining)
        mark = self._rest_of_mark()
        if not mark:
            return allowed
        if not allowed[mark[0]]:
            # a grammar that has no place for the mark has none for the end of thoughts
            self._over = True
            return allowed
        only = np.zeros_like(allowed)
        only[mark[0]] = True
        return only

    def forced(self) -> Sequence[int]:
        return self._rest_of_mark() or ([] if self._within is None else self._within.forced())

    def fitting(self, tokens: Sequence[int]) -> int:
        return len(tokens) if self._within is None else self._within.fitting(tokens)

    def advance(self, token: int) -> None:
        if self._within is not None:
            self._within.advance(token)
        if self._over:
            return
        text = self._detokenizer.feed(token)
        if self._thinking:
            self._count += 1
            self._stops.feed(text)
            self._over = self._stops.found is not None or self._count >= self._most + len(self._mark)
            return
        self._beginning += text
        beginning = self._beginning.lstrip()
        self._thinking = beginning.startswith(THOUGHT_BEGINS)
        self._over = not THOUGHT_BEGINS.startswith(beginning[: len(THOUGHT_BEGINS)])

    def _rest_of_mark(self) -> list[int]:
        """What is left to write of the end mark, once the thoughts are as long as they may be."""
        if self._over or not self._thinking or self._count < self._most:
            return []
        return self._mark[self._count - self._most :]
