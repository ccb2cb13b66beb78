"""The report of `make bench-gateway`: a Markdown page and a plot, from figures that were measured elsewhere."""

import platform
from collections.abc import Sequence
from pathlib import Path

from eval.gateway_contenders import Contender
from eval.gateway_runs import Run

TOKENS = 20
EVENTS = TOKENS + 3  # the role, the tokens, the finish reason, [DONE]
ALWAYS = "ids, routing, breaker, receipt, ledger, metrics"
WHO = {
    "direct": "the mock, asked directly",
    "bare": "bare: Starlette + aiohttp, bytes passed through",
    "usual": "usual: FastAPI + the openai SDK",
    "ours": f"ours as it starts: {ALWAYS}, access log, limits an address",
    "off": f"off: {ALWAYS}",
    "on": f"on: {ALWAYS}, access log, limits an address, keys with limits, cache",
    "then": "then: the other checkout as it starts",
}
CALLS = {"plain": "not cacheable", "miss": "cacheable, never in the cache", "hit": "cacheable, always in the cache"}
COST = """\
How many calls everything on answers for each call of the other, within a round. The others' calls are the ones that
are not cacheable. No setting turns the ledger and metrics off: *off* has them too, and what they cost shows only beside
a *then* that has none."""
COLOURS = {
    "bare": "#8c8c8c",
    "usual": "#d88c3c",
    "then": "#b0a0d0",
    "off": "#9cc4e4",
    "ours": "#4f98cf",
    "on": "#1f5f9f",
}
HIT_MS = 1.0


def write(
    folder: Path, runs: Sequence[Run], running: Sequence[Contender], memory: list[tuple[int, float]], then: str
) -> str:
    """Write bench_gateway.md and .png into ``folder``; the page's text. ``then`` says what the other checkout is."""
    folder.mkdir(exist_ok=True)
    page = "\n".join([*_page(runs, running, memory, then), ""])
    (folder / "bench_gateway.md").write_text(page, encoding="utf-8")
    _plot(folder / "bench_gateway.png", runs)
    return page


def _page(runs: Sequence[Run], running: Sequence[Contender], memory: list[tuple[int, float]], then: str) -> list[str]:
    lines = ["# What the gateway costs", "", f"Python {platform.python_version()}, one worker each, wrk -t1.", ""]
    if then:
        lines += [f"Then: {then}", ""]
    for streamed in (False, True):
        lines += [f"## {'Streamed' if streamed else 'Not streamed'}", ""]
        rate = "events/s" if streamed else "requests/s"
        lines += [f"| | connections | {rate} | of bare | p50 ms | added p50 ms | p99 ms | failed |", "|---" * 8 + "|"]
        lines += [_row(run, runs) for run in runs if run.streamed is streamed]
        lines.append("")
    lines += _cost(runs) + _hits(runs)
    lines += ["## Processes", "", "| | start to first answer, s | RSS after the run, MB |", "|---|---|---|"]
    lines += [f"| {WHO[c.name]} | {c.start:.2f} | {c.rss_mb():.0f} |" for c in running]
    if memory:
        lines += ["", "## Memory of ours over many requests", "", "| requests | RSS, MB |", "|---|---|"]
        lines += [f"| {count:,} | {rss:.1f} |" for count, rss in memory]
    return lines


def _row(run: Run, runs: Sequence[Run]) -> str:
    direct = [
        run.p50 - other.p50
        for other in runs
        if (other.contender, other.streamed, other.connections) == ("direct", run.streamed, run.connections)
    ]
    who = WHO[run.contender] if run.kind == "plain" else f"{run.contender}, {CALLS[run.kind]}"
    figures = (run.connections, f"{_rate(run):,.0f}", _ratio(run, "bare"), f"{run.p50:.2f}")
    rest = (f"{direct[0]:.2f}" if direct else "-", f"{run.p99:.2f}", run.failed)
    return "| " + " | ".join(map(str, (who, *figures, *rest))) + " |"


def _cost(runs: Sequence[Run]) -> list[str]:
    """What everything on is of off, and of then."""
    chosen = [run for run in runs if run.contender == "on"]
    beside = [name for name in ("off", "then") if any(name in run.ratios for run in chosen)]
    if not beside:
        return []
    lines = ["## What keys, limits, ledger, metrics and cache cost", "", COST, ""]
    lines.append("| calls | connections | " + " | ".join(f"on of {name}" for name in beside) + " |")
    lines.append("|---" * (2 + len(beside)) + "|")
    for run in chosen:
        what = f"{CALLS[run.kind]}, {'streamed' if run.streamed else 'whole'}"
        ratios = " | ".join(_ratio(run, name) for name in beside)
        lines.append(f"| {what} | {run.connections} | {ratios} |")
    return [*lines, ""]


def _hits(runs: Sequence[Run]) -> list[str]:
    """Whether a hit at one connection is as fast as it is said to be."""
    hits = [run for run in runs if run.kind == "hit" and run.connections == 1]
    if not hits:
        return []
    lines = ["## A cache hit at one connection", "", f"| | p50 ms | under {HIT_MS:g} ms |", "|---|---|---|"]
    for run in hits:
        told = "yes" if run.p50 < HIT_MS and not run.failed else "no"
        lines.append(f"| {'streamed' if run.streamed else 'whole'} | {run.p50:.3f} | {told} |")
    return [*lines, ""]


def _rate(run: Run) -> float:
    return run.rate * (EVENTS if run.streamed else 1)


def _ratio(run: Run, name: str) -> str:
    return f"{run.ratios[name]:.2f}" if name in run.ratios else "-"


def _plot(path: Path, runs: Sequence[Run]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plain = [run for run in runs if run.kind == "plain"]
    names = [name for name in COLOURS if any(run.contender == name for run in plain)]
    loads = sorted({run.connections for run in plain})
    width = 0.84 / max(len(names), 1)
    figure, axes = plt.subplots(1, 2, figsize=(12, 4))
    for axis, streamed in zip(axes, (False, True), strict=True):
        for at, name in enumerate(names):
            chosen = [run for run in plain if run.contender == name and run.streamed is streamed]
            places = [loads.index(run.connections) + (at - (len(names) - 1) / 2) * width for run in chosen]
            bars = axis.bar(places, [_rate(run) for run in chosen], width, label=name, color=COLOURS[name])
            axis.bar_label(bars, [_ratio(run, "bare") for run in chosen], fontsize=6)
        axis.set_xticks(range(len(loads)), [f"{load} connections" for load in loads])
        axis.set_title("streamed, events/s" if streamed else "not streamed, requests/s")
    if names:
        axes[0].legend(title="figures: of bare")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
