"""The page that describes the API is true: limits and errors are on it, and a fuzzer finds no answer beside it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import pytest

from apps.core.errors import error_classes
from apps.tests.support.fuzzing import HOOKS
from apps.tests.support.openapi_page import with_whole_responses
from apps.tests.support.serving import serving_models

EXAMPLES = 100
SEEDS_ROUTES = {"/health": "get", "/healthz": "get", "/ready": "get", "/generate": "post", "/local/generate": "post"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving_models() as base:
        yield base


@pytest.fixture(scope="module")
def page(url: str) -> dict[str, Any]:
    with httpx2.Client(timeout=90) as client:
        return with_whole_responses(client.get(f"{url}/openapi.json").json())


@pytest.mark.long
def test_a_fuzzer_finds_no_answer_beside_the_page(url: str, tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(HOOKS % {"codes": sorted(kind.code for kind in error_classes())})
    checks = ["status_code_conformance", "content_type_conformance", "response_schema_conformance"]
    checks += ["response_headers_conformance", "unsupported_method"]
    checks += ["every_error_is_the_envelope", "no_server_error_but_the_contracts"]
    include = [option for path in SEEDS_ROUTES for option in ("--include-path", path)]
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", *include]
    command += ["--checks", ",".join(checks), "--max-examples", str(EXAMPLES), "--seed", "1", "--mode", "all"]
    command += ["--phases", "examples,coverage,fuzzing", "--no-color", "--generation-database", "none"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={
            "SCHEMATHESIS_HOOKS": "hooks",
            "PYTHONPATH": str(tmp_path),
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated
    # the three routes without a body have nothing to vary
    assert int(generated[1]) >= 2 * EXAMPLES


@pytest.mark.parametrize("path", SEEDS_ROUTES)
def test_every_route_of_the_seed_is_on_the_page(path: str, page: dict[str, Any]) -> None:
    operation = page["paths"][path][SEEDS_ROUTES[path]]
    assert operation["description"]
    assert "200" in operation["responses"]


@pytest.mark.parametrize(("name", "most"), [("GenerateRequest", 16384), ("LocalGenerateRequest", 2000)])
def test_every_field_is_there_with_its_limits_and_its_default(name: str, most: int, page: dict[str, Any]) -> None:
    schema = page["components"]["schemas"][name]
    fields = schema["properties"]
    assert schema["required"] == ["prompt"]
    assert set(fields) == {"prompt", "temperature", "top_p", "max_tokens", "model"}
    assert all(field["description"] for field in fields.values())
    prompt, temperature, top_p, max_tokens = (fields[n] for n in ("prompt", "temperature", "top_p", "max_tokens"))
    assert (prompt["minLength"], prompt["maxLength"]) == (1, 1000)
    assert (temperature["minimum"], temperature["maximum"], temperature["default"]) == (0, 2, 0.0)
    assert (top_p["minimum"], top_p["maximum"], top_p["default"]) == (0, 1, 0.9)
    assert (max_tokens["minimum"], max_tokens["maximum"], max_tokens["default"]) == (1, most, 500)
    assert max_tokens["type"] == "integer"


def examples(page: dict[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """Path, status, schema and value of each example of an error."""
    for path in SEEDS_ROUTES:
        for status, response in page["paths"][path][SEEDS_ROUTES[path]]["responses"].items():
            media = response["content"]["application/json"]
            for example in media.get("examples", {}).values():
                yield path, status, media["schema"], example["value"]


def test_every_code_has_an_example_that_its_schema_accepts(page: dict[str, Any]) -> None:
    seen: dict[str, set[str]] = {}
    for path, status, schema, value in examples(page):
        jsonschema.validate(value, {**schema, "components": page["components"]})
        assert value["error"]["status"] == int(status)
        seen.setdefault(path, set()).add(value["error"]["code"])
    assert set().union(*seen.values()) == {kind.code for kind in error_classes()} - {
        "CONFLICT",
        "INSUFFICIENT_STORAGE",
    }  # of /v1 and of uploads alone
    for path in SEEDS_ROUTES:
        assert {"INTERNAL_ERROR", "METHOD_NOT_ALLOWED"} <= seen[path]


def test_the_envelopes_schema_wants_all_five_keys(page: dict[str, Any]) -> None:
    schemas = page["components"]["schemas"]
    assert schemas["ErrorEnvelope"]["required"] == ["error"]
    assert schemas["ErrorBody"]["required"] == ["code", "message", "status", "field", "details"]


def test_the_page_is_valid_json_that_names_no_secret(page: dict[str, Any]) -> None:
    # OpenAI's code of a wrong key is no secret
    text = json.dumps(page).lower().replace("invalid_api_key", "")
    assert "api_key" not in text
    assert "api.openai.com" not in text
