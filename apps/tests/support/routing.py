"""Routing files for tests: providers that lead to mocks, and names that lead to the mock's behaviours."""

from pathlib import Path
from typing import Any

import yaml

from apps.models.event_stream import EventStreamDecoder
from apps.tests.marks import PROVIDERS_VARIABLE

HEALTHY = "gpt-4o-mini"
TIMEOUTS = {"connect": 10, "first_token": 2, "between_tokens": 2, "total": 8}
ASK = {"messages": [{"role": "user", "content": "hi"}]}


def provider(base_url: str, **more: Any) -> dict[str, Any]:
    return {"base_url": base_url, "timeouts": TIMEOUTS, "api_key_env": PROVIDERS_VARIABLE, **more}


def name(target: str, provider: str = "main", **more: Any) -> dict[str, Any]:
    return {"targets": [{"provider": provider, "model": target}], **more}


def routing_file(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def events(data: bytes) -> list[bytes]:
    """The data of every event."""
    return [event.data for event in EventStreamDecoder().feed(data)]
