"""A script for ScriptedModel: a model that does whatever it is told, by anybody who stands outside of quoted text.

It reads a conversation as a tokenizer would: the texts that end a turn end it, wherever they come from. It honours the
marks that the system's standing has announced, and forgets what stands between two of them. Everything else it obeys.
For tests and demonstrations of prompts that hold text of strangers.
"""

import re
from collections.abc import Sequence

from apps.core.deltas import Delta, Usage
from apps.core.messages import ChatRequest
from apps.models.scripted import Step

TURN = re.compile(r"<\|im_start\|>(\w+)\n|<\|(system|user|assistant)\|>\n|\[INST\]|<<SYS>>\n|<start_of_turn>(\w+)\n")
END = re.compile(r"<\|im_end\|>|</s>|<\|endoftext\|>|\[/INST\]|<</SYS>>|<end_of_turn>|<\|end\|>")
MARK = re.compile(r"with the mark ([0-9a-f]{16})\b")
ORDER = re.compile(r"\bSAY ([A-Z0-9-]+)")


def obedient(request: ChatRequest) -> Sequence[Step]:
    """Says what it was ordered to say; where nobody ordered anything, that it has read."""
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
        # what follows an end of turn belongs to nobody, and is obeyed all the same
        turns += [(role, part) for part in END.split(body)]
    return turns
