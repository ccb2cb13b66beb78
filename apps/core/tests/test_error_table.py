"""The README's table of errors is the error tree's: every code with its status, and no other."""

import re
from pathlib import Path

from apps.core.errors import error_classes

README = Path(__file__).parents[3] / "README.md"
ROW = re.compile(r"^\| `([A-Z_]+)` \| (\d{3}) \|", re.MULTILINE)


def test_the_readme_lists_every_code_with_its_status_and_no_other() -> None:
    listed = {code: int(status) for code, status in ROW.findall(README.read_text(encoding="utf-8"))}
    assert listed == {kind.code: kind.status for kind in error_classes()}
