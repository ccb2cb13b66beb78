"""The report of `make bench-gateway`: a Markdown page and a plot, from figures that were measured elsewhere."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval.gateway_contenders import Contender

if TYPE_CHECKING:
    from eval.bench_gateway import Run

WHO = {
    "direct": "the mock, asked directly",
    "bare": "bare: Starlette + aiohttp, bytes passed through",
    "ours": "ours: limits, ids, access log, routing, breaker, receipt, ledger, metrics",
    "usual": "usual: FastAPI + the openai SDK",
}
COLOURS = {"bare": "#8c8c8c", "ours": "#1f77b4", "usual": "#d88c3c"}


def write(
    folder: Path, runs: "Sequence[Run]", running: Sequence[Contender], memory: list[tuple[int, float]], events: int
) -> str:
    """Write bench_gateway.md and .png into ``folder``; the page's text."""
    folder.mkdir(exist_ok=True)
    page = "\n".join([*_page(runs, running, memory, events), ""])
    (folder / "bench_gateway.md").write_text(page, encoding="utf-8")
    _plot(folder / "bench_gateway.png", runs, events)
    return page


def _page(
    runs: "Sequence[Run]", running: Sequence[Contender], memory: list[tuple[int, float]], events: int
) -> list[str]:
    lines = ["# What the gateway costs", "", f"Python {platform.python_version()}, one worker each, wrk -t1.", ""]
    for streamed in (False, True):
        lines += [f"## {'Streamed' if streamed else 'Not streamed'}", ""]
        rate = "events/s" if streamed else "requests/s"
        lines += [f"| | connections | {rate} | of bare | p50 ms | added p50 ms | p99 ms | failed |", "|---" * 8 + "|"]
        lines += [_row(run, runs, events if streamed else 1) for run in runs if run.streamed is streamed]
        lines.append("")
    lines += ["## Processes", "", "| | start to first answer, s | RSS after the run, MB |", "|---|---|---|"]
    lines += [f"| {WHO[c.name]} | {c.start:.2f} | {c.rss_mb():.0f} |" for c in running]
    if memory:
        lines += ["", "## Memory of ours over many requests", "", "| requests | RSS, MB |", "|---|---|"]
        lines += [f"| {count:,} | {rss:.1f} |" for count, rss in memory]
    return lines


def _row(run: "Run", runs: "Sequence[Run]", events: int) -> str:
    direct = next(
        other.p50
        for other in runs
        if (other.contender, other.streamed, other.connections) == ("direct", run.streamed, run.connections)
    )
    figures = (run.connections, f"{run.rate * events:,.0f}", f"{run.ratio:.2f}", f"{run.p50:.2f}")
    rest = (f"{run.p50 - direct:.2f}", f"{run.p99:.2f}", run.failed)
    return "| " + " | ".join(map(str, (WHO[run.contender], *figures, *rest))) + " |"


def _plot(path: Path, runs: "Sequence[Run]", events: int) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for axis, streamed in zip(axes, (False, True), strict=True):
        for at, (name, colour) in enumerate(COLOURS.items()):
            chosen = [run for run in runs if run.contender == name and run.streamed is streamed]
            places = [place + (at - 1) * 0.27 for place in range(len(chosen))]
            heights = [run.rate * (events if streamed else 1) for run in chosen]
            bars = axis.bar(places, heights, 0.25, label=name, color=colour)
            axis.bar_label(bars, [f"{run.ratio:.2f}" for run in chosen], fontsize=8)
        axis.set_xticks(range(len(chosen)), [f"{run.connections} connections" for run in chosen])
        axis.set_title("streamed, events/s" if streamed else "not streamed, requests/s")
    axes[0].legend(title="figures: of bare")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
