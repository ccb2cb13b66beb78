"""The table of errors in docs/api.md is the error tree's: every code with its status, and no other."""

import re
from pathlib import Path

from apps.core.errors import error_classes

PAGE = Path(__file__).parents[3] / "docs" / "api.md"
ROW = re.compile(r"^\| `([A-Z_]+)` \| (\d{3}) \|", re.MULTILINE)


def test_the_page_lists_every_code_with_its_status_and_no_other() -> None:
    listed = {code: int(status) for code, status in ROW.findall(PAGE.read_text(encoding="utf-8"))}
    assert listed == {kind.code: kind.status for kind in error_classes()}
