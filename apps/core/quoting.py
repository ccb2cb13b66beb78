"""A name that a caller sent, as an error may repeat it: short, and without what looks like a key in the wrong place."""

import re

LONGEST = 100
REDACTED = "[redacted]"
KEY_PREFIXES = ("ga_", "sk-", "sk_", "pk-", "rk-", "gsk_", "xai-", "ghp_", "hf_", "AIza")
KEY = re.compile(r"\b(?:" + "|".join(map(re.escape, KEY_PREFIXES)) + r")[\w-]{8,}", re.IGNORECASE)


def quoted(name: str) -> str:
    """The key goes before the name is cut, or a piece of one would be left at its end."""
    return KEY.sub(REDACTED, name)[:LONGEST]
