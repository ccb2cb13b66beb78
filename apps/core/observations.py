"""Numbers that are read when somebody asks for them: what a part of the service tells of itself at a scrape."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Observation:
    """One number of a metric, as of now; it has to be cheap to find out.

    ``name`` follows Prometheus' rules: ``genai_`` and the part, base units (seconds, bytes), ``_total`` at the end of
    what only grows (kind ``counter``) and of nothing else. ``labels`` are of a bounded set: names from the
    configuration or the code, never a caller's text. One name has one help text, one kind and one set of labels.
    """

    name: str
    help: str
    value: float
    kind: Literal["gauge", "counter"] = "gauge"
    labels: Mapping[str, str] = field(default_factory=dict)


class Observed(Protocol):
    """A part with numbers of its own. It counts in plain attributes, and knows of no metrics library."""

    def observations(self) -> Iterable[Observation]:
        """Called on the event loop at each scrape: reads attributes, does not wait."""
