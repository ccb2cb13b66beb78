"""Files as a parsing process reads them: their passages, and their text."""

from pathlib import Path
from typing import Any

from apps.rag.parsing.sandbox import Sandbox


async def read(sandbox: Sandbox, tmp_path: Path, name: str, content: bytes) -> tuple[list[Any], dict[str, Any]]:
    path = tmp_path / "upload"
    path.write_bytes(content)
    events: list[dict[str, Any]] = []
    done = await sandbox.parse(path, name, events.append)
    return [event["chunk"] for event in events if "chunk" in event], done


async def text_of(sandbox: Sandbox, tmp_path: Path, name: str, content: bytes) -> str:
    chunks, _ = await read(sandbox, tmp_path, name, content)
    return "\n\n".join(chunk["text"] for chunk in chunks)
