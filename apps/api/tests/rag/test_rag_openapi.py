"""The page says of /rag what is true of it: every route, every reference, and a fuzzer finds no other answer."""

import json
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
from apps.tests.support.rag_serving import LEAVE, ingested, serving_documents

EXAMPLES = 15
COLLECTION = "/rag/collections/{name}"
METHODS = {
    "/rag/collections": {"get"},
    COLLECTION: {"get", "delete"},
    f"{COLLECTION}/documents": {"get", "post"},
    f"{COLLECTION}/documents/{{id}}": {"get", "delete"},
    f"{COLLECTION}/documents/{{id}}/passages": {"get"},
    f"{COLLECTION}/documents/{{id}}/text": {"get"},
    f"{COLLECTION}/passages/{{id}}": {"get"},
    f"{COLLECTION}/query": {"post"},
    f"{COLLECTION}/generate": {"post"},
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving_documents(tmp_path_factory.mktemp("data")) as base:
        yield base


@pytest.fixture(scope="module")
def page(url: str) -> dict[str, Any]:
    with httpx2.Client(timeout=90) as client:
        return dict(client.get(f"{url}/openapi.json").json())


def test_every_route_is_on_the_page_and_those_of_shared_collections_in_words(page: dict[str, Any]) -> None:
    wanted = {"/rag/jobs/{id}": {"get"}, **METHODS}
    [tag] = [tag for tag in page["tags"] if tag["name"] == "documents"]
    assert "`/rag/shared`" in tag["description"]
    found = {path: set(operations) for path, operations in page["paths"].items() if path.startswith("/rag")}
    assert found == wanted
    for path in found:
        for operation in page["paths"][path].values():
            assert operation["description"]
            assert {"401", "403", "404", "429", "500", "503"} <= set(operation["responses"])


def test_every_reference_leads_somewhere(page: dict[str, Any]) -> None:
    text = json.dumps(page)
    names = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert names <= set(page["components"]["schemas"])


def test_the_bodies_examples_are_what_the_routes_take(page: dict[str, Any], url: str, http: httpx2.Client) -> None:
    ingested(http, f"{url}/rag/collections/examples", LEAVE)
    for path in ("documents", "query", "generate"):
        [(kind, media)] = [
            (kind, media)
            for kind, media in page["paths"][f"{COLLECTION}/{path}"]["post"]["requestBody"]["content"].items()
            if kind == "application/json"
        ]
        schema = media["schema"]
        if "$ref" in schema:
            schema = page["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        example = media.get("example") or schema["examples"][0]
        jsonschema.validate(example, {**media["schema"], "components": page["components"]})
        answer = http.post(f"{url}/rag/collections/examples/{path}", json=example, headers={"Content-Type": kind})
        assert answer.status_code in (200, 202), answer.text


@pytest.mark.long
def test_a_fuzzer_finds_no_answer_beside_the_page(url: str, tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(HOOKS % {"codes": sorted(kind.code for kind in error_classes())})
    checks = "status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method"
    checks += ",every_error_is_the_envelope,no_server_error_but_the_contracts"
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"]
    command += ["--include-path-regex", "^/rag/(collections|jobs)", "--checks", checks, "--max-examples", str(EXAMPLES)]
    command += ["--phases", "examples,coverage,fuzzing", "--mode", "all", "--seed", "1", "--no-color"]
    command += ["--generation-database", "none"]
    environment = {
        "SCHEMATHESIS_HOOKS": "hooks",
        "PYTHONPATH": str(tmp_path),
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
