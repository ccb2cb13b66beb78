"""keys create, list, rotate and revoke, as a process, on both databases; and a service that hears of it in time."""

import re
import secrets
import stat
from pathlib import Path

import httpx2
import pytest

from apps.tests.marks import marked
from apps.tests.support.cli import cli, created
from apps.tests.support.keys import bearer
from apps.tests.support.migrated import create_migrated
from apps.tests.support.postgres_server import PostgresServer
from apps.tests.support.processes import run_to_end, running
from apps.tests.support.waiting import until

CI = "keys create --name ci --models local --rpm 60 --budget-usd 5/month --expires 90d"
KEY = re.compile(r"ga_[\w-]{43}")
SECRET = marked("SECRET_KEY")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> dict[str, str]:
    if request.param == "sqlite":
        return {}
    server: PostgresServer = request.getfixturevalue("postgres")
    return {"DATABASE_URL": create_migrated(server, f"cli_{secrets.token_hex(4)}")}


@pytest.mark.long
def test_a_keys_life_on_the_command_line(tmp_path: Path, database: dict[str, str]) -> None:
    key = created(tmp_path, CI, **database)
    assert KEY.fullmatch(key)
    listed = cli(tmp_path, "keys list", **database).stdout.splitlines()
    row = dict(zip(listed[0].split(), listed[1].split(), strict=True))
    assert row | {"id": "", "tenant": "", "expires_at": ""} == {
        "id": "",
        "prefix": f"{key[:7]}...",
        "name": "ci",
        "tenant": "",
        "status": "live",
        "expires_at": "",
        "budget_usd": "5/month",
        "rpm": "60",
        "tpm": "-",
        "models": "local",
        "routes": "*",
    }
    assert row["tenant"] == f"key:{row['id']}"
    rotated = created(tmp_path, "keys rotate ci", **database)
    assert KEY.fullmatch(rotated)
    assert rotated != key
    assert cli(tmp_path, f"keys revoke {row['id']}", **database).returncode == 0
    assert " revoked " in cli(tmp_path, "keys list", **database).stdout
    again = cli(tmp_path, f"keys rotate {row['id']}", **database)
    assert (again.returncode, again.stdout, again.stderr) == (1, "", "No live key has this id\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("keys create --name x --budget-usd 5", "--budget-usd: must look like 5/month or 0.50/day"),
        ("keys create --name x --budget-usd 0/day", "--budget-usd: must be more than 0 and at most 1000000000"),
        ("keys create --name x --expires soon", "--expires: must look like 90d, 12h, 30m or 2027-01-31"),
        ("keys create --name x --expires 2020-01-01", "--expires: must be in the future"),
        ("keys create --name x --ip 10.0.0.0/40", "--ip: must be an address or a network like 10.0.0.0/8"),
        ("keys create --name x --rpm 0", "--rpm: must be between 1 and 1000000000"),
        ("keys create --name x --tenant a/b", "--tenant: must be 1 to 100 letters, digits or any of . _ @ : -"),
        ("keys create --name x --semantic-cache 1.5", "--semantic-cache: must be more than 0 and at most 1"),
        (
            "keys create --name x --ip 10.0.0.1,10.0.0.0/40",
            "--ip: entry 2 must be an address or a network like 10.0.0.0/8",
        ),
        (
            "keys create --name x --tenant shared",
            "--tenant: must not be shared: /rag/shared is for the documents that all tenants may read",
        ),
        ("keys revoke nobody", "No live keys are named so: give the id, as keys list shows it"),
    ],
)
@pytest.mark.long
def test_what_is_wrong_is_one_line(line: str, said: str, tmp_path: Path) -> None:
    done = cli(tmp_path, line)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{said}\n")


@pytest.mark.long
def test_a_database_that_is_not_there_is_one_line_without_its_password(tmp_path: Path) -> None:
    away = {"DATABASE_URL": "postgresql://u:marked-password@127.0.0.1:1/x", "DATABASE_TIMEOUT": "1"}
    done = cli(tmp_path, "keys list", **away)
    assert done.returncode == 1
    assert done.stderr == "The database of DATABASE_URL or DATA_DIR cannot be used\n"


@pytest.mark.long
def test_the_secret_of_development_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    created(tmp_path, CI, SECRET_KEY="")
    file = tmp_path / "data" / "secret_key"
    made = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "data" / "genai.db").stat().st_mode) == 0o600
    assert len(made) >= 32
    created(tmp_path, CI, SECRET_KEY="")
    assert file.read_text() == made
    assert {file.name for file in (tmp_path / "data").iterdir()} >= {"genai.db", "secret_key"}


def status(http: httpx2.Client, url: str, key: str | None = None) -> int:
    return http.get(f"{url}/v1/models", headers=bearer(key) if key else {}).status_code


@pytest.mark.long
def test_a_running_service_learns_of_keys_by_itself(
    tmp_path: Path, database: dict[str, str], http: httpx2.Client
) -> None:
    """Development begins without keys; the first one closes the door, and a revoked one is out."""
    with running(tmp_path, **database) as service:
        assert status(http, service.url) == 200
        assert status(http, service.url, "anything") == 200
        first = created(tmp_path, "keys create --name first", **database)
        assert until(lambda: status(http, service.url) == 401)
        assert status(http, service.url, "anything") == 401
        assert status(http, service.url, first) == 200
        second = created(tmp_path, "keys rotate first", **database)
        assert until(lambda: status(http, service.url, first) == 401)
        assert status(http, service.url, second) == 200
        assert cli(tmp_path, "keys revoke first", **database).returncode == 0
        assert until(lambda: status(http, service.url, second) == 401)
        assert status(http, service.url) == 401
    assert "Traceback" not in service.log.read_text()


@pytest.mark.long
def test_production_does_not_start_without_a_key(tmp_path: Path, http: httpx2.Client) -> None:
    production = {"ENV": "production", "SECRET_KEY": SECRET}
    for kind in ("module", "uvicorn"):
        ended = run_to_end(tmp_path, kind, **production)
        assert ended.returncode != 0
        assert (ended.stdout + ended.stderr).strip() == (
            "ENV=production needs a key: make one with `python -m apps.cli.main keys create --name NAME`,"
            " or set AUTH=off"
        )
    key = created(tmp_path, CI, **production)
    with running(tmp_path, **production) as service:
        assert status(http, service.url) == 401
        assert status(http, service.url, key) == 200
        assert http.get(f"{service.url}/health").status_code == 200


def test_production_starts_without_keys_where_that_is_said(tmp_path: Path, http: httpx2.Client) -> None:
    with running(tmp_path, ENV="production", AUTH="off") as service:
        assert status(http, service.url) == 200
        made = http.post(f"{service.url}/admin/keys", json={"name": "x"})
    assert made.status_code == 403


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"ENV": "production", "SECRET_KEY": ""},
            "Wrong setting SECRET_KEY: must be set to 32 or more random characters",
        ),
        ({"ENV": "production", "SECRET_KEY": "short-secret"}, "Wrong setting SECRET_KEY: must have at least 32"),
        ({"SECRET_KEY": "short-secret"}, "Wrong setting SECRET_KEY: must have at least 32 characters"),
        ({"AUTH": "perhaps"}, "Wrong setting AUTH: "),
        ({"DATABASE_URL": "mysql://u:short-secret@host/x"}, "Wrong setting DATABASE_URL: must look like postgresql://"),
        ({"DATA_DIR": "/etc/hostname/data"}, "Wrong setting DATA_DIR: must be a folder that can be written to"),
        ({"OIDC_ISSUER": "https://issuer.example"}, "Wrong setting OIDC_AUDIENCE: must be set where OIDC_ISSUER is"),
        ({"OIDC_ALGORITHMS": "RS256,HS256"}, "Wrong setting OIDC_ALGORITHMS: must be some of ES256,"),
        ({"OIDC_ALGORITHMS": "none"}, "Wrong setting OIDC_ALGORITHMS: must be some of ES256,"),
        (
            {"ENV": "production", "SECRET_KEY": SECRET, "OIDC_ISSUER": "http://issuer.example", "OIDC_AUDIENCE": "a"},
            "Wrong setting OIDC_ISSUER: must start with https:// where ENV=production",
        ),
    ],
)
@pytest.mark.long
def test_a_wrong_setting_is_one_line_and_its_value_is_not_in_it(
    changes: dict[str, str], said: str, tmp_path: Path
) -> None:
    ended = run_to_end(tmp_path, **changes)
    lines = (ended.stdout + ended.stderr).strip().splitlines()
    assert ended.returncode != 0
    assert len(lines) == 1, lines
    assert lines[0].startswith(said)
    assert "short-secret" not in lines[0]
