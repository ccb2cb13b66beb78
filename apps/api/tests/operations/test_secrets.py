"""Marked secrets, sent in every way: not even eight characters of one are in a log, an answer or the database."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from apps.tests.support.keys import ADMIN, bearer, make_dead_keys, make_keys
from apps.tests.support.migrated import create_migrated
from apps.tests.support.postgres_server import PASSWORD, PostgresServer
from apps.tests.support.processes import running
from apps.tests.support.serving import settings

SECRET = "sK3y-9vQm2Xw7Lr5Tz8Bn4Hc6Jd1Fg0PaUeYoIi"


def windows(secret: str) -> Iterator[bytes]:
    return (secret[at : at + 8].encode() for at in range(len(secret) - 7))


def found_in(data: bytes, secrets: list[str]) -> list[bytes]:
    return [part for secret in secrets for part in windows(secret) if part in data]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.long
def test_no_secret_leaves_the_place_where_it_belongs(
    kind: str, tmp_path: Path, http: httpx2.Client, request: pytest.FixtureRequest
) -> None:
    changes = {"SECRET_KEY": SECRET, "LOG_LEVEL": "debug", "DEBUG": "true", "DATA_DIR": str(tmp_path / "data")}
    server: PostgresServer | None = None
    name = f"secrets_{os.urandom(4).hex()}"
    if kind == "postgresql":
        server = request.getfixturevalue("postgres")
        changes["DATABASE_URL"] = create_migrated(server, name)
    configured = settings(secret_key=SECRET, data_dir=tmp_path / "data", database_url=changes.get("DATABASE_URL", ""))
    dead = make_dead_keys(configured)
    good, admin = make_keys(configured, {}, ADMIN)
    secrets = [*dead.values(), good, admin, "ga_" + "Zz9Yy8Xx7Ww6Vv5Uu4Tt3Ss2Rr1Qq0Pp-_Oo1Nn2Mm3", SECRET, PASSWORD]
    answers = b""
    with running(tmp_path, **changes) as service:
        for secret in secrets:
            for headers in (bearer(secret), {"X-API-Key": secret}, {"Authorization": f"Basic {secret}"}):
                for path in ("/v1/models", "/nowhere", "/admin/keys"):
                    answers += _bytes(http.get(service.url + path, headers=headers))
                for path in ("/v1/chat/completions", "/generate", "/admin/keys"):
                    answers += _bytes(http.post(service.url + path, json={"prompt": "hi"}, headers=headers))
        made = http.post(f"{service.url}/admin/keys", json={"name": "made"}, headers=bearer(admin)).json()
        rotated = http.post(f"{service.url}/admin/keys/{made['id']}/rotate", headers=bearer(admin)).json()
        secrets += [made["key"], rotated["key"]]
        for key in (made["key"], rotated["key"]):
            answers += _bytes(http.get(f"{service.url}/v1/models", headers=bearer(key)))
        service.end()
        log = service.log.read_bytes()
    assert b"/admin/keys" in log
    assert found_in(answers, secrets) == []
    assert found_in(log, secrets) == []
    files = {file.name: file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file()}
    if server is not None:
        files["dump"] = server.dump(name).encode()
        assert b"operator" in files["dump"]
    else:
        assert b"operator" in files["genai.db"]
    for where, data in files.items():
        assert found_in(data, secrets) == [], where


def _bytes(answer: httpx2.Response) -> bytes:
    return repr(answer.headers.raw).encode() + answer.content
