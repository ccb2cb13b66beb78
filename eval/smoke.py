"""Runs the cases of eval/cases over HTTP and writes reports/smoke.xml (JUnit) and reports/smoke.html.

    python -m eval.smoke [pytest options, -k for instance]

The server is a process of its own for each file, or the one at BASE_URL. Exit code 0 only where every case that
could run passed and no case file is wrong.
"""

import os
import sys

import pytest

from eval.case_server import ROOT


def main(arguments: list[str]) -> int:
    """Run them; pytest's exit code."""
    os.chdir(ROOT)
    reports = ROOT / "reports"
    folders = [] if any(part.endswith((".yaml", ".yml")) for part in arguments) else ["eval/cases"]
    return pytest.main(
        [
            *folders,
            f"--rootdir={ROOT}",
            "--config-file=pyproject.toml",
            "--verbose",
            "--continue-on-collection-errors",
            "-p",
            "eval.case_plugin",
            "-p",
            "no:cacheprovider",
            f"--junitxml={reports / 'smoke.xml'}",
            "-o",
            "junit_suite_name=smoke",
            "-o",
            "junit_logging=out-err",
            f"--html={reports / 'smoke.html'}",
            "--self-contained-html",
            *arguments,
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
