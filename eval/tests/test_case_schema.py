"""Case files: a mistake is named with its place; the files that ship are right and cover the contract."""

from pathlib import Path

import pytest

from apps.core.errors import error_classes
from eval.case_schema import Case, CaseFileError, Repeated, Request, load

CASES = Path(__file__).parent.parent / "cases"
GOOD = "cases: [{name: one, request: {path: /health}, expect: {status: 200}}]"


def shipped() -> list[Case]:
    return [case for path in sorted(CASES.glob("*.yaml")) for case in load(path).cases]


def write(folder: Path, text: str) -> Path:
    path = folder / "some.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("cases: [", "not YAML"),
        ("", "some.yaml: the file"),
        ("cases: []", "cases"),
        (GOOD.replace("status: 200", "status: '200'"), r"case 'one': expect.status"),
        (GOOD.replace("path:", "paths:"), r"case 'one': request.path"),
        (GOOD.replace("status: 200", "status: 404"), "needs an error"),
        (GOOD.replace("status: 200", "status: 200, latency: quick"), r"expect.latency"),
        (GOOD.replace("status: 200", "status: 200, body: {regex: '('}"), "no regular expression"),
        (GOOD.replace("status: 200", "status: 200, schema: {type: 7}"), "no JSON schema"),
        (GOOD.replace("path: /health", "path: /health, text: a, blanks: 3"), "at most one of"),
        (GOOD.replace("path: /health", "path: /health, prompt: {text: a, times: 2}"), "prompt goes into json"),
        ("needs: [gpu]\n" + GOOD, r"needs.0"),
        (GOOD.replace("]", ", {name: one, request: {path: /}, expect: {status: 200}}]"), "two cases"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_place(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(CaseFileError, match=named) as raised:
        load(write(tmp_path, text))
    assert "some.yaml" in str(raised.value)


def test_a_body_is_made_of_what_the_case_gives() -> None:
    long = Request(path="/", json={"a": 1}, prompt=Repeated(text="\u00e9", times=2))
    assert long.content() == '{"a": 1, "prompt": "\u00e9\u00e9"}'.encode()
    assert Request(path="/", text="").content() == b""
    assert Request(path="/", blanks=3).content() == b"   "
    assert Request(path="/", base64="/w==").content() == b"\xff"
    assert Request(path="/", json=[]).content() == b"[]"
    assert Request(path="/").content() is None


def test_at_least_forty_cases_ship() -> None:
    assert len(shipped()) >= 40


def test_every_error_code_has_a_case() -> None:
    expected = {case.expect.error.code for case in shipped() if case.expect.error}
    # a client of HTTP cannot send what these answer, nor fill a disk: the server's own tests do
    beneath = {"BAD_REQUEST", "HEADERS_TOO_LARGE", "REQUEST_TIMEOUT", "INSUFFICIENT_STORAGE"}
    assert expected >= {cls.code for cls in error_classes()} - beneath


def test_every_endpoint_of_the_contract_has_a_case_that_succeeds() -> None:
    paths = {case.request.path for case in shipped() if case.expect.status == 200}
    streamed = {f"{route}?stream=true" for route in ("/generate", "/local/generate")}
    pages = {"/health", "/healthz", "/ready", "/docs", "/redoc", "/openapi.json", "/generate", "/local/generate"}
    assert paths >= streamed | pages
