"""Without requirements-local.txt the library starts, does nothing, and names the command that helps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = """
import asyncio, importlib.machinery, json, sys
class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = ("lancedb", "pyarrow", "numpy", "semantic_text_splitter", "kreuzberg", "pypdfium2", "lxml")
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)
sys.meta_path = [Hidden if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
from pathlib import Path
from apps.core.errors import AppError
from apps.core.settings import Settings
from apps.rag.library import Library
from apps.rag.records import Upload
from apps.rag.tests.hashing_embedder import HashingEmbedder
async def run():
    library = Library.from_settings(Settings(data_dir=Path(sys.argv[1])), HashingEmbedder())
    await library.start()
    ready, told = library.readiness(), []
    try:
        await library.submit("ann", "docs", [Upload("a.txt", b"x")])
    except AppError as error:
        told.append(error.envelope()["error"])
    await library.aclose()
    return {"state": ready.state, "reason": ready.reason, "told": told}
print(json.dumps(asyncio.run(run())))
"""


def test_it_is_not_configured_and_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    [error] = result["told"]
    assert (error["code"], error["status"], result["state"]) == ("MODEL_UNAVAILABLE", 503, "not_configured")
    for words in (result["reason"], error["message"]):
        assert "lancedb" in words and "requirements-local.txt" in words
    assert list(tmp_path.iterdir()) == [], "nothing was made for what is not there"


def test_importing_the_library_imports_nothing_heavy() -> None:
    script = (
        "import sys, apps.rag.library; "
        "print([m for m in ('lancedb', 'numpy', 'pyarrow', 'kreuzberg') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.local
def test_the_parsing_process_starts_without_pydantic() -> None:
    """It is started for every hundred files, and after each that ends it."""
    script = "import sys, apps.rag.parsing.worker; print([m for m in ('pydantic', 'kreuzberg') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
