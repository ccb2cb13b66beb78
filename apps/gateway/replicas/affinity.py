"""The key of a call: calls that begin alike belong together, since a replica keeps what it has computed of prompts.

A key is the tenant, whose computed prompts no other tenant reads, and the prompt's first block: all up to the first
turn of the user. The follow-up turns of a conversation have the same; other conversations with the same instructions
have another, so that they spread.
"""

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from apps.gateway.protocol import WireCall

LONGEST = 8192


def affinity(call: WireCall) -> bytes:
    """The key of a call, by its body: a hash, which says nothing of what it was made from."""
    return blake2b(f"{call.caller.tenant}\n".encode() + _first_block(call.body)[:LONGEST], digest_size=16).digest()


def _first_block(body: Mapping[str, Any]) -> bytes:
    messages = body.get("messages")
    if not isinstance(messages, list):
        messages = body.get("input")
    if isinstance(messages, list) and messages and isinstance(messages[0], dict):
        instructions = body.get("instructions") or body.get("system") or ""
        return json.dumps([instructions, *_to_first_user(messages)], ensure_ascii=True).encode()
    prompt = body.get("prompt", messages)
    return json.dumps(prompt if not isinstance(prompt, str) else prompt[:LONGEST]).encode()


def _to_first_user(messages: list[Any]) -> list[Any]:
    for count, message in enumerate(messages, 1):
        if isinstance(message, dict) and message.get("role") == "user":
            return messages[:count]
    return messages[:1]
