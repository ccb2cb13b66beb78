"""Keeps the service's secrets out of what models are told and what runs are on record for.

A last line: no tool is given a secret to tell. But a server of tools has a key of its own, and may say it aloud.
"""

from collections.abc import Iterable

SHORTEST = 8
MARK = "[secret]"


class Redaction:
    """Call it with a text. Secrets shorter than eight characters would be found in innocent words: they are left."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted({secret for secret in secrets if len(secret) >= SHORTEST}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, MARK)
        return text
