"""The second line of defence of the log: what looks like a key, or is one that we hold, is not written.

The first one is that they are not logged. It knows texts, not their meaning: a key of an unknown kind passes.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping

from dotenv import dotenv_values
from pydantic import SecretStr

from apps.core.errors import KEY, REDACTED
from apps.core.settings import Settings

SHORTEST = 8


SECRET_NAMES = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|HEADERS)$")


FORMS = re.compile(
    r"(?P<url>://[^/\s:@]*:)[^/\s@]+(?=@)"
    r"|(?P<scheme>\b(?:bearer|basic)\s+)[^\s\"',;\\]+"
    r"|(?P<field>\b(?:authorization|x-api-key|api[-_]key)[\"'\\]*\s*[:=]\s*[\"'\\]*)"
    r"(?:(?:bearer|basic)\s+)?[^\s\"',;\\]+"
    r"|" + KEY.pattern,
    re.IGNORECASE,
)


CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Redactor:
    """Replaces the ``secrets``, as they are and as JSON writes them, and everything of the usual forms of keys."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {form for secret in secrets if len(secret) >= SHORTEST for form in (secret, json.dumps(secret)[1:-1])}
        # the longest first: one may begin like another
        self._secrets = re.compile("|".join(map(re.escape, sorted(known, key=len, reverse=True)))) if known else None

    def __call__(self, text: str) -> str:
        if self._secrets is not None:
            text = self._secrets.sub(REDACTED, text)
        return FORMS.sub(_without_value, text)


def secrets_of(settings: Settings) -> Iterator[str]:
    """Every secret among the settings, and whatever the environment or `.env` has under a name of a secret."""
    for value in (getattr(settings, name) for name in type(settings).model_fields):
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
    env_file = settings.model_config.get("env_file")
    written: Mapping[str, str | None] = dotenv_values(env_file) if isinstance(env_file, str) else {}
    for name, secret in (*written.items(), *os.environ.items()):
        if secret and SECRET_NAMES.search(name.upper()):
            yield secret


def one_line(text: str) -> str:
    """The text without anything that could end a line or talk to a terminal: such characters are written out."""
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def _without_value(found: re.Match[str]) -> str:
    return (found["url"] or found["scheme"] or found["field"] or "") + REDACTED
