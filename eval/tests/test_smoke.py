"""The command behind `make smoke`, run for real; the mock upstream stands in for a server at BASE_URL."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from eval.case_server import ROOT
from eval.mock_upstream import mock_upstream

PASSES = "cases: [{name: it passes, request: {path: /stats}, expect: {status: 200, json: {/requests: 0}}}]"
FAILS = "cases: [{name: it fails, request: {path: /stats}, expect: {status: 201}}]"
HOSTILE = """
cases:
  - name: the answer is hostile
    request:
      method: POST
      path: /v1/chat/completions
      json: {model: echo, messages: [{role: user, content: "<script>alert(1)</script>\\u0007 ]]>"}]}
    expect: {status: 404, error: {code: NOT_FOUND}}
"""


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with mock_upstream() as mock:
        yield mock.base_url.removesuffix("/v1")


def smoke(folder: Path, base_url: str, **files: str) -> subprocess.CompletedProcess[str]:
    paths = [folder / f"{name}.yaml" for name in files]
    for path, text in zip(paths, files.values(), strict=True):
        path.write_text(text)
    reports = [f"--junitxml={folder / 'smoke.xml'}", f"--html={folder / 'smoke.html'}"]
    command = [sys.executable, "-m", "eval.smoke", *map(str, paths), *reports]
    environment = {**os.environ, "BASE_URL": base_url}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_passing_cases_end_in_0_and_are_in_both_reports(tmp_path: Path, base_url: str) -> None:
    done = smoke(tmp_path, base_url, good=PASSES)
    assert done.returncode == 0, done.stdout
    suite = ElementTree.parse(tmp_path / "smoke.xml").getroot()[0]  # noqa: S314 - our own file
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "0", "0")
    assert "it passes" in (tmp_path / "smoke.html").read_text()


@pytest.mark.long
def test_a_failing_case_ends_in_1_and_says_what_was_wrong(tmp_path: Path, base_url: str) -> None:
    done = smoke(tmp_path, base_url, good=PASSES, bad=FAILS)
    assert done.returncode == 1
    assert "status is 200, not 201" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


@pytest.mark.long
def test_a_wrong_case_file_fails_the_run_and_the_others_still_run(tmp_path: Path, base_url: str) -> None:
    done = smoke(tmp_path, base_url, good=PASSES, wrong="cases: {}")
    assert done.returncode != 0
    assert "wrong.yaml: cases: Input should be a valid list" in done.stdout
    assert "1 passed, 1 error" in done.stdout


@pytest.mark.long
def test_what_a_model_says_is_escaped_in_the_reports(tmp_path: Path, base_url: str) -> None:
    smoke(tmp_path, base_url, hostile=HOSTILE)
    page = (tmp_path / "smoke.html").read_text()
    assert "alert(1)" in page
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" not in page  # escaped twice: once for the attribute, once for the page
    assert "&amp;lt;script&amp;gt;alert(1)" in page
    ElementTree.parse(tmp_path / "smoke.xml")  # noqa: S314 - our own file


@pytest.mark.long
def test_a_case_that_base_url_cannot_serve_is_skipped_with_the_reason(tmp_path: Path, base_url: str) -> None:
    done = smoke(tmp_path, base_url, own="server: {DEBUG: 'false'}\n" + PASSES, needs="needs: [mock]\n" + PASSES)
    assert done.returncode == 0
    assert "settings of its own" in done.stdout
    assert "needs the mock upstream" in done.stdout
