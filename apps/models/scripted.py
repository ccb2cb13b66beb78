"""A deterministic ChatModel that follows a script: for tests, demonstrations and evaluations, without a model.

It is honest about the port: it waits where the script says so, fails where it says so, and ends its work when its
stream is closed.

A script for ScriptedModel: a model that follows every instruction outside of quoted text.

It reads a conversation as a tokenizer would: the texts that end a turn end it, wherever they come from. It honours the
marks that the system's standing has announced, and forgets what stands between two of them. Everything else it obeys.
For tests and demonstrations of prompts that hold text of strangers.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Sequence

from apps.core.calls import Usage
from apps.core.deltas import Delta, ToolCallDelta
from apps.core.messages import ChatRequest
from apps.core.ports import Readiness, State

Step = Delta | float | Exception
Script = Callable[[ChatRequest], Sequence[Step]]


class ScriptedModel:
    """A step is a delta to yield, seconds to wait, or an error to raise. ``open`` counts running streams."""

    def __init__(self, script: Script, *, name: str = "scripted", state: State = "ready") -> None:
        self._script = script
        self._readiness = Readiness(name, state, "scripted")
        self.open = 0
        self.requests: list[ChatRequest] = []

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        self.open += 1
        try:
            for step in self._script(request):
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, Delta):
                    yield step
                else:
                    await asyncio.sleep(step)
        finally:
            self.open -= 1

    def revision(self, request: ChatRequest) -> str:
        return self._readiness.name

    def readiness(self) -> Readiness:
        return self._readiness

    async def start(self) -> None:
        """Nothing to begin."""

    async def aclose(self) -> None:
        """Nothing to end."""


def saying(*texts: str, finish_reason: str = "stop") -> Script:
    """The script of an answer in these deltas."""
    deltas = [Delta(text, model="scripted") for text in texts]
    return lambda request: [*deltas, Delta(finish_reason=finish_reason, model="scripted")]


def calling(*calls: tuple[str, object], text: str = "", usage: Usage | None = None) -> Script:
    """The script of an answer that asks for these tools at once: a name and its arguments each.

    Arguments that are text are sent as they are, so that they may be no JSON; ids are made of turn and place.
    """

    def script(request: ChatRequest) -> list[Step]:
        turn = _turn(request)
        pieces = tuple(
            ToolCallDelta(i, f"call_{turn}_{i}", name, given if isinstance(given, str) else json.dumps(given))
            for i, (name, given) in enumerate(calls)
        )
        steps: list[Step] = [Delta(text, model="scripted")] if text else []
        return [*steps, Delta(tool_calls=pieces), Delta(finish_reason="tool_calls", model="scripted", usage=usage)]

    return script


def in_turns(*scripts: Script) -> Script:
    """One script for each answer of a conversation, the last one for all further ones.

    The turn is counted from the conversation itself, so that any number of conversations may run at once.
    """
    return lambda request: scripts[min(_turn(request), len(scripts) - 1)](request)


def _turn(request: ChatRequest) -> int:
    """How many answers stand behind the last question."""
    roles = [message.role for message in request.messages]
    last_question = max((i for i, role in enumerate(roles) if role == "user"), default=0)
    return roles[last_question:].count("assistant")


TURN = re.compile(r"<\|im_start\|>(\w+)\n|<\|(system|user|assistant)\|>\n|\[INST\]|<<SYS>>\n|<start_of_turn>(\w+)\n")
END = re.compile(r"<\|im_end\|>|</s>|<\|endoftext\|>|\[/INST\]|<</SYS>>|<end_of_turn>|<\|end\|>")
MARK = re.compile(r"with the mark ([0-9a-f]{16})\b")
ORDER = re.compile(r"\bSAY ([A-Z0-9-]+)")


def obedient(request: ChatRequest) -> Sequence[Step]:
    """Answers by a script; without one, that it has read the prompt."""
    orders = orders_in(request)
    text = " ".join(orders) if orders else "I have read it."
    return [Delta(text, model="obedient"), Delta(finish_reason="stop", usage=Usage(1, 1), model="obedient")]


def orders_in(request: ChatRequest) -> list[str]:
    """The orders that stand where an obedient model obeys."""
    written = "".join(f"<|im_start|>{message.role}\n{message.content}<|im_end|>\n" for message in request.messages)
    turns = _turns(written)
    marks = {mark for role, text in turns if role == "system" for mark in MARK.findall(text)}
    orders: list[str] = []
    for _, text in turns:
        for mark in marks:
            text = re.sub(rf"^{mark} passage \d+$.*?^{mark} end of passage \d+$", "", text, flags=re.M | re.S)
        orders += ORDER.findall(text)
    return orders


def _turns(written: str) -> list[tuple[str, str]]:
    """Roles and texts, cut wherever a control text stands: a forged turn is as good as a true one here."""
    turns: list[tuple[str, str]] = []
    starts = [*TURN.finditer(written)]
    for found, following in zip(starts, [*starts[1:], None], strict=True):
        body = written[found.end() : following.start() if following else None]
        role = next((group for group in found.groups() if group), "system" if "SYS" in found[0] else "user")
        # what follows an end of turn has no role, and is obeyed all the same
        turns += [(role, part) for part in END.split(body)]
    return turns
