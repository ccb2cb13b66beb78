"""Separates what a model thinks from what it answers: `<think>` at the beginning of an answer, up to `</think>`."""

from dataclasses import replace

from apps.local.detokenizer import PendingLogprobs, StopStrings
from apps.local.engine.port import EngineOutput

BEGINS, ENDS = "<think>", "</think>"


class ReasoningReader:
    """One answer's. ``tokens`` counts those of the thoughts, the marks among them.

    ``begun``: the prompt's end has opened the thoughts already.
    """

    def __init__(self, *, begun: bool = False) -> None:
        self.tokens = 0
        self._end: StopStrings | None = StopStrings([ENDS]) if begun else None
        self._undecided: str | None = None if begun else ""
        self._logprobs = PendingLogprobs()

    def read(self, output: EngineOutput) -> tuple[str, EngineOutput]:
        """The thoughts that have become certain, and the output without them and without their log probabilities."""
        self._logprobs.add(output.logprobs)
        last = output.finish_reason is not None
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
            if not last and BEGINS.startswith(beginning[: len(BEGINS)]) and len(beginning) < len(BEGINS):
                self._undecided = text
                return "", "", ""
            self._undecided = None
            if beginning.startswith(BEGINS):
                self._end, text = StopStrings([ENDS]), beginning[len(BEGINS) :].removeprefix("\n")
        if self._end is None:
            return "", text, ""
        thoughts = self._end.feed(text)
        if self._end.found:
            rest = self._end.rest.lstrip("\n")
            self._end = None
            return thoughts, rest, whole[: len(whole) - len(rest)]
        if last:
            thoughts += self._end.flush()
        return thoughts, "", whole
