"""The gateway's bench, as far as it is arithmetic and text: medians, ratios, the page, and a missing wrk."""

import os
import subprocess
import sys
from pathlib import Path

from eval import gateway_report
from eval.bench_gateway import Run, medians
from eval.gateway_contenders import Contender


def run(contender: str, rate: float, ratio: float = 1.0, streamed: bool = False, failed: int = 0) -> Run:
    return Run(contender, streamed, 16, rate, p50=1.0, p99=2.0, failed=failed, ratio=ratio)


def test_medians_are_taken_by_contender_and_load_and_failures_summed() -> None:
    runs = [run("ours", rate, rate / 10, failed=1) for rate in (1, 2, 9)]
    made = medians([*runs, run("bare", 5), run("ours", 7, streamed=True)])
    assert made == [run("ours", 2, 0.2, failed=3), run("bare", 5), run("ours", 7, streamed=True)]


def test_the_page_and_the_plot_are_written(tmp_path: Path) -> None:
    names = ("direct", "bare", "ours", "usual")
    runs = [run(name, 100, 0.5, streamed) for name in names for streamed in (False, True)]
    running = [Contender(name, "http://127.0.0.1:1", os.getpid(), 0.5) for name in names]
    page = gateway_report.write(tmp_path / "reports", runs, running, [(0, 50.0), (1000, 51.0)], events=23)
    assert (tmp_path / "reports" / "bench_gateway.md").read_text(encoding="utf-8") == page
    assert (tmp_path / "reports" / "bench_gateway.png").read_bytes().startswith(b"\x89PNG")
    assert "| 16 | 2,300 | 0.50 |" in page
    assert "| 1,000 | 51.0 |" in page


def test_without_wrk_it_says_how_to_get_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "eval.bench_gateway"],
        env={**os.environ, "PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "apt-get install wrk" in done.stderr
