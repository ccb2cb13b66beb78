"""YAML is imported where a file of it is read, and by nothing that every start imports."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_app_is_imported_without_yaml_as_long_as_no_file_is_read() -> None:
    """The files' own tests pin what is read and what is told; this one what it costs those who have none."""
    code = "import sys, apps.api.src.wiring; sys.exit('apps.core.yaml_file' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
