"""Usage as CSV (RFC 4180), safe to open in a spreadsheet: no cell of it is taken for a formula."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """With a line of names first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[name]) for name in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Numbers are ours; texts may be a caller's."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.9f}"
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
