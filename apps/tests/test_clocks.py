"""No test decides by the clock: the files of tests and of their support that read one, each with what for."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLOCKS = {f"{name}{suffix}" for name in ("time", "monotonic", "perf_counter", "thread_time") for suffix in ("", "_ns")}
CLOCKS |= {"process_time", "process_time_ns", "clock_gettime", "elapsed"}
DATES = "writes dates for the service, or compares dates that it wrote with those before and after"
DEADLINES = "gives deadlines by the event loop's clock"
FAST = "has an event loop whose clock it sets"
READERS = {
    "apps/api/tests/limits/test_limit_headers.py": DATES,
    "apps/api/tests/limits/test_limits.py": DATES,
    "apps/api/tests/limits/test_shared_counts.py": DATES,
    "apps/api/tests/operations/test_accounts.py": DATES,
    "apps/api/tests/operations/test_ledger_processes.py": DATES,
    "apps/api/tests/operations/test_usage_routes.py": DATES,
    "apps/local/tests/test_packaged.py": DATES,
    "apps/local/tests/test_packed_cache.py": DATES,
    "apps/operations/tests/test_agent_runs.py": DATES,
    "apps/operations/tests/test_bearer_tokens.py": DATES,
    "apps/operations/tests/test_budgets.py": DATES,
    "apps/operations/tests/test_full_disk.py": DATES,
    "apps/operations/tests/test_group_commit.py": DATES,
    "apps/operations/tests/test_key_ring.py": DATES,
    "apps/operations/tests/test_retention.py": DATES,
    "apps/api/tests/observability/test_loop_stalls.py": "keeps the event loop busy, which is to be noticed",
    "apps/cache/tests/test_wording.py": "compares its thread's own CPU time for a text with that for an eighth of it",
    "apps/api/tests/generate/test_answers.py": FAST,
    "apps/api/tests/http/test_stream_writing.py": FAST,
    "apps/api/tests/http/test_stalled_readers.py": "gives a connection times after its beginning, by its loop's clock",
    "apps/api/tests/v1/test_v1_background.py": DEADLINES,
    "apps/gateway/tests/test_attempts.py": DEADLINES,
    "apps/models/tests/test_recording.py": DEADLINES,
    "apps/tests/support/oidc_issuer.py": DATES,
    "apps/tests/support/waiting.py": "ends what hangs",
    "apps/tests/watch.py": "says at the end how long the search for secrets took",
    "apps/transport/tests/test_client.py": FAST,
    "apps/transport/tests/test_parsing.py": DEADLINES,
    "apps/transport/tests/test_patience.py": DEADLINES,
}


def clocks(file: Path) -> Iterator[str]:
    """Where a file reads a clock, by its lines: the machine's, a client's of an answer, or an event loop's."""
    text = file.read_text(encoding="utf-8")
    if not any(word in text for word in ("import time", "from time", ".elapsed", ".time()")):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and _is_of_a_loop(node.func):
            yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Attribute) and node.attr in CLOCKS:
            of_a_module = isinstance(node.value, ast.Name) and node.value.id == "time"
            if of_a_module or node.attr == "elapsed":
                yield f"{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (f"{node.lineno}: {alias.name}" for alias in node.names if alias.name in CLOCKS)


def _is_of_a_loop(called: ast.expr) -> bool:
    if not isinstance(called, ast.Attribute) or called.attr != "time":
        return False
    return not (isinstance(called.value, ast.Name) and called.value.id == "time")


def test_no_test_file_reads_a_clock_without_a_reason() -> None:
    parts = [ROOT / part for part in ("apps", "eval", "infra")]
    files = {file for part in parts for name in ("test_*.py", "conftest.py") for file in part.rglob(name)}
    files |= set((ROOT / "apps" / "tests").rglob("*.py"))
    assert len(files) > 300
    found = {str(file.relative_to(ROOT)): list(clocks(file)) for file in files}
    assert {file: lines for file, lines in found.items() if lines and file not in READERS} == {}
    assert [file for file in READERS if not found.get(file)] == []


def test_a_clock_is_found(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text("import time\nfrom time import monotonic\nbegan = time.perf_counter()\ntime.sleep(1)\n")
    assert list(clocks(file)) == ["2: monotonic", "3: time.perf_counter"]
    file.write_text("import asyncio\nends = asyncio.get_running_loop().time() + 1\n")
    assert list(clocks(file)) == ["2: asyncio.get_running_loop().time()"]
