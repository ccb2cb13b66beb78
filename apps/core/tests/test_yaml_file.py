"""YAML is imported where a file of it is read, by nothing that every start imports; what is wrong is one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from apps.core.config_file import read_config

ROOT = Path(__file__).parents[3]


def test_the_app_is_imported_without_yaml_as_long_as_no_file_is_read() -> None:
    """The files' own tests pin what is read and what is told; this one what it costs those who have none."""
    code = "import sys, apps.api.src.wiring.services; sys.exit('apps.core.yaml_file' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("text", ["x: 2026-99-99", "x: !!int foo", "x: !!bool foo", "x: !!timestamp foo"])
def test_a_value_that_cannot_be_read_is_told_in_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(LookupError, match=r"wrong\.yaml: a value is not what it looks like"):
        read_config(file, LookupError)
