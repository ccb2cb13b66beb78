"""Importing the app stays cheap: what is heavy is imported by what needs it, when it does.

Timed, it was 1.2 to 1.4 x ``import fastapi``; a test of time would only measure the machine.
"""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = [
    "openai",
    "httpx",
    "httpx2",
    "aiohttp",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "redis",
    "cashews",
    "uvicorn",
    "uvloop",
    "prometheus_client",
    "structlog",
    "opentelemetry.sdk",
    "opentelemetry.exporter",
    "google.protobuf",
    "pydantic_ai",
    "mcp",
    "jsonschema",
    "yaml",
    "sqlalchemy",
    "alembic",
    "aiosqlite",
    "asyncpg",
    "jwt",
    "cryptography",
]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    root = Path(__file__).parents[4]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); import apps.api.src.main; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path_factory.mktemp("empty"),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize("package", HEAVY)
def test_the_import_leaves_heavy_packages_alone(package: str, imported: set[str]) -> None:
    assert package not in imported


def test_the_import_is_of_the_app(imported: set[str]) -> None:
    assert {"fastapi", "slowapi", "apps.api.src.application"} <= imported
