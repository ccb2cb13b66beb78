"""The gateway's bench, as far as it is arithmetic and text: medians, ratios, the page, and wrong arguments."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from eval import gateway_report
from eval.gateway_calls import Kind
from eval.gateway_contenders import NAMES, Contender, without_settings
from eval.gateway_runs import Run, medians, with_ratios
from eval.gateway_wrk import check_cache


def run(
    contender: str,
    rate: float = 100,
    ratios: Mapping[str, float] | None = None,
    kind: Kind = "plain",
    streamed: bool = False,
    connections: int = 16,
    p50: float = 1.0,
    failed: int = 0,
) -> Run:
    return Run(contender, kind, streamed, connections, rate, p50, p99=2.0, failed=failed, ratios=ratios or {})


def page(folder: Path, runs: list[Run], memory: list[tuple[int, float]] | None = None, then: str = "") -> str:
    running = [Contender(name, "http://127.0.0.1:1", os.getpid(), 0.5) for name in {run.contender for run in runs}]
    return gateway_report.write(folder / "reports", runs, running, memory or [], then)


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eval.bench_gateway", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_medians_are_taken_by_contender_kind_and_load_and_failures_summed() -> None:
    runs = [run("on", rate, {"bare": rate / 10, "off": 10 - rate}, failed=1) for rate in (1, 2, 9)]
    others = [run("bare", 5), run("on", 7, streamed=True), run("on", 8, kind="hit"), run("on", 6, connections=1)]
    assert medians([*runs, *others]) == [run("on", 2, {"bare": 0.2, "off": 8}, failed=3), *others]


def test_ratios_of_all_kinds_are_to_the_calls_of_the_round_that_no_cache_may_keep() -> None:
    lots: list[tuple[str, Kind, float]] = [
        ("on", "hit", 300),
        ("off", "plain", 200),
        ("bare", "plain", 400),
        ("on", "plain", 100),
    ]
    made = with_ratios([run(name, rate, kind=kind) for name, kind, rate in lots])
    assert [dict(one.ratios) for one in made] == [
        {"bare": 0.75, "off": 1.5},
        {"bare": 0.5, "off": 1},
        {"bare": 1, "off": 2},
        {"bare": 0.25, "off": 0.5},
    ]


def test_the_page_and_the_plot_are_written(tmp_path: Path) -> None:
    runs = [run(name, 100, {"bare": 0.5}, streamed=streamed) for name in NAMES for streamed in (False, True)]
    text = page(tmp_path, runs, memory=[(0, 50.0), (1000, 51.0)])
    assert (tmp_path / "reports" / "bench_gateway.md").read_text(encoding="utf-8") == text
    assert (tmp_path / "reports" / "bench_gateway.png").read_bytes().startswith(b"\x89PNG")
    assert "| 16 | 2,300 | 0.50 | 1.00 | 0.00 | 2.00 | 0 |" in text
    assert "| 1,000 | 51.0 |" in text


def test_the_page_tells_what_everything_on_is_of_off_and_of_then(tmp_path: Path) -> None:
    beside = {"off": 0.8, "then": 0.7}
    runs = [run("off"), run("then"), run("on", ratios=beside), run("on", ratios={**beside, "off": 2.5}, kind="hit")]
    text = page(tmp_path, runs, then="abc1234 An earlier commit")
    assert "| calls | connections | on of off | on of then |" in text
    assert "| not cacheable, whole | 16 | 0.80 | 0.70 |" in text
    assert "| cacheable, always in the cache, whole | 16 | 2.50 | 0.70 |" in text
    assert "Then: abc1234 An earlier commit" in text


def test_the_page_leaves_out_what_was_not_run(tmp_path: Path) -> None:
    text = page(tmp_path, [run("on", ratios={"off": 0.8}), run("off", ratios={"off": 1})])
    assert "| calls | connections | on of off |\n" in text
    assert "| 16 | 100 | - | 1.00 | - | 2.00 | 0 |" in text
    assert "hen:" not in text and "A cache hit" not in text
    assert "of off" not in page(tmp_path, [run("bare"), run("on", ratios={"bare": 0.4})])


def test_the_page_says_whether_a_hit_at_one_connection_takes_less_than_a_millisecond(tmp_path: Path) -> None:
    whole = run("on", kind="hit", connections=1, p50=0.9994)
    slow = run("on", kind="hit", connections=1, p50=1.0, streamed=True)
    crowd = run("on", kind="hit", connections=16, p50=7.0)
    text = page(tmp_path, [whole, slow, crowd])
    assert "| whole | 0.999 | yes |" in text and "| streamed | 1.000 | no |" in text
    failing = run("on", kind="hit", connections=1, p50=0.1, failed=1)
    assert "| whole | 0.100 | no |" in page(tmp_path, [failing])


@pytest.mark.parametrize(("kind", "upstream"), [("hit", 11), ("miss", 989), ("plain", 0)])
def test_calls_that_were_not_what_they_are_said_to_be_end_the_run(kind: Kind, upstream: int) -> None:
    with pytest.raises(RuntimeError, match=f"on, {kind}: {upstream} of 1000"):
        check_cache("on", kind, answered=1000, upstream=upstream)


@pytest.mark.parametrize(("kind", "upstream"), [("hit", 10), ("miss", 990), ("plain", 1016)])
def test_calls_that_an_earlier_run_left_do_not_end_the_run(kind: Kind, upstream: int) -> None:
    check_cache("on", kind, answered=1000, upstream=upstream)


def test_settings_of_the_shell_reach_no_contender() -> None:
    assert without_settings({"AUTH": "off", "database_url": "x", "PATH": "/bin"}) == {"PATH": "/bin"}


def test_without_wrk_it_says_how_to_get_it() -> None:
    done = bench(PATH="/nonexistent")
    assert done.returncode == 1
    assert "apt-get install wrk" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--contenders", "bare,nobody"), "nobody: not among direct, bare"),
        (("--against", "eval"), "eval: no checkout of this repository"),
        (("--seconds", "0.5"), "invalid int value"),
        (("--contenders", "bare", "--soak", "10"), "--soak is for"),
    ],
)
def test_wrong_arguments_are_told_before_anything_starts(arguments: tuple[str, ...], told: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert told in done.stderr
