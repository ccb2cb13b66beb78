"""A passage before it has a vector: what the splitter makes and the index stores. Imports nothing."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Chunk:
    """``start`` and ``end`` are its span in the document's text."""

    text: str
    start: int
    end: int
    page: int | None
    headings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> "Chunk":
        return cls(**{**given, "headings": tuple(given["headings"])})
