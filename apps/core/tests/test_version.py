"""The version that every answer tells is the one that the package has."""

import tomllib
from pathlib import Path

from apps.core.process import NAME, VERSION


def test_name_and_version_are_those_of_the_project_file() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert (project["name"], project["version"]) == (NAME, VERSION)
